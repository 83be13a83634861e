"""Workflows on the command line, from a flow file to the end, with commands on the way. All tests share one daemon."""

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


def job_of(daemon: DaemonProcess, workflow: str, step: str) -> str:
    """The id of the job of a step."""
    with daemon.client() as client:
        return str(flows.job_of(client, int(workflow), step))


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
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps: dict[str, dict[str, Any]] = {"a": flows.step("echo of-a; exit 1"), "b": flows.step("true", "a")}
    workflow = sent(shared, tmp_path, steps)
    shared.cli("workflow", "wait", workflow)

    shown = shared.cli("workflow", "show", workflow, "--logs")
    as_json = json.loads(shared.cli("workflow", "show", workflow, "--logs", "--json").stdout)

    assert shown.stdout.endswith(f"\n\na (stoker logs {job_of(shared, workflow, 'a')}):\nof-a\n")
    assert {step["name"]: step["log_tail"] for step in as_json["steps"]} == {"a": "of-a\n", "b": ""}


def test_example_when_it_is_submitted_then_it_succeeds_and_every_view_shows_it(shared: DaemonProcess) -> None:
    planned = shared.cli("workflow", "submit", "--dry-run", str(EXAMPLE))
    done = shared.cli("workflow", "submit", "--wait", "--param", "version=1.4", str(EXAMPLE))
    flow = done.stdout.strip()
    listed, shown = shared.cli("workflow", "ls"), shared.cli("workflow", "show", flow)
    drawn = shared.cli("workflow", "graph", flow)
    job = job_of(shared, flow, "link")
    log, of_job, jobs = shared.cli("logs", job), shared.cli("show", job), shared.cli("ls")
    chain = json.loads(shared.cli("checkpoint", "ls", flow, "--all", "--json").stdout)
    kinds = [one["kind"] for one in chain["checkpoints"]]

    assert planned.stdout.splitlines()[0] == "7 steps in 5 layers"
    assert "compile:1..3 (width 2)" in planned.stdout
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{flow}\n", "")
    assert "succeeded" in listed.stdout
    assert "report" in shown.stdout
    assert "may fail" in shown.stdout
    assert "✓ compile x3" in drawn.stdout
    assert log.stdout.count(".o") == 3
    assert f"workflow     {flow}, step link" in of_job.stdout
    assert f"w{flow} build/link: " in jobs.stdout
    assert kinds.count("progress") == 3


@pytest.mark.parametrize(("broken", "report_log"), [("compiling", ["the build of 1.4 failed"]), ("nothing", [])])
def test_example_when_a_step_fails_then_its_report_step_runs(
    shared: DaemonProcess, tmp_path: Path, broken: str, report_log: list[str]
) -> None:
    source = written(tmp_path, EXAMPLE.read_text().replace(f'"echo \\"{broken}', '"exit 1; echo \\"'), "build.toml")

    done = shared.cli("workflow", "submit", "--wait", "--param", "version=1.4", source)

    report = job_of(shared, done.stdout.strip(), "report")
    assert shared.cli("logs", report).stdout.splitlines() == report_log
    assert done.returncode == bool(report_log)


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
        f"  {source}: steps.a.timeout: no such field (durations in a flow are whole milliseconds: timeout_ms = 90000)"
        in lines
    )
    assert f"  {source}: steps.d.comand: no such field (did you mean command?)" in lines
    assert "timeout_ms = 120000" in done.stderr
    assert f"  {source}: steps.e.limits: expected a table, got 5" in lines
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


def test_submit_when_the_flow_does_not_fit_a_frame_then_it_says_so(shared: DaemonProcess, tmp_path: Path) -> None:
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


