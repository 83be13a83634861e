"""`stoker workflow import --from github`: jobs, matrices, conditions and scripts of a workflow file.

Owns a file as such files are; the scripts that are made of it are run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.imports.actions import read_actions
from stoker.cli.imports.actions_expression import NotMapped, condition, parsed
from stoker.cli.imports.flow_text import flow_text
from stoker.core.errors import ParseError
from tests.cli.imports.conftest import Imported

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Import = Callable[..., Imported]

CI = """name: CI tests
on:
  push:
    branches: [main]
  schedule:
    - cron: "0 3 * * *"
  workflow_dispatch:
    inputs:
      level: { default: debug, type: string }
env:
  COLOR: always
jobs:
  lint:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - name: Lint it
        run: |
          echo '${{ inputs.level }}' "$COLOR" {{x}}
          echo "files=3" >> "$GITHUB_OUTPUT"
    outputs:
      files: ${{ steps.lint.outputs.files }}
  test:
    needs: lint
    runs-on: ${{ matrix.os }}
    timeout-minutes: 1.5
    strategy:
      max-parallel: 2
      matrix:
        os: [ubuntu-22.04, ubuntu-24.04]
        python: ["3.11", 3.12]
        exclude:
          - { os: ubuntu-22.04, python: 3.12 }
    env:
      PY: ${{ matrix.python }}
      TOKEN: ${{ secrets.TOKEN }}
    defaults: { run: { working-directory: sub } }
    steps:
      - uses: actions/setup-python@v5
      - run: pwd; LEFT=over; cd /
      - run: echo "$PY ${LEFT-clean} ${{ matrix.os }} ${{ needs.lint.outputs.files }} $MODE $(pwd)"
        env: { MODE: "a b ${{ matrix.os }}" }
      - run: "false"
        continue-on-error: true
      - run: false | true; echo here
      - run: false | true; echo not here
        shell: bash
      - if: failure()
        run: echo bad
  deploy-it:
    needs: [lint, test]
    if: github.ref == 'refs/heads/main' && needs.test.result == 'success'
    continue-on-error: true
    runs-on: ubuntu-latest
    steps:
      - run: ./deploy ${{ github.sha }}
  alert:
    needs: [setup, deploy-it]
    if: ${{ failure() }}
    runs-on: ubuntu-latest
    steps:
      - run: echo bad
  setup:
    needs: test
    runs-on: ubuntu-latest
    steps:
      - uses: actions/cache@v4
"""


@pytest.fixture
def drafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imported]:
    """The draft of a file, before words that flow files of this version do not have are left out."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, name: str = "file") -> Imported:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        draft = read_actions(name)
        return Imported(0, flow_text(draft, name), "".join(f"stoker: {remark}\n" for remark in draft.remarks))

    return run


@pytest.fixture
def ci(drafted: Callable[..., Imported]) -> Imported:
    return drafted(CI, name=".github/workflows/ci.yml")


def test_jobs_when_they_are_imported_then_needs_and_fields_are_kept(ci: Imported, tmp_path: Path) -> None:
    assert ci.needs == {"lint": [], "test": ["lint"], "deploy-it": ["lint", "test"], "alert": ["test", "deploy-it"]}
    assert ci.flow["name"] == "CI-tests"
    assert ci.flow["defaults"] == {"working_dir": str(tmp_path), "env": {"COLOR": "always"}}
    assert ci.flow["parameters"] == {"level": "debug", "github_sha": "", "github_ref": ""}
    test, deploy = ci.steps["test"], ci.steps["deploy-it"]
    assert test["matrix"] == {
        "os": ["ubuntu-22.04", "ubuntu-24.04"],
        "python": ["3.11", "3.12"],
        "exclude": [{"os": "ubuntu-22.04", "python": "3.12"}],
    }
    assert (test["width"], test["fail_fast"], test["timeout_ms"]) == (2, True, 90_000)
    assert deploy["critical"] is False
    assert deploy["if"] == ("parameters.github_ref == 'refs/heads/main' && needs.test.all(s, s.state == 'succeeded')")
    assert ci.steps["alert"]["when"] == "any_failed"


