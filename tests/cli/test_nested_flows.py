"""Flow files that include others: where these are read from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.daemon import DaemonProcess
from tests.support.flow_files import written
from tests.support.flows import step_states

OUTER = """
name = "outer"
[steps.build]
workflow = "inner/child.toml"
parameters = { word = "hello" }
"""
CHILD = """
name = "child"
[parameters]
word = ""
[steps.say]
command = "sh"
args = ["-c", 'test "$WORD" = hello']
env = { WORD = "{{word}}" }
[steps.deep]
workflow = "deep.json"
"""


def including(folder: Path, *files: tuple[str, str]) -> str:
    """The first of some files: each includes the next one."""
    for name, child in files:
        written(folder, f'name = "x"\n[steps.a]\nworkflow = "{child}"\n', name)
    return str(folder / files[0][0])


def test_submit_when_a_file_includes_others_then_each_is_read_beside_its_own(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    source = written(tmp_path, OUTER)
    written(tmp_path / "inner", CHILD, "child.toml")
    written(tmp_path / "inner", json.dumps({"name": "deep", "steps": {"x": {"command": "true"}}}), "deep.json")

    done = shared.cli("workflow", "submit", "--wait", source)

    with shared.client() as client:
        states = step_states(client, int(done.stdout.split()[0]))
    assert (done.returncode, set(states.values())) == (0, {"succeeded"})
    assert states.keys() == {"build/say", "build/deep/x", "build/deep", "build"}


def test_submit_when_a_file_includes_itself_then_the_chain_is_shown(shared: DaemonProcess, tmp_path: Path) -> None:
    source = including(tmp_path, ("a.toml", "b.toml"), ("b.toml", "./a.toml"))

    done = shared.cli("workflow", "submit", source)

    assert done.returncode != 0
    assert f"includes itself: {source} -> {tmp_path}/b.toml -> {tmp_path}/a.toml" in done.stderr


def test_submit_when_files_are_too_deep_then_the_limit_is_named(shared: DaemonProcess, tmp_path: Path) -> None:
    source = including(tmp_path, *((f"{number}.toml", f"{number + 1}.toml") for number in range(9)))
    written(tmp_path, 'name = "x"\n[steps.a]\ncommand = "true"\n', "9.toml")

    done = shared.cli("workflow", "submit", source)

    assert "more than 8 flows inside each other" in done.stderr


def test_submit_when_an_included_file_is_missing_then_the_step_is_named(shared: DaemonProcess, tmp_path: Path) -> None:
    source = including(tmp_path, ("a.toml", "none.toml"))

    done = shared.cli("workflow", "submit", source)

    assert f"{source}: steps.a.workflow: cannot read {tmp_path}/none.toml: No such file or directory" in done.stderr


def test_submit_when_an_included_flow_is_wrong_then_its_file_and_line_are_named(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    source = including(tmp_path, ("a.toml", "b.toml"))
    wrong = written(tmp_path, 'name = "b"\n[steps.c]\ncommand = "true"\nneeds = ["d"]\n', "b.toml")

    commands = (("submit", "--dry-run"), ("graph",))
    shown = [shared.cli("workflow", *words, source).stderr for words in commands]
    shown.append(shared.cli("schedule", "add", "nightly", "every 1h", "--flow", source).stderr)

    assert all(f"{wrong}:4: steps.c.needs[0]: there is no step 'd'" in each for each in shown), shown


def test_dry_run_when_a_nested_flow_has_handlers_then_they_are_marked(shared: DaemonProcess, tmp_path: Path) -> None:
    source = including(tmp_path, ("a.toml", "b.toml"))
    child = 'name = "b"\n[steps.c]\ncommand = "true"\n[finally.clean]\ncommand = "true"\neach = ["x", "y"]\n'
    written(tmp_path, child, "b.toml")

    planned = shared.cli("workflow", "submit", "--dry-run", source).stdout

    assert "a/clean[x, y] (finally)\n" in planned


def test_graph_when_a_file_includes_another_then_its_steps_are_drawn(shared: DaemonProcess, tmp_path: Path) -> None:
    source = including(tmp_path, ("a.toml", "b.toml"))
    written(tmp_path, 'name = "b"\n[steps.c]\ncommand = "true"\n', "b.toml")

    done = shared.cli("workflow", "graph", source)

    assert done.returncode == 0
    assert "a/c" in done.stdout