def test_wait_when_a_workflow_fails_then_it_names_the_step_and_a_retry_succeeds(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {"a": flows.step("true"), "b": flows.step(f"test -e {tmp_path}/fixed", "a"), "c": flows.step("true", "b")}
    flow = sent(shared, tmp_path, steps)

    failed = shared.cli("workflow", "wait", flow)
    (tmp_path / "fixed").touch()
    limits = ("--timeout", "30s", "--max-attempts", "2")
    retried = shared.cli("workflow", "retry", flow, "--failed", "--wait", "--reason", "mended", *limits)
    of_step = shared.cli("workflow", "retry", flow, "--step", "c")
    shared.cli("workflow", "wait", flow)

    assert (failed.returncode, failed.stderr.splitlines()[0]) == (1, f"stoker: workflow {flow} failed: b (failed)")
    assert (retried.returncode, retried.stdout) == (0, f"workflow {flow} running\n")
    assert retried.stderr == "stoker: queued again: b c\n"
    assert of_step.stderr == "stoker: queued again: c\n"
    assert "timeout      30.0s an attempt" in shared.cli("show", job_of(shared, flow, "b")).stdout


def test_show_when_a_failure_is_analysed_then_cause_and_next_command_are_printed(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    slow = flows.step("sleep 60", timeout_ms=100)
    flow = sent(shared, tmp_path, {"a": slow, "b": flows.step("true", "a"), "c": flows.step("exit 2", critical=False)})
    shared.cli("workflow", "wait", flow)

    shown = shared.cli("workflow", "show", flow, "--analyse")
    archive = json.loads(shared.cli("workflow", "show", flow, "--json", "--analyse").stdout)["analysis"]
    good = sent(shared, tmp_path, {"a": flows.step("true")})
    shared.cli("workflow", "wait", good)
    nothing = shared.cli("workflow", "show", good, "--analyse")

    last = shown.stdout.splitlines()[-6:]
    assert last[0].startswith("2 of 3 steps failed: a ran for longer than allowed")
    assert last[1] == "failure     total; a critical step failed"
    assert {tuple(line.split()) for line in last[2:5]} == {("timeout", "a"), ("dependency", "b"), ("exit", "c")}
    assert last[5] == f"next: stoker workflow retry {flow} --failed --timeout 1s"
    assert archive["blocked"] == ["b"]
    assert "nothing to analyse" in nothing.stderr
    assert re.search(r"^c +\d+ +failed +exit 2 ", shown.stdout, re.MULTILINE)


def test_wait_when_only_a_person_can_move_it_on_then_it_says_so(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, shared, tmp_path)
    shared.cli("hold", job_of(shared, flow, "b"))

    with Opening(str(shared.socket), gate) as client:
        counts = workflow_wait.wait_until_still(client, int(flow))["counts"]
    waited = shared.cli("workflow", "wait", flow)

    assert counts == {"succeeded": 1, "held": 1}
    assert waited.returncode == 1
    assert f"workflow {flow} waits for a person: b (held)" in waited.stderr


def test_wait_when_its_patience_ends_first_then_it_says_so_and_the_workflow_goes_on(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    flow = sent(shared, tmp_path, {"a": {"command": command, "args": args}})

    late = shared.cli("workflow", "wait", flow, "--timeout", "200ms")
    now = shared.cli("workflow", "wait", flow, "--timeout", "0s", "--json")
    gate.open()
    done = shared.cli("workflow", "wait", flow, "--timeout", "1h")
    over = shared.cli("workflow", "wait", flow, "--timeout", "0s", "--json")

    assert (late.returncode, late.stdout) == (75, "")
    assert late.stderr == f"stoker: workflow {flow} has not ended within 200ms\nhint: stoker workflow show {flow}\n"
    assert (now.returncode, now.stdout) == (75, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (over.returncode, json.loads(over.stdout)["state"]) == (0, "succeeded")


def test_dry_run_when_json_is_given_then_no_field_claims_that_it_is_stored(
    shared: DaemonProcess,
) -> None:
    planned = json.loads(shared.cli("workflow", "submit", "--dry-run", "--json", str(EXAMPLE)).stdout)

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
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, shared, tmp_path)
    with shared.client() as client:
        work.running(client, flows.job_of(client, int(flow), "a"))
    shared.cli("workflow", "pause", flow)

    with Opening(str(shared.socket), gate) as client:
        state = workflow_wait.wait_until_still(client, int(flow))["state"]
    waited = shared.cli("workflow", "wait", flow)

    assert state == "paused"
    assert waited.returncode == 1
    assert waited.stderr == f"stoker: workflow {flow} is paused\nhint: stoker workflow resume {flow}\n"


def test_skip_when_others_wait_for_the_step_then_they_are_named(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("exit 1"), "b": flows.step("sleep 60", "a")})
    shared.cli("workflow", "wait", flow)
    listed = shared.cli("workflow", "ls").stdout.splitlines()[1].split()

    skipped = shared.cli("workflow", "skip", flow, "a")
    shared.cli("workflow", "cancel", flow)

    assert listed[:3] == [flow, "failed", "0/2"]
    assert skipped.stdout == f"workflow {flow} running\n"
    assert skipped.stderr == "stoker: run without the result of a: b\n"


def test_retry_when_no_step_failed_then_it_says_that_none_is_taken(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("true")})
    shared.cli("workflow", "wait", flow)

    done = shared.cli("workflow", "retry", flow)

    assert (done.returncode, done.stdout) == (0, f"workflow {flow} succeeded\n")
    assert done.stderr.startswith("stoker: no step failed, so no step was queued again")


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
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, shared, tmp_path)
    with shared.client() as client:
        first, second = (flows.job_of(client, int(flow), step) for step in "ab")
        work.running(client, first)
        paused = shared.cli("workflow", "pause", flow)
        gate.open()
        client.wait(first)
        until(lambda: work.state(client, second) == "queued", why="a step that could start")
    why = shared.cli("why", str(second))

    resumed = shared.cli("workflow", "resume", flow, "--wait")

    assert (paused.stdout, paused.stderr) == (f"workflow {flow} paused\n", "stoker: still running: a\n")
    paused_words = f"workflow {flow}, of which it is step 'b', is paused\nnext: stoker workflow resume {flow}\n"
    assert why.stdout == paused_words
    assert (resumed.returncode, resumed.stdout) == (0, f"workflow {flow} running\n")


