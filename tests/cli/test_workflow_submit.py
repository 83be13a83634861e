"""`stoker workflow submit`: flow files and their mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stoker.cli import flowfile
from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.flow_files import EXAMPLE, job_of, written

CYCLE = 'name = "x"\n[steps.a]\ncommand = "true"\nneeds = ["b"]\n[steps.b]\ncommand = "true"\nneeds = ["a"]\n'


def test_submit_when_a_flow_has_mistakes_then_each_has_a_line_and_nothing_is_stored(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    source = written(
        tmp_path,
        'name = "x"\n[steps.a]\ncommand = "true"\ntimeout = "90s"\n[steps."b.c"]\ncommand = "true"\ntimeout_ms = "2m"\n'
        '[steps.d]\ncomand = "true"\n[steps.e]\ncommand = "true"\nlimits = 5\n',
    )

    before = shared.cli("workflow", "ls", "--ids").stdout
    done = shared.cli("workflow", "submit", source)

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (65, "")
    assert lines[0] == f"stoker: {source} has 5 mistakes; nothing was stored"
    assert (
        f"  {source}:4: steps.a.timeout: no such field (durations in a flow are whole milliseconds: timeout_ms = 90000)"
        in lines
    )
    assert f"  {source}:9: steps.d.comand: no such field (did you mean command?)" in lines
    assert "timeout_ms = 120000" in done.stderr
    assert f"  {source}:12: steps.e.limits: expected a table, got 5" in lines
    assert shared.cli("workflow", "ls", "--ids").stdout == before


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ('name = "x"\n[steps.a\n', "flow.toml", "flow.toml:2:9: "),
        ('name = "x"\nname = "y"\n', "flow.toml", "flow.toml:2:"),
        ('name = "', "flow.toml", "flow.toml:1"),
        ("started = 2026-01-01\n", "flow.toml", "started: a flow cannot hold the date 2026-01-01"),
        (r'steps.a.args = ["a\u0000b"]', "flow.toml", "flow.toml has 1 mistake\n"),
        (r'steps.a.args = ["ok", "a\u0000b"]', "flow.toml", "flow.toml: steps.a.args[1]: NUL at character 1"),
        (f"steps.a.nice = {'9' * 5_000}", "flow.toml", "flow.toml: an integer is beyond 64 bits"),
        (r'steps.a.env."A\u0000" = "1"', "flow.toml", "flow.toml: steps.a.env: NUL at character 1"),
        ('{"name": "x",\n "steps": }', "flow.json", "flow.json:2:11: "),
        ('{"name": "x", "name": "y"}', "flow.json", "name: this key occurs twice"),
        ("[1]", "flow.json", "not a JSON object"),
        ("x = " + "[" * 3000, "flow.toml", "flow.toml"),
        (CYCLE, "flow.toml", "a cycle: "),
        ('name = "x"\n[steps.a]\ncommand = "true"\nneeds = ["a", "z"]\n', "flow.toml", "there is no step 'z'"),
        ('name = "x"\n[steps.a]\ncommand = "/no/such/program"\n', "flow.toml", "steps.a.command"),
    ],
)
def test_submit_when_a_file_is_wrong_then_it_says_where(
    shared: DaemonProcess, tmp_path: Path, text: str, name: str, expected: str
) -> None:
    done = shared.cli("workflow", "submit", written(tmp_path, text, name))

    assert (done.returncode, done.stdout) == (65, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_when_there_is_one_step_then_the_noun_is_singular(shared: DaemonProcess, tmp_path: Path) -> None:
    source = written(tmp_path, json.dumps(flows.flow({"a": flows.step("true")})), "flow.json")

    planned = shared.cli("workflow", "submit", "--dry-run", source)

    assert planned.stdout.splitlines()[0] == "1 step in 1 layer"


def test_submit_when_the_flow_does_not_fit_a_frame_then_it_is_refused(shared: DaemonProcess, tmp_path: Path) -> None:
    steps = {f"s{number}": flows.step("x" * 200) for number in range(5_000)}

    done = shared.cli("workflow", "submit", written(tmp_path, json.dumps(flows.flow(steps)), "flow.json"))

    assert done.returncode == 65
    assert "at most 1020.0K can be sent" in done.stderr


def test_submit_when_a_flow_is_piped_then_its_first_character_decides_the_format(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    toml = 'name = "x"\n[steps.a]\ncommand = "pwd"\n'
    first = shared.cli("workflow", "submit", "--idempotency-key", "k", "-", input=toml, cwd=tmp_path)
    again = shared.cli("workflow", "submit", "--idempotency-key", "k", "-", input=toml, cwd=tmp_path)
    second = shared.cli("workflow", "submit", "-", input=json.dumps(flows.flow({"a": flows.step("true")})))
    flow, other = first.stdout.strip(), second.stdout.strip()
    waited = shared.cli("workflow", "wait", flow, f"w{other}")

    assert (again.stdout, int(other)) == (first.stdout, int(flow) + 1)
    assert "submitted before" in again.stderr
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "", "")
    assert shared.cli("logs", job_of(shared, flow, "a")).stdout == f"{tmp_path}\n"


def test_dry_run_when_json_is_given_then_no_field_claims_that_it_is_stored(
    shared: DaemonProcess,
) -> None:
    planned = json.loads(shared.cli("workflow", "submit", "--dry-run", "--json", str(EXAMPLE)).stdout)

    assert (planned["id"], planned["state"], set(planned["steps"].values())) == (None, None, {None})
    assert planned["layers"][0] == ["configure"]


def test_submit_when_a_flow_has_many_mistakes_then_they_have_the_order_of_the_file(
    shared: DaemonProcess,
) -> None:
    text = (
        'name = "x"\n[steps.a]\ncommand = "no-such-program"\nqueue = "nope"\nargs = ["{{x}}"]\nneeds = ["z"]\n'
        '[steps.b]\ntimeout_ms = "2m"\ncommand = "true"\n[steps.a2]\ncommand = "true"\nwidth = 2\n'
    )

    done = shared.cli("workflow", "submit", "-", input=text)
    empty = shared.cli("workflow", "submit", "-", input="")

    first, *mistakes = done.stderr.splitlines()
    assert first == "stoker: stdin has 6 mistakes; nothing was stored"
    assert [line.split(": ")[1] for line in mistakes] == [
        "steps.a.command",
        "steps.a.queue",
        "steps.a.args[0]",
        "steps.a.needs[0]",
        "steps.b.timeout_ms",
        "steps.a2.width",
    ]
    assert "a table [steps.NAME] in TOML" in empty.stderr


def test_complete_when_path_is_in_the_defaults_then_steps_with_variables_have_it_too(tmp_path: Path) -> None:
    (tmp_path / "tool").touch(mode=0o755)
    step = {"command": "tool", "env": {"A": "1"}}

    flow = flowfile.complete({"defaults": {"env": {"PATH": str(tmp_path)}}, "steps": {"a": step}})

    assert flow["steps"]["a"]["command"] == str(tmp_path / "tool")


def test_dry_run_when_a_later_program_is_not_there_yet_then_a_note_names_it(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {"make": {"command": "true"}, "run": {"command": "/nowhere/program", "needs": ["make"]}}
    source = written(tmp_path, json.dumps({"name": "made", "steps": steps}), "made.json")

    planned = shared.cli("workflow", "submit", "--dry-run", source)

    assert planned.returncode == 0
    assert planned.stderr == (
        "stoker: steps.run.command: /nowhere/program does not exist yet; the step looks again as it starts\n"
    )


@pytest.mark.parametrize(
    ("step", "warned"),
    [
        ({"command": "sh", "args": ["-c", "echo {{x}}"]}, True),
        ({"command": "/bin/bash", "args": ["-e", "-uc", "echo {{ x }}"]}, True),
        ({"command": "sh", "args": ["-c", 'echo "$X"', "{{x}}"], "env": {"X": "{{x}}"}}, False),
        ({"command": "sh", "args": ["-c", "echo {{{{x}}"]}, False),
        ({"command": "echo", "args": ["-c", "{{x}}"]}, False),
    ],
)
def test_dry_run_when_a_script_has_a_value_inside_then_a_note_says_how_to_give_it(
    shared: DaemonProcess, tmp_path: Path, step: dict[str, Any], *, warned: bool
) -> None:
    flow = {"name": "scripts", "parameters": {"x": "1"}, "steps": {"a": step}}

    planned = shared.cli("workflow", "submit", "--dry-run", written(tmp_path, json.dumps(flow), "scripts.json"))

    assert planned.returncode == 0
    assert ("a value inside a script is read as a part of it" in planned.stderr) is warned
