# Every target does its own set-up. Without a network everything still works once `make venv` has run.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TESTS  ?= tests
ARGS   ?=
PYTEST  = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 15 --durations-min 5
# Most tests wait for processes more than half of their time: three at a time keep a core busy. More than 16 only wait
# for the longest.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 6 ? 3 * n : 16)))

# Python keeps what it compiled, also where a container asks it not to: hundreds of daemons start in the tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv tools demo run test test-faults torture-cluster test-mutants check format bench bench-peers soak deb clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## an environment in .venv with Stoker (editable) and its development tools

# uv resolves in seconds what takes pip a minute; where uv cannot reach the index as pip is set up to, pip does it.
$(READY): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Stoker needs Python 3.11 or newer: make PYTHON=python3.12 venv")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' \
	  || $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

tools: ## what a few tests use from Debian: socat, systemd-analyze, a C compiler (installed when root, else named)
	@.ci/tools

demo: $(READY) ## watch a small batch: priorities, a retry, a time limit, a live log, a clean stop (half a minute)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash demo/demo.sh

run: $(READY) ## the daemon in the foreground, state and socket in .local/ (ends with Ctrl-C)
	@mkdir -p .local
	@[ ! -t 1 ] || echo 'in another terminal: export PATH=$(CURDIR)/$(BIN):$$PATH STOKER_SOCKET=$(CURDIR)/.local/stoker.sock STOKER_STATE_DIR=$(CURDIR)/.local/state'
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec $(BIN)/stokerd --state-dir .local/state --socket .local/stoker.sock $(ARGS)

test: $(READY) tools ## every test, first tests/core, which must cover core; TESTS=tests/rpc for some, ARGS='-k name'
ifeq ($(TESTS),tests)
	@echo 'every test takes 15 minutes on two quiet cores, on slow ones 30; the slowest are listed at the end'
	$(PYTEST) --cov --cov-report= tests/core $(ARGS)
	$(BIN)/coverage report --fail-under=100 --skip-covered
	$(PYTEST) tests --ignore tests/core $(ARGS)
else
	$(PYTEST) $(TESTS) $(ARGS)
endif

test-faults: $(READY) tools ## every torture at length, from a new seed, which is printed (STOKER_SEED=... replays it; N=1000 for more)
	STOKER_FAULTS=$${N:-300} $(BIN)/python -m pytest tests/faults tests/simulation tests/spawner tests/run_as tests/launcher/test_fuzz.py -s --timeout 7200 $(ARGS)

torture-cluster: $(READY) tools ## 1 000 jobs and a C build on a real Slurm while it and the daemon are killed, some minutes (STOKER_SEED=... replays; N=100 for fewer)
	STOKER_CLUSTER_JOBS=$${N:-1000} $(BIN)/python -m pytest tests/faults/test_cluster_torture.py tests/faults/test_cluster_build.py -s --timeout 14400 $(ARGS)

test-mutants: $(READY) tools ## break the code one line at a time: a test must notice each (ARGS='--only NAME' or '--list')
	$(BIN)/python -m tests.mutants.run $(ARGS)

check: $(READY) ## format, lint, types and import rules, without running anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## the numbers of docs/numbers.md, as ratios in one run; ARGS='--quick' or '--only throughput'
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(READY) ## Stoker beside beanstalkd, task-spooler and Huey, which it fetches into .venv; ARGS=--quick for a few jobs
	@.ci/peers
	$(BIN)/python -m benchmarks --only peers $(ARGS)

soak: $(READY) ## a million short jobs: the daemon ends as large as it began; ARGS=--quick for a few
	$(BIN)/python -m benchmarks --only soak $(ARGS)

deb: $(READY) ## a Debian package in dist/, for the Python of this system: apt install ./dist/stoker_*.deb
	@$(BIN)/python deb/build.py

clean: ## remove what was built here, except .local/, which may hold your jobs
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
