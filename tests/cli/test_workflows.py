"""Workflows on the command line against a real daemon, from a flow file to the end, with commands on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker import Client
from stoker.cli import flowfile, workflow_control, workflow_wait
from stoker.core.workflow.strategies import BUILT_IN
from tests.support import flows, work
from tests.support.daemon import DaemonProcess
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

CYCLE = 'name = "x"\n[steps.a]\ncommand = "true"\nneeds = ["b"]\n[steps.b]\ncommand = "true"\nneeds = ["a"]\n'
EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "flows" / "build.toml"


@pytest.fixture(scope="module")
def daemon_of_all() -> Iterator[DaemonProcess]:
    """One for all tests that change nothing."""
    with DaemonProcess() as running:
        yield running


def written(folder: Path, text: str, name: str = "flow.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def sent(daemon: DaemonProcess, folder: Path, steps: dict[str, dict[str, Any]]) -> str:
    """The id of a workflow that must be accepted."""
    source = written(folder, json.dumps(flows.flow(steps)), "flow.json")
    done = daemon.cli("workflow", "submit", source)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def sent_to(gate: work.Gate, daemon: DaemonProcess, folder: Path) -> str:
    """The id of a workflow whose first step waits at the gate, and whose second needs it."""
    command, *args = gate.pass_by()
    return sent(daemon, folder, {"a": {"command": command, "args": args}, "b": flows.step("true", "a")})


class Opening(Client):
    """Opens a gate once changes are listened to."""

    def __init__(self, socket: str, gate: work.Gate) -> None:
        super().__init__(socket)
        self._gate = gate

    def stream(self, method: str, params: object = None) -> Iterator[dict[str, Any]]:
        listening = super().stream(method, params)
        self._gate.open()
        return listening


def test_show_when_logs_is_given_then_each_step_that_ran_shows_the_end_of_its_log(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    steps: dict[str, dict[str, Any]] = {"a": flows.step("echo of-a; exit 1"), "b": flows.step("true", "a")}
    workflow = sent(daemon, tmp_path, steps)
    daemon.cli("workflow", "wait", workflow)

    shown = daemon.cli("workflow", "show", workflow, "--logs")
    as_json = json.loads(daemon.cli("workflow", "show", workflow, "--logs", "--json").stdout)

    assert shown.stdout.endswith("\n\na (stoker logs 1):\nof-a\n")
    assert {step["name"]: step["log_tail"] for step in as_json["steps"]} == {"a": "of-a\n", "b": ""}


def test_example_when_it_is_submitted_then_it_succeeds_and_every_view_shows_it(daemon: DaemonProcess) -> None:
    planned = daemon.cli("workflow", "submit", "--dry-run", str(EXAMPLE))
    done = daemon.cli("workflow", "submit", "--wait", "--param", "version=1.4", str(EXAMPLE))
    listed, shown = daemon.cli("workflow", "ls"), daemon.cli("workflow", "show", "1")
    drawn = daemon.cli("workflow", "graph", "1")
    job = json.loads(daemon.cli("workflow", "show", "--json", "1").stdout)["steps"][4]["job"]
    log, of_job, jobs = daemon.cli("logs", str(job)), daemon.cli("show", str(job)), daemon.cli("ls")
    kinds = [
        one["kind"] for one in json.loads(daemon.cli("checkpoint", "ls", "1", "--all", "--json").stdout)["checkpoints"]
    ]

    assert planned.stdout.splitlines()[0] == "7 steps in 5 layers"
    assert "compile:1..3 (width 2)" in planned.stdout
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert "succeeded" in listed.stdout
    assert "report" in shown.stdout
    assert "may fail" in shown.stdout
    assert "✓ compile x3" in drawn.stdout
    assert log.stdout.count(".o") == 3
    assert "workflow     1, step link" in of_job.stdout
    assert "w1 build/link: " in jobs.stdout
    assert kinds.count("progress") == 3


@pytest.mark.parametrize(("broken", "report_log"), [("compiling", ["the build of 1.4 failed"]), ("nothing", [])])
def test_example_when_a_step_fails_then_its_report_step_runs(
    daemon: DaemonProcess, tmp_path: Path, broken: str, report_log: list[str]
) -> None:
    source = written(tmp_path, EXAMPLE.read_text().replace(f'"echo \\"{broken}', '"exit 1; echo \\"'), "build.toml")

    done = daemon.cli("workflow", "submit", "--wait", "--param", "version=1.4", source)

    steps = json.loads(daemon.cli("workflow", "show", "--json", "1").stdout)["steps"]
    (report,) = [step["job"] for step in steps if step["name"] == "report"]
    assert daemon.cli("logs", str(report)).stdout.splitlines() == report_log
    assert done.returncode == bool(report_log)


def test_submit_when_a_flow_has_mistakes_then_each_has_a_line_and_nothing_is_stored(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    source = written(
        tmp_path,
        'name = "x"\n[steps.a]\ncommand = "true"\ntimeout = "90s"\n[steps."b.c"]\ncommand = "true"\ntimeout_ms = "2m"\n'
        '[steps.d]\ncomand = "true"\n[steps.e]\ncommand = "true"\nlimits = 5\n',
    )

    done = daemon.cli("workflow", "submit", source)

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (65, "")
    assert lines[0] == f"stoker: {source} has 5 mistakes; nothing was stored"
    assert (
        f"  {source}: steps.a.timeout: no such field (durations in a flow are whole milliseconds: timeout_ms = 90000)"
        in lines
    )
    assert f"  {source}: steps.d.comand: no such field (did you mean command?)" in lines
    assert "timeout_ms = 120000" in done.stderr
    assert f"  {source}: steps.e.limits: expected a table, got 5" in lines
    assert daemon.cli("workflow", "ls", "--ids").stdout == ""


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ('name = "x"\n[steps.a\n', "flow.toml", "flow.toml:2:9: "),
        ('name = "x"\nname = "y"\n', "flow.toml", "flow.toml:2:"),
        ('name = "', "flow.toml", "flow.toml:1"),
        ("started = 2026-01-01\n", "flow.toml", "started: a flow cannot hold the date 2026-01-01"),
        (r'steps.a.args = ["a\u0000b"]', "flow.toml", "flow.toml has 1 mistake\n"),
        (r'steps.a.args = ["ok", "a\u0000b"]', "flow.toml", "flow.toml: steps.a.args[1]: NUL at character 1"),
        (r'steps.a.env."A\u0000" = "1"', "flow.toml", "flow.toml: steps.a.env: NUL at character 1"),
        ('{"name": "x",\n "steps": }', "flow.json", "flow.json:2:11: "),
        ('{"name": "x", "name": "y"}', "flow.json", "name: this key occurs twice"),
        ("[1]", "flow.json", "not a JSON object"),
        ("x = " + "[" * 3000, "flow.toml", "flow.toml"),
        (CYCLE, "flow.toml", "a cycle: "),
        ('name = "x"\n[steps.a]\ncommand = "true"\nneeds = ["a", "z"]\n', "flow.toml", "there is no step 'z'"),
        ('name = "x"\n[steps.a]\ncommand = "/no/such/program"\n', "flow.toml", "steps.a.command"),
    ],
)  # fmt: skip
def test_submit_when_a_file_is_wrong_then_it_says_where(
    daemon_of_all: DaemonProcess, tmp_path: Path, text: str, name: str, expected: str
) -> None:
    done = daemon_of_all.cli("workflow", "submit", written(tmp_path, text, name))

    assert (done.returncode, done.stdout) == (65, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_when_there_is_one_step_then_the_noun_is_singular(daemon: DaemonProcess, tmp_path: Path) -> None:
    source = written(tmp_path, json.dumps(flows.flow({"a": flows.step("true")})), "flow.json")

    planned = daemon.cli("workflow", "submit", "--dry-run", source)

    assert planned.stdout.splitlines()[0] == "1 step in 1 layer"


def test_submit_when_the_flow_does_not_fit_a_frame_then_it_says_so(daemon: DaemonProcess, tmp_path: Path) -> None:
    steps = {f"s{number}": flows.step("x" * 200) for number in range(5_000)}

    done = daemon.cli("workflow", "submit", written(tmp_path, json.dumps(flows.flow(steps)), "flow.json"))

    assert done.returncode == 65
    assert "at most 1020.0K can be sent" in done.stderr


def test_submit_when_a_flow_is_piped_then_its_first_character_decides_the_format(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    toml = 'name = "x"\n[steps.a]\ncommand = "pwd"\n'
    first = daemon.cli("workflow", "submit", "--idempotency-key", "k", "-", input=toml, cwd=tmp_path)
    again = daemon.cli("workflow", "submit", "--idempotency-key", "k", "-", input=toml, cwd=tmp_path)
    second = daemon.cli("workflow", "submit", "-", input=json.dumps(flows.flow({"a": flows.step("true")})))
    waited = daemon.cli("workflow", "wait", "1", "w2")

    assert [done.stdout for done in (first, again, second)] == ["1\n", "1\n", "2\n"]
    assert "submitted before" in again.stderr
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "", "")
    assert daemon.cli("logs", "1").stdout == f"{tmp_path}\n"


def test_wait_when_a_workflow_fails_then_it_names_the_step_and_a_retry_succeeds(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    steps = {"a": flows.step("true"), "b": flows.step(f"test -e {tmp_path}/fixed", "a"), "c": flows.step("true", "b")}
    flow = sent(daemon, tmp_path, steps)

    failed = daemon.cli("workflow", "wait", flow)
    (tmp_path / "fixed").touch()
    limits = ("--timeout", "30s", "--max-attempts", "2")
    retried = daemon.cli("workflow", "retry", flow, "--failed", "--wait", "--reason", "mended", *limits)
    of_step = daemon.cli("workflow", "retry", flow, "--step", "c")
    daemon.cli("workflow", "wait", flow)

    assert (failed.returncode, failed.stderr.splitlines()[0]) == (1, "stoker: workflow 1 failed: b (failed)")
    assert (retried.returncode, retried.stdout) == (0, "workflow 1 running\n")
    assert retried.stderr == "stoker: queued again: b c\n"
    assert of_step.stderr == "stoker: queued again: c\n"
    assert "timeout      30.0s an attempt" in daemon.cli("show", "2").stdout


def test_show_when_a_failure_is_analysed_then_cause_and_next_command_are_printed(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    slow = flows.step("sleep 60", timeout_ms=100)
    flow = sent(daemon, tmp_path, {"a": slow, "b": flows.step("true", "a"), "c": flows.step("exit 2", critical=False)})
    daemon.cli("workflow", "wait", flow)

    shown = daemon.cli("workflow", "show", flow, "--analyse")
    archive = json.loads(daemon.cli("workflow", "show", flow, "--json", "--analyse").stdout)["analysis"]
    good = sent(daemon, tmp_path, {"a": flows.step("true")})
    daemon.cli("workflow", "wait", good)
    nothing = daemon.cli("workflow", "show", good, "--analyse")

    last = shown.stdout.splitlines()[-6:]
    assert last[0].startswith("2 of 3 steps failed: a ran for longer than allowed")
    assert last[1] == "failure     total; a critical step failed"
    assert {tuple(line.split()) for line in last[2:5]} == {("timeout", "a"), ("dependency", "b"), ("exit", "c")}
    assert last[5] == "next: stoker workflow retry 1 --failed --timeout 1s"
    assert archive["blocked"] == ["b"]
    assert "nothing to analyse" in nothing.stderr
    assert re.search(r"^c +\d +failed +exit 2 ", shown.stdout, re.MULTILINE)


def test_wait_when_only_a_person_can_move_it_on_then_it_says_so(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, daemon, tmp_path)
    daemon.cli("hold", "2")

    with Opening(str(daemon.socket), gate) as client:
        counts = workflow_wait.wait_until_still(client, int(flow))["counts"]
    waited = daemon.cli("workflow", "wait", flow)

    assert counts == {"succeeded": 1, "held": 1}
    assert waited.returncode == 1
    assert "workflow 1 waits for a person: b (held)" in waited.stderr


def test_wait_when_its_patience_ends_first_then_it_says_so_and_the_workflow_goes_on(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    flow = sent(daemon, tmp_path, {"a": {"command": command, "args": args}})

    late = daemon.cli("workflow", "wait", flow, "--timeout", "200ms")
    now = daemon.cli("workflow", "wait", flow, "--timeout", "0s", "--json")
    gate.open()
    done = daemon.cli("workflow", "wait", flow, "--timeout", "1h")
    over = daemon.cli("workflow", "wait", flow, "--timeout", "0s", "--json")

    assert (late.returncode, late.stdout) == (75, "")
    assert late.stderr == "stoker: workflow 1 has not ended within 200ms\nhint: stoker workflow show 1\n"
    assert (now.returncode, now.stdout) == (75, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (over.returncode, json.loads(over.stdout)["state"]) == (0, "succeeded")


def test_dry_run_when_json_is_given_then_no_field_claims_that_it_is_stored(
    daemon_of_all: DaemonProcess,
) -> None:
    planned = json.loads(daemon_of_all.cli("workflow", "submit", "--dry-run", "--json", str(EXAMPLE)).stdout)

    assert (planned["id"], planned["state"], set(planned["steps"].values())) == (None, None, {None})
    assert planned["layers"][0] == ["configure"]


def test_strategies_when_help_lists_them_then_they_are_all_of_our_own() -> None:
    assert set(workflow_control.STRATEGIES) == set(BUILT_IN)


@pytest.mark.parametrize(
    ("states", "still"),
    [
        (["held", "waiting"], True),  # the second needs the first
        (["held", "succeeded"], True),
        (["succeeded", "held"], True),
        (["succeeded", "waiting"], False),
        (["waiting", "held"], False),  # between two attempts
        (["running", "held"], False),
        (["held", "queued"], False),
    ],
)
def test_wait_when_a_step_is_held_then_it_goes_on_while_another_will_move(states: list[str], still: bool) -> None:  # noqa: FBT001
    needs: list[list[dict[str, str]]] = [[], [{"step": "a", "on": "ok"}]]
    steps = [{"name": name, "state": state, "needs": own} for name, state, own in zip("ab", states, needs, strict=True)]

    assert workflow_wait._is_still({"state": "running", "steps": steps}) is still


@pytest.mark.parametrize(("second", "still"), [("queued", True), ("waiting", True), ("running", False)])
def test_wait_when_a_workflow_is_paused_then_it_goes_on_while_something_runs(second: str, still: bool) -> None:  # noqa: FBT001
    steps = [{"name": name, "state": state, "needs": []} for name, state in (("a", "succeeded"), ("b", second))]

    assert workflow_wait._is_still({"state": "paused", "steps": steps}) is still


def test_wait_when_a_workflow_is_paused_and_still_then_the_hint_is_to_resume_it(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, daemon, tmp_path)
    with daemon.client() as client:
        work.running(client, 1)
    daemon.cli("workflow", "pause", flow)

    with Opening(str(daemon.socket), gate) as client:
        state = workflow_wait.wait_until_still(client, int(flow))["state"]
    waited = daemon.cli("workflow", "wait", flow)

    assert state == "paused"
    assert (waited.returncode, waited.stderr) == (
        1, "stoker: workflow 1 is paused\nhint: stoker workflow resume 1\n"
    )  # fmt: skip


def test_skip_when_others_wait_for_the_step_then_they_are_named(daemon: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(daemon, tmp_path, {"a": flows.step("exit 1"), "b": flows.step("sleep 60", "a")})
    daemon.cli("workflow", "wait", flow)
    listed = daemon.cli("workflow", "ls").stdout.splitlines()[1].split()

    skipped = daemon.cli("workflow", "skip", flow, "a")

    assert listed[:3] == ["1", "failed", "0/2"]
    assert (skipped.stdout, skipped.stderr) == ("workflow 1 running\n", "stoker: run without the result of a: b\n")


def test_retry_when_no_step_failed_then_it_says_that_none_is_taken(daemon: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(daemon, tmp_path, {"a": flows.step("true")})
    daemon.cli("workflow", "wait", flow)

    done = daemon.cli("workflow", "retry", flow)

    assert (done.returncode, done.stdout) == (0, "workflow 1 succeeded\n")
    assert done.stderr.startswith("stoker: no step failed, so no step was queued again")


def test_submit_when_a_flow_has_many_mistakes_then_they_have_the_order_of_the_file(
    daemon_of_all: DaemonProcess,
) -> None:
    text = (
        'name = "x"\n[steps.a]\ncommand = "no-such-program"\nqueue = "nope"\nargs = ["{{x}}"]\nneeds = ["z"]\n'
        '[steps.b]\ntimeout_ms = "2m"\ncommand = "true"\n[steps.a2]\ncommand = "true"\nwidth = 2\n'
    )

    done = daemon_of_all.cli("workflow", "submit", "-", input=text)
    empty = daemon_of_all.cli("workflow", "submit", "-", input="")

    first, *mistakes = done.stderr.splitlines()
    assert first == "stoker: stdin has 6 mistakes; nothing was stored"
    assert [line.split(": ")[1] for line in mistakes] == [
        "steps.a.command", "steps.a.queue", "steps.a.args[0]", "steps.a.needs[0]", "steps.b.timeout_ms",
        "steps.a2.width",
    ]  # fmt: skip
    assert "a table [steps.NAME] in TOML" in empty.stderr


def test_complete_when_path_is_in_the_defaults_then_steps_with_variables_have_it_too(tmp_path: Path) -> None:
    (tmp_path / "tool").touch(mode=0o755)
    step = {"command": "tool", "env": {"A": "1"}}

    flow = flowfile.complete({"defaults": {"env": {"PATH": str(tmp_path)}}, "steps": {"a": step}})

    assert flow["steps"]["a"]["command"] == str(tmp_path / "tool")


def test_wait_when_it_is_interrupted_then_it_says_that_the_workflow_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow_wait, "patiently", interrupted)

    with pytest.raises(KeyboardInterrupt):
        workflow_wait.until_ended({}, 7)

    assert capsys.readouterr().err == "stoker: workflow 7 goes on\nhint: stoker workflow cancel 7 ends it\n"


def test_pause_when_steps_wait_then_each_says_why_until_it_is_resumed(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, daemon, tmp_path)
    with daemon.client() as client:
        work.running(client, 1)
        paused = daemon.cli("workflow", "pause", flow)
        gate.open()
        client.wait(1)
        until(lambda: work.state(client, 2) == "queued", why="a step that could start")
    why = daemon.cli("why", "2")

    resumed = daemon.cli("workflow", "resume", flow, "--wait")

    assert (paused.stdout, paused.stderr) == ("workflow 1 paused\n", "stoker: still running: a\n")
    assert why.stdout == "workflow 1, of which it is step 'b', is paused\nnext: stoker workflow resume 1\n"
    assert (resumed.returncode, resumed.stdout) == (0, "workflow 1 running\n")


def test_resume_when_it_is_explained_then_each_step_has_a_reason_and_nothing_changes(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(daemon, tmp_path, {"a": flows.step("true", verify=True), "b": flows.step("exit 3", "a")})
    daemon.cli("workflow", "wait", flow)

    explained = daemon.cli("workflow", "resume", flow, "--from", "a", "--strategy", "restart", "--explain")
    trusted = daemon.cli("workflow", "resume", flow, "--no-verify", "--explain")
    unknown = daemon.cli("workflow", "resume", flow, "--strategy", "nope")
    shown = json.loads(daemon.cli("workflow", "show", flow, "--json").stdout)
    lost = daemon.cli("workflow", "resume", flow, "--from", "nope")
    daemon.cli("workflow", "skip", flow, "b")
    done = daemon.cli("workflow", "resume", flow, "--from", "b", "--strategy", "skip")

    assert [line.split()[:4] for line in explained.stdout.splitlines()] == [
        ["STEP", "JOB", "STATE", "RUNS"], ["a", "1", "succeeded", "no"], ["b", "2", "failed", "yes"],
    ]  # fmt: skip
    assert "it was completed, and its fingerprint has not changed" in explained.stdout
    assert "made of" not in trusted.stdout
    assert unknown.returncode == 65
    assert "from_checkpoint" in unknown.stderr
    assert shown["state"] == "failed"
    assert lost.stderr.splitlines()[0] == "stoker: --from nope: workflow 1 has no step 'nope' (it has: a, b)"
    assert done.stderr.endswith("hint: stoker workflow retry 1 --step b\n")


def test_rollback_when_steps_were_completed_since_then_they_are_named_as_not_undone(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(daemon, tmp_path, {"a": flows.step("true"), "b": flows.step("exit 3", "a")})
    daemon.cli("workflow", "wait", flow)

    without = daemon.cli("workflow", "rollback", flow)
    done = daemon.cli("workflow", "rollback", flow, "--to", "1")
    state = daemon.cli("workflow", "ls", "--state", "paused", "--ids")

    assert (without.returncode, "--to latest" in without.stderr) == (64, True)
    assert done.returncode == 0
    assert "stoker: back to checkpoint 1 (seq 1)" in done.stderr
    assert "stoker: queued again: b" in done.stderr
    assert "stoker: completed since then and not undone: a" in done.stderr
    assert state.stdout == "1\n"


def test_needs_when_they_are_changed_then_the_graph_shows_it_and_a_cycle_is_refused(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    steps = {"a": {"command": command, "args": args}, "b": flows.step("true", "a"), "c": flows.step("true", "a")}
    flow = sent(daemon, tmp_path, steps)

    added = daemon.cli("workflow", "add-need", flow, "c", "b:any")
    drawn = daemon.cli("workflow", "graph", flow)
    cycle = daemon.cli("workflow", "add-need", flow, "b", "c")
    itself, unknown = (daemon.cli("workflow", "add-need", flow, "b", need) for need in ("b", "z"))
    conditional = daemon.cli("workflow", "remove-need", flow, "c", "b:any")
    removed = daemon.cli("workflow", "remove-need", flow, "c", "b", "--reason", "not for this one")
    skipped = daemon.cli("workflow", "skip", flow, "b")
    gate.open()
    waited = daemon.cli("workflow", "wait", flow)

    assert (added.stdout, added.stderr) == ("workflow 1 running\n", "stoker: c needs: a b(any)\n")
    assert itself.stderr == "stoker: a cycle: b -> b, each needed by the next\nhint: stoker workflow graph 1\n"
    assert unknown.stderr.splitlines()[0] == "stoker: workflow 1 has no step 'z' (it has: a, b, c)"
    assert conditional.stderr == "stoker: step c does not need 'b:any' (it needs: a, b)\n"
    assert drawn.stdout.splitlines()[-1].endswith("← a b(any)")
    assert cycle.returncode == 65
    assert "a cycle: " in cycle.stderr
    assert removed.stderr == "stoker: c needs: a\n"
    assert (skipped.returncode, waited.returncode) == (0, 0)
    assert "skipped" in daemon.cli("workflow", "show", flow).stdout


def test_cancel_when_it_runs_then_its_steps_end_and_another_time_is_an_error(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(daemon, tmp_path, {"a": flows.step("sleep 60"), "b": flows.step("true", "a")})

    cancelled = daemon.cli("workflow", "cancel", flow, "--reason", "wrong branch")
    waited = daemon.cli("workflow", "wait", flow, "--json")
    again = daemon.cli("workflow", "cancel", flow)

    assert cancelled.returncode == 0
    assert (waited.returncode, json.loads(waited.stdout)["state"]) == (1, "cancelled")
    assert again.returncode == 65


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["workflow", "show", "99"], "there is no workflow 99"),
        (["workflow", "show", "x"], "'x' is not the id of a workflow"),
        (["workflow", "retry", "1", "--all", "--failed"], "exclude each other"),
        (["workflow", "ls", "--state", "done"], "'done' is not one of"),
        (["workflow", "submit", "/no/such/file"], "cannot read /no/such/file"),
        (["workflow", "submit", ""], "cannot read '': "),
        (["workflow", "submit", "x", "--dry-run", "--wait"], "nothing to wait for"),
        (["workflow", "graph", "/no/such/file"], "hint: name the id of a workflow, or a flow file"),
        (["workflow", "ls", "--limit", "0"], "--limit: 0 is less than 1"),
        (["workflow", "ls", "--limit", "1", "--all"], "--all and --limit contradict each other"),
        (["workflow", "rollback", "1", "--to", "x"], "--to: 'x' is not the id of a checkpoint"),
        (["workflow", "retry", "1", "--timeout", "0s"], "--timeout 0s: "),
        (["workflow", "resume", "1", "--timeout", "0s"], "--timeout 0s: "),
        (["workflow", "resume", "1", "--max-attempts", "0"], "--max-attempts: 0 is less than 1"),
        (["workflow", "submit", "x", "--param", "a"], "'a' is not KEY=VALUE"),
        (["workflow", "resume", "1", "--explain", "--wait"], "nothing to wait for"),
        (["checkpoint", "show", "99"], "there is no checkpoint 99"),
        (["checkpoint", "show", "x"], "'x' is not the id of a checkpoint"),
        (["checkpoint", "ls"], "name one: a workflow"),
        (["checkpoint", "ls", "1", "--job", "2"], "name only one: a workflow"),
        (["checkpoint", "ls", "x"], "'x' is not the id of a workflow\nhint: stoker workflow ls"),
        (["checkpoint", "ls", "1", "--limit", "0"], "--limit: 0 is less than 1"),
        (["checkpoint", "ls", "77"], "there is no workflow 77\nhint: stoker workflow ls"),
        (["checkpoint", "ls", "--job", "77"], "there is no job 77\nhint: stoker ls --all"),
        (["checkpoint", "export", "--workflow", "77"], "there is no workflow 77"),
        (["checkpoint", "export"], "name a checkpoint"),
        (["checkpoint", "export", "1", "--job", "2"], "name a checkpoint"),
    ],
)
def test_commands_when_the_object_does_not_exist_then_the_error_says_so(
    daemon_of_all: DaemonProcess, arguments: list[str], expected: str
) -> None:
    done = daemon_of_all.cli(*arguments)

    assert done.returncode in {64, 65}
    assert expected in done.stderr
    assert done.stdout == ""