def test_resume_when_it_is_explained_then_each_step_has_a_reason_and_nothing_changes(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("true", verify=True), "b": flows.step("exit 3", "a")})
    shared.cli("workflow", "wait", flow)

    explained = shared.cli("workflow", "resume", flow, "--from", "a", "--strategy", "restart", "--explain")
    trusted = shared.cli("workflow", "resume", flow, "--no-verify", "--explain")
    unknown = shared.cli("workflow", "resume", flow, "--strategy", "nope")
    shown = json.loads(shared.cli("workflow", "show", flow, "--json").stdout)
    lost = shared.cli("workflow", "resume", flow, "--from", "nope")
    shared.cli("workflow", "skip", flow, "b")
    done = shared.cli("workflow", "resume", flow, "--from", "b", "--strategy", "skip")

    assert [line.split()[:4] for line in explained.stdout.splitlines()] == [
        ["STEP", "JOB", "STATE", "RUNS"],
        ["a", job_of(shared, flow, "a"), "succeeded", "no"],
        ["b", job_of(shared, flow, "b"), "failed", "yes"],
    ]
    assert "it was completed, and its fingerprint has not changed" in explained.stdout
    assert "made of" not in trusted.stdout
    assert unknown.returncode == 65
    assert "from_checkpoint" in unknown.stderr
    assert shown["state"] == "failed"
    assert lost.stderr.splitlines()[0] == f"stoker: --from nope: workflow {flow} has no step 'nope' (it has: a, b)"
    assert done.stderr.endswith(f"hint: stoker workflow retry {flow} --step b\n")


def test_rollback_when_steps_were_completed_since_then_they_are_named_as_not_undone(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("true"), "b": flows.step("exit 3", "a")})
    shared.cli("workflow", "wait", flow)

    without = shared.cli("workflow", "rollback", flow)
    oldest = shared.cli("checkpoint", "ls", flow, "--ids", "--all").stdout.split()[-1]
    done = shared.cli("workflow", "rollback", flow, "--to", oldest)
    paused = shared.cli("workflow", "ls", "--state", "paused", "--ids").stdout.split()
    shared.cli("workflow", "cancel", flow)

    assert (without.returncode, "--to latest" in without.stderr) == (64, True)
    assert done.returncode == 0
    assert f"stoker: back to checkpoint {oldest} (seq 1)" in done.stderr
    assert "stoker: queued again: b" in done.stderr
    assert "stoker: completed since then and not undone: a" in done.stderr
    assert flow in paused


