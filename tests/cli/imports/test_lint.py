"""`stoker workflow lint`: each warning on a flow that has it and on none that has not, and the lines of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.lint_rules import RULES
from stoker.cli.toml_lines import TomlLines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.imports.conftest import Imported

    Stoker = Callable[..., Imported]

ROOT = Path(__file__).parents[3]
CLEAN = """name = "clean"
[parameters]
version = "1"
[steps.make]
each = ["a", "b", "c"]
width = 2
command = "sh"
args = ["-c", "echo $V", '''
[steps.no]
key = 1
''']
env = { V = "{{version}}" }
[steps."alert.me"]
needs = [{ step = "make", on = "failed" }]
command = "./made-by-make"
"""
STEP = 'name = "x"\n[steps.a]\ncommand = "sh"\n'
# Rule: a flow that has it, and the line and path of the warning.
FLOWS = {
    "value-in-script": (STEP + 'each = ["x"]\nargs = ["-ec", "rm {{item}}"]\n', 5, "steps.a.args[1]"),
    "unused-parameter": (STEP + '[parameters]\nused = "1"\nother = "{{used}}"\n', 6, "parameters.other"),
    "program": (STEP + '[steps.b]\ncommand = "./none"\n', 5, "steps.b.command"),
    "idle-width": (STEP + 'each = ["x", "y"]\nwidth = 2\n', 5, "steps.a.width"),
    "same-item": (STEP + 'width = 1\neach = ["x", "y", "x"]\n', 5, "steps.a.each"),
    "case-of-names": (STEP + '[steps.A]\ncommand = "sh"\n', 4, "steps.A"),
    "never-runs": (
        STEP + '[steps.b]\ncommand = "sh"\nneeds = ["a"]\n[steps.c]\ncommand = "sh"\n'
        'needs = ["b", { step = "a", on = "failed" }]\n',
        9,
        "steps.c.needs",
    ),
    "handler-never-runs": (
        STEP + 'critical = false\n[on_failure.b]\ncommand = "sh"\ncritical = true\n',
        5,
        "on_failure.b",
    ),
}
# Beside `critical = false`: what makes the workflow fail all the same.
FAILS = ("timeout_ms = 9\n", "deadline_ms = 9\n", "abort_on = [3]\n", '[steps.b]\ncommand = "sh"\n')


def linted(stoker: Stoker, folder: Path, text: str, *options: str, name: str = "flow.toml") -> tuple[int, Any]:
    """The exit code and the answer for one file."""
    (folder / name).write_text(text)
    done = stoker("lint", "--json", *options, str(folder / name))
    (file,) = json.loads(done.out)["files"]
    return done.status, file


def test_lint_when_a_group_fails_fast_then_its_width_is_no_matter(stoker: Stoker, tmp_path: Path) -> None:
    status, file = linted(stoker, tmp_path, STEP + 'each = ["x", "y"]\nfail_fast = true\n')

    assert (status, file["warnings"]) == (0, [])


def test_flows_when_rules_are_listed_then_each_has_one_and_is_explained() -> None:
    assert set(FLOWS) == set(RULES)
    documents = (ROOT / "docs" / "workflows.md").read_text()
    assert [name for name in RULES if f"| `{name}` |" not in documents] == []


@pytest.mark.parametrize("rule", FLOWS)
def test_lint_when_a_flow_is_odd_then_its_warning_has_line_and_path(stoker: Stoker, tmp_path: Path, rule: str) -> None:
    text, line, path = FLOWS[rule]

    status, file = linted(stoker, tmp_path, text)

    assert (status, file["mistakes"]) == (0, [])
    found = [(each["rule"], each["line"], each["path"]) for each in file["warnings"]]
    assert (rule, line, path) in found
    assert {each["rule"] for each in file["warnings"]} <= {rule, "unused-parameter"}
    assert linted(stoker, tmp_path, text, "--strict")[0] == 1


def test_lint_when_a_flow_is_as_it_should_be_then_there_is_no_warning(stoker: Stoker, tmp_path: Path) -> None:
    assert linted(stoker, tmp_path, CLEAN, "--strict")[1]["warnings"] == []


@pytest.mark.parametrize("cause", FAILS)
def test_lint_when_a_flow_can_fail_then_its_handlers_may_run(stoker: Stoker, tmp_path: Path, cause: str) -> None:
    of_head = cause.startswith(("timeout", "deadline"))
    text = (cause if of_head else "") + STEP + "critical = false\n" + ("" if of_head else cause)

    assert linted(stoker, tmp_path, text + '[on_failure.c]\ncommand = "sh"\n')[1]["warnings"] == []


def test_lint_when_a_mistake_is_in_an_included_file_then_that_has_the_line(stoker: Stoker, tmp_path: Path) -> None:
    (tmp_path / "child.toml").write_text(STEP + 'needs = ["z"]\n')
    (tmp_path / "sound.toml").write_text(STEP + '[steps.b]\ncommand = "./none"\n')
    texts = {name: f'name = "x"\n[steps.n]\nworkflow = "{name}.toml"\n' for name in ("child", "sound")}

    ((mistake,), (warning,)) = (
        linted(stoker, tmp_path, texts["child"])[1]["mistakes"],
        linted(stoker, tmp_path, texts["sound"])[1]["warnings"],
    )

    assert (mistake["file"], mistake["line"], mistake["path"]) == (f"{tmp_path}/child.toml", 4, "steps.a.needs[0]")
    assert (warning["file"], warning["line"], warning["path"]) == (f"{tmp_path}/sound.toml", 5, "steps.b.command")


def test_examples_when_they_are_linted_then_there_is_nothing_to_say(stoker: Stoker) -> None:
    examples = sorted((ROOT / "config" / "examples" / "flows").glob("*.toml"))

    done = stoker("lint", "--strict", *map(str, examples))

    assert (done.status, done.err) == (0, ""), done.out


def test_lint_when_files_are_wrong_then_every_mistake_has_its_line(stoker: Stoker, tmp_path: Path) -> None:
    texts = {
        "flow.toml": STEP + 'timeout_ms = "9s"\n[steps.b]\ncommand = 3\nneeds = ["z"]\n',
        "syntax.toml": 'name = "x"\nfoo',
        "dates.toml": 'name = "x"\n[steps.a]\ncommand = 2020-01-01\n',
        "flow.json": '{"name": "x", "steps": {}}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    done = stoker("lint", *(str(tmp_path / name) for name in (*texts, "none.toml")))

    lines = [line.removeprefix(f"{tmp_path}/").partition(" (")[0] for line in done.out.split("\n")]
    assert done.status == 1
    assert lines == [
        'flow.toml:4: steps.a.timeout_ms: expected a whole number, got "9s"',
        "flow.toml:6: steps.b.command: expected a string, got 3",
        "flow.toml:7: steps.b.needs[0]: there is no step 'z'",
        "syntax.toml:2: Expected '=' after a key in a key/value pair",
        "dates.toml: steps.a.command: a flow cannot hold the date 2020-01-01: write text, or milliseconds since 1970",
        "flow.json: steps: a workflow has at least one step",
        f"none.toml: cannot read {tmp_path}/none.toml: No such file or directory",
        "5 files: 7 mistakes, 0 warnings",
        "",
    ]


def test_lines_when_texts_look_like_tables_then_only_tables_and_keys_count() -> None:
    lines = TomlLines(CLEAN)

    places = ("name", "parameters.version", "steps.make.args[1]", "steps.make.env.V", "steps.alert.me.needs[0].on")
    assert [lines.line_of(place) for place in places] == [1, 3, 8, 12, 14]
    assert lines.line_of("steps.no") is None
