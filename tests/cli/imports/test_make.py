"""`stoker workflow import --from make`: what GNU make says of a makefile becomes the steps of a flow.

Owns the comparison of a recipe with the script made of it, and that no recipe runs during the import.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Import = Callable[..., "Imported"]
    from tests.cli.imports.conftest import Imported

PROJECT = """
CC = cc -O1
OBJECTS = build/a.o build/b.o
.PHONY: all install
all: install
install: prog
prog: $(OBJECTS) | build
\t@echo link
\t$(CC) -o $@ $(OBJECTS)
build/%.o: %.c gen.h | build
\t$(CC) -c -o $@ $<
gen.h: gen.sh
\tsh gen.sh > $@
build:
\tmkdir -p $@
"""


@pytest.fixture
def sources(tmp_path: Path) -> None:
    for name in ("a.c", "b.c", "gen.sh"):
        (tmp_path / name).touch()


@pytest.mark.usefixtures("sources")
def test_import_when_rules_have_patterns_then_each_target_is_a_step(imported: Import, tmp_path: Path) -> None:
    done = imported("make", PROJECT)

    assert done.err == ""
    assert done.needs == {
        "build": [],
        "gen.h": [],
        "build-a.o": ["gen.h", "build"],
        "build-b.o": ["gen.h", "build"],
        "prog": ["build-a.o", "build-b.o", "build"],
    }
    assert done.steps["build-a.o"]["args"] == ["-c", "cc -O1 -c -o build/a.o a.c"]
    assert (done.steps["build-a.o"]["sources"], done.steps["build-a.o"]["produces"]) == (["a.c"], ["build/a.o"])
    assert done.flow["defaults"]["working_dir"] == str(tmp_path)
    assert "# file:11: build/a.o" in done.out


@pytest.mark.usefixtures("sources")
def test_import_when_a_goal_is_named_then_only_what_it_takes_is_imported(imported: Import) -> None:
    assert imported("make", PROJECT, "--goal", "build/a.o", "--goal", "build").needs == {
        "build": [],
        "gen.h": [],
        "build-a.o": ["gen.h", "build"],
    }


RECIPES = {
    "directory": ["cd /", "pwd"],
    "variable": ["N=3; echo $$N", "echo $${N:-none}"],
    "failure": ["echo before", "false", "echo after"],
    "ignored-failure": ["-false", "-@exit 7", "echo after"],
    "failure-within-a-line": ["false; echo still", "echo next"],
    "exit-code": ["echo one", "exit 3"],
    "comment": ["echo one # a comment", "echo two #"],
    "continued-line": ["for i in 1 2; do \\\n\t  echo $$i; \\\n\tdone", "echo done"],
    "quotes": ["echo \"it's\" '{{x}}' '$$HOME' \\\\", 'echo "a\tb"'],
    "parentheses": ["(cd / && pwd)", "((true) || false) && echo ok"],
    "several-lines-of-one-variable": ["$(TWO)", "echo three"],
    "no-command": ["$(EMPTY)", "echo one"],
    "silent": ["@echo one", "@ - false", "+echo three"],
}


FLAGS = {"plain": "", "exits": ".SHELLFLAGS = -ec\n", "pipefail": "SHELL = bash\n.SHELLFLAGS = -o pipefail -ec\n"}


@pytest.mark.parametrize("flags", FLAGS)
def test_scripts_when_they_are_run_then_they_do_what_make_does(imported: Import, tmp_path: Path, flags: str) -> None:
    rules = (f"{name}:\n" + "".join(f"\t{line}\n" for line in lines) for name, lines in RECIPES.items())
    text = f"define TWO\necho one\necho two\nendef\n{FLAGS[flags]}all: {' '.join(RECIPES)}\n" + "".join(rules)

    steps = imported("make", text).steps

    assert set(steps) == set(RECIPES)
    for name, step in steps.items():
        command = [step["command"], *(arg.replace("{{{{", "{{") for arg in step["args"])]
        by_make = subprocess.run(["make", "-s", "-f", "file", name], cwd=tmp_path, capture_output=True, check=False)
        by_script = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert by_script.stdout == by_make.stdout, name
        assert (by_script.returncode == 0) == (by_make.returncode == 0), name


def test_import_when_makefile_would_run_recipes_then_none_is_run(imported: Import, tmp_path: Path) -> None:
    text = (
        "all: a b c\na:\n\t+touch ran-plus\nb:\n\ttouch ran-first; $(MAKE) -C sub\nc:\n\ttouch ran-plain\n"
        "-include made.mk\nmade.mk: file\n\ttouch ran-include\n"
    )

    done = imported("make", text)

    assert set(done.steps) == {"a", "b", "c"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert "file:10: made.mk is a makefile that make makes itself" in done.err
    assert "file:5: b runs make itself" in done.err


def test_import_when_variables_are_lazy_or_exported_then_their_values_are_there(imported: Import) -> None:
    done = imported("make", "export MODE = fast {{x}}\nNOW = $(shell echo now)\nall:\n\techo $(NOW) $(MODE)\n")

    assert done.steps["all"]["args"][-1] == "echo now fast {{{{x}}"
    assert done.flow["defaults"]["env"] == {"MODE": "fast {{{{x}}"}


def test_import_when_a_target_is_no_file_then_it_is_no_product(imported: Import, tmp_path: Path) -> None:
    (tmp_path / "conf").touch()
    text = (
        "all: a.o\n\techo done\na.o: config\n\techo > $@\nconfig: conf ../x\n../x:\n.PHONY: tags\ntags:\n\techo tags\n"
    )

    done = imported("make", text, "--goal", "all", "--goal", "tags")

    files = {name: (step.get("sources"), step.get("produces")) for name, step in done.steps.items()}
    assert files == {"a.o": (["../x", "conf", "config"], ["a.o"]), "all": (None, None), "tags": (None, None)}


def test_import_when_recipes_have_one_shell_then_the_script_is_as_it_stands(imported: Import) -> None:
    step = imported("make", "SHELL = /bin/bash\n.SHELLFLAGS = -ec\n.ONESHELL:\nall:\n\t@cd /\n\tpwd\n").steps["all"]

    assert (step["command"], step["args"]) == ("/bin/bash", ["-ec", "cd /\npwd"])


def test_import_when_one_rule_makes_two_files_then_both_are_one_step(imported: Import, tmp_path: Path) -> None:
    (tmp_path / "p.y").touch()

    done = imported("make", "all: p.o p.h\np.o: p.c p.h\n\techo o\n%.c %.h: %.y\n\techo gen\n")

    assert done.needs == {"p.c": [], "p.o": ["p.c"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all: missing\n", "No rule to make target 'missing'"),
        ("all:\n    spaces\n", "file:2: *** missing separator"),
        ("A = 1\n", "file: no targets"),
        (".PHONY: all\nall:\n", "file: no recipe for all"),
    ],
)
def test_import_when_makefile_is_wrong_then_the_reason_is_named(imported: Import, text: str, message: str) -> None:
    done = imported("make", text)

    assert (done.status, done.out) == (65, "")
    assert message in done.err


def test_strict_import_when_something_is_left_out_then_nothing_is_written(imported: Import, tmp_path: Path) -> None:
    done = imported("make", ".NOTPARALLEL:\nall:\n\techo x\n", "--strict", "-o", str(tmp_path / "out.toml"))

    assert (done.status, done.out) == (1, "")
    assert ".NOTPARALLEL" in done.err
    assert not (tmp_path / "out.toml").exists()