def test_needs_when_they_are_changed_then_the_graph_shows_it_and_a_cycle_is_refused(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    steps = {"a": {"command": command, "args": args}, "b": flows.step("true", "a"), "c": flows.step("true", "a")}
    flow = sent(shared, tmp_path, steps)

    added = shared.cli("workflow", "add-need", flow, "c", "b:any")
    drawn = shared.cli("workflow", "graph", flow)
    cycle = shared.cli("workflow", "add-need", flow, "b", "c")
    itself, unknown = (shared.cli("workflow", "add-need", flow, "b", need) for need in ("b", "z"))
    conditional = shared.cli("workflow", "remove-need", flow, "c", "b:any")
    removed = shared.cli("workflow", "remove-need", flow, "c", "b", "--reason", "not for this one")
    skipped = shared.cli("workflow", "skip", flow, "b")
    gate.open()
    waited = shared.cli("workflow", "wait", flow)

    assert (added.stdout, added.stderr) == (f"workflow {flow} running\n", "stoker: c needs: a b(any)\n")
    assert itself.stderr == f"stoker: a cycle: b -> b, each needed by the next\nhint: stoker workflow graph {flow}\n"
    assert unknown.stderr.splitlines()[0] == f"stoker: workflow {flow} has no step 'z' (it has: a, b, c)"
    assert conditional.stderr == "stoker: step c does not need 'b:any' (it needs: a, b)\n"
    assert drawn.stdout.splitlines()[-1].endswith("← a b(any)")
    assert cycle.returncode == 65
    assert "a cycle: " in cycle.stderr
    assert removed.stderr == "stoker: c needs: a\n"
    assert (skipped.returncode, waited.returncode) == (0, 0)
    assert "skipped" in shared.cli("workflow", "show", flow).stdout


def test_cancel_when_it_runs_then_its_steps_end_and_another_time_is_an_error(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("sleep 60"), "b": flows.step("true", "a")})

    cancelled = shared.cli("workflow", "cancel", flow, "--reason", "wrong branch")
    waited = shared.cli("workflow", "wait", flow, "--json")
    again = shared.cli("workflow", "cancel", flow)

    assert cancelled.returncode == 0
    assert (waited.returncode, json.loads(waited.stdout)["state"]) == (1, "cancelled")
    assert again.returncode == 65


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["workflow", "show", "99000"], "there is no workflow 99000"),
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
        (["checkpoint", "show", "99000"], "there is no checkpoint 99000"),
        (["checkpoint", "show", "x"], "'x' is not the id of a checkpoint"),
        (["checkpoint", "ls"], "name one: a workflow"),
        (["checkpoint", "ls", "1", "--job", "2"], "name only one: a workflow"),
        (["checkpoint", "ls", "x"], "'x' is not the id of a workflow\nhint: stoker workflow ls"),
        (["checkpoint", "ls", "1", "--limit", "0"], "--limit: 0 is less than 1"),
        (["checkpoint", "ls", "77000"], "there is no workflow 77000\nhint: stoker workflow ls"),
        (["checkpoint", "ls", "--job", "77000"], "there is no job 77000\nhint: stoker ls --all"),
        (["checkpoint", "export", "--workflow", "77000"], "there is no workflow 77000"),
        (["checkpoint", "export"], "name a checkpoint"),
        (["checkpoint", "export", "1", "--job", "2"], "name a checkpoint"),
    ],
)
def test_commands_when_the_object_does_not_exist_then_the_error_says_so(
    shared: DaemonProcess, arguments: list[str], expected: str
) -> None:
    done = shared.cli(*arguments)

    assert done.returncode in {64, 65}
    assert expected in done.stderr
    assert done.stdout == ""