def test_file_when_parts_are_left_out_then_each_is_named_with_its_line(ci: Imported) -> None:
    remarks = [line.removeprefix("stoker: .github/workflows/ci.yml:") for line in ci.err.strip().split("\n")]

    assert remarks == [
        "2: on push is not mapped: submit the flow, or let a hook of git do it",
        "2: on schedule: stoker schedule add NAME '0 3 * * *' --flow FILE",
        "16: jobs.lint.steps[0]: uses actions/checkout@v4: the directory of the file is used",
        "39: jobs.test.steps[0]: uses actions/setup-python@v5: left out",
        "48: jobs.test.steps[6].if: failure() is not mapped, so the step is left out",
        "25: jobs.test.runs-on: ${{ matrix.os }}: every step runs on this host",
        "67: jobs.setup.steps[0]: uses actions/cache@v4: left out",
        "64: jobs.setup: no step with `run`, so it is left out",
        "23: ${{ secrets.TOKEN }} is not mapped: give the value yourself",
    ]


def ran(step: dict[str, Any], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The script of a step, run with the variables that Stoker would give it."""
    filled = {name: text.replace("{{level}}", "it's {{x}}") for name, text in step.get("env", {}).items()}
    args = [arg.replace("{{{{", "{{") for arg in step["args"]]
    environ = {"PATH": os.environ["PATH"], **filled, **environ}
    return subprocess.run(
        [step["command"], *args], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_script_when_values_have_quotes_then_they_are_texts_and_outputs_are_written(
    ci: Imported, tmp_path: Path
) -> None:
    done = ran(ci.steps["lint"], tmp_path, STOKER_OUTPUT="out", COLOR="always")

    assert (done.stdout, done.stderr) == ("it's {{x}} always {{x}}\n", "")
    assert (tmp_path / "out").read_text() == "files=3\n"


def test_script_when_a_job_has_several_steps_then_each_has_a_shell_of_its_own(ci: Imported, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "inputs").write_text(json.dumps({"lint": {"outputs": {"files": "3"}}}))
    step = ci.steps["test"]
    assert step["env"] == {"PY": "{{item.python}}", "MATRIX_OS": "{{item.os}}"}

    done = ran(step | {"env": {"PY": "3.11", "MATRIX_OS": "linux"}}, tmp_path, STOKER_INPUTS_FILE="inputs")

    sub = tmp_path / "sub"
    assert done.stdout == f"{sub}\n3.11 clean linux 3 a b linux {sub}\nhere\n"
    assert done.returncode == 1, "the last step has a pipe whose first part fails"


def test_script_when_a_matrix_handed_on_values_then_the_last_one_counts(ci: Imported, tmp_path: Path) -> None:
    ends = {"lint[1]": {"files": "1"}, "lint[2]": {"files": "2"}, "lint[3]": {"files": ""}, "lint2": {"files": "4"}}
    (tmp_path / "inputs").write_text(json.dumps({name: {"outputs": end} for name, end in ends.items()}))
    (tmp_path / "sub").mkdir()

    done = ran(ci.steps["test"] | {"env": {"PY": "3", "MATRIX_OS": "x"}}, tmp_path, STOKER_INPUTS_FILE="inputs")

    assert done.stdout.splitlines()[1].startswith("3 clean x 2 a b x")


class Names:
    """The contexts of a job as names of a flow."""

    def value(self, path: tuple[str, ...]) -> str:
        return ".".join(path)

    def has_ended(self, path: tuple[str, ...], state: str) -> str:
        return f"{path[1]} is {state}"


EXPRESSIONS = {
    "always()": ("always", None),
    "success()": (None, None),
    "failure() && inputs.x == 'it''s'": ("any_failed", "inputs.x == 'it\\'s'"),
    "a.b != true || !c['d e']": (None, "(a.b != 'true') || (!(c.d e != ''))"),
    "(a.b == 1.5 || a.c) && a.d <= null": (None, "((a.b == '1.5') || (a.c != '')) && a.d <= ''"),
    "needs.x.result != 'failure'": (None, "!(x is failed)"),
    "'success' == needs.x.result && true": (None, "x is succeeded"),
    "contains(a.b, 'c') && startsWith(a.b, a.c)": (None, "a.b.contains('c') && a.b.startsWith(a.c)"),
    "false": (None, "false"),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expression_when_it_is_mapped_then_it_means_the_same(text: str) -> None:
    assert condition(parsed(text), Names()) == EXPRESSIONS[text]


@pytest.mark.parametrize("text", ["cancelled()", "always() && failure()", "fromJSON(a.b)", "a.b == (c.d && e.f)"])
def test_expression_when_no_flow_can_say_it_then_it_is_not_mapped(text: str) -> None:
    with pytest.raises(NotMapped):
        condition(parsed(text), Names())


@pytest.mark.parametrize("text", ["", "a &&", "a b", "(a", "a[1", "f(a", "'a", "a @ b", "(" * 5000])
def test_expression_when_it_is_none_then_it_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parsed(text)


def test_condition_when_it_is_not_mapped_then_the_step_never_runs(drafted: Callable[..., Imported]) -> None:
    job = "  a:\n    if: hashFiles('x') != ''\n    steps: [{ run: ./deploy }]\n"

    done = drafted(f"jobs:\n{job}")

    assert done.steps["a"]["if"] == "false"
    assert "file:3: jobs.a.if: " in done.err


MATRICES = {
    "{ os: [a, b], include: [{ os: a, flag: -x }, { os: c }] }": {
        "os": ["a", "b"],
        "include": [{"flag": ""}, {"os": "a", "flag": "-x"}, {"os": "c"}],
    },
    "{ include: [{ os: a }, { os: b, flag: true }] }": {
        "include": [{"flag": "", "os": "a"}, {"flag": True, "os": "b"}],
    },
    "{ n: [1, 2.50] }": {"n": [1, "2.5"]},
}


@pytest.mark.parametrize("text", MATRICES)
def test_matrix_when_items_differ_in_their_keys_then_all_have_all(drafted: Callable[..., Imported], text: str) -> None:
    done = drafted(f"jobs:\n  a:\n    strategy: {{ matrix: {text} }}\n    steps: [{{ run: make }}]\n")

    assert done.steps["a"]["matrix"] == MATRICES[text]


def test_job_when_it_calls_another_file_then_the_step_is_nested(drafted: Callable[..., Imported]) -> None:
    job = "  a:\n    uses: ./.github/workflows/b.yml\n    with: { level: 3 }\n"

    done = drafted(f"jobs:\n{job}")

    assert done.steps["a"] == {"workflow": "b.toml", "parameters": {"level": "3"}}
    assert "import this file, too, as b.toml" in done.err


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: [", "file:1: "),
        ("a\n", "file:1: not a mapping"),
        ("jobs: {}\n", "file: no jobs"),
        ("jobs:\n  a: 3\n", "file:2: a: not a mapping"),
        ("jobs:\n  a:\n    needs: [b]\n    steps: [{ run: x }]\n", "file:3: jobs.a.needs: there is no job 'b'"),
        ("jobs:\n  a:\n    steps: [{ uses: x }]\n", "file: no job has a step with `run`"),
        (BOMB, "file: more than 100000 values"),
        ("a: " + "[" * 3000, "file: nested deeper than 100"),
    ],
)
def test_file_when_it_is_wrong_then_the_reason_is_named(imported: Import, text: str, message: str) -> None:
    done = imported("github", text)

    assert (done.status, done.out) == (65, "")
    assert message in done.err


def test_import_when_pyyaml_is_not_installed_then_the_extra_is_named(
    imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("stoker.cli.imports.") or name == "yaml"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "yaml", None)

    done = imported("github", CI)

    assert (done.status, done.out) == (64, "")
    assert "stoker[import]" in done.err
