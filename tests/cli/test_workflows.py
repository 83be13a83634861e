"""Workflows on the command line, from a flow file to the end, with commands on the way. All tests share one daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stoker.cli import workflow_control
from stoker.core.workflow.strategies import BUILT_IN
from tests.support import flows, work
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flow_files import EXAMPLE, job_of, sent, sent_to, written


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

    assert planned.stdout.splitlines()[0] == "9 steps in 7 layers"
    assert "compile[lexer, parser, main] (width 2)" in planned.stdout
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{flow}\n", "")
    assert "succeeded" in listed.stdout
    assert "alert (when any_failed)" in planned.stdout
    assert "not_needed" in shown.stdout
    assert "test(any_failed)" in shown.stdout
    assert "may fail" in shown.stdout
    assert "✓ compile x3" in drawn.stdout
    assert log.stdout.count(".o") == 3
    assert f"workflow     {flow}, step link" in of_job.stdout
    assert f"w{flow} build/link: " in jobs.stdout
    assert kinds.count("progress") == 3


def test_example_when_a_step_far_ahead_fails_then_its_alert_runs(shared: DaemonProcess, tmp_path: Path) -> None:
    source = written(tmp_path, EXAMPLE.read_text().replace('"echo \\"compiling', '"exit 1; echo \\"'), "build.toml")

    done = shared.cli("workflow", "submit", "--wait", "--param", "version=1.4", source)

    alert = job_of(shared, done.stdout.strip(), "alert")
    assert shared.cli("logs", alert).stdout.splitlines() == ["the build of 1.4 failed"]
    assert done.returncode == 1


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

    lines = shown.stdout.splitlines()
    assert lines[0].startswith("2 of 3 steps failed: a ran for longer than allowed")
    assert lines[1] == "failure     total; a critical step failed"
    assert {tuple(line.split()) for line in lines[2:5]} == {("timeout", "a"), ("dependency", "b"), ("exit", "c")}
    assert lines[5] == f"next: stoker workflow retry {flow} --failed --timeout 1s"
    assert archive["blocked"] == ["b"]
    assert "nothing to analyse" in nothing.stderr
    assert re.search(r"^c +\d+ +failed +exit 2 ", shown.stdout, re.MULTILINE)


def test_strategies_when_help_lists_them_then_they_are_all_of_our_own() -> None:
    assert set(workflow_control.STRATEGIES) == set(BUILT_IN)


def test_skip_when_others_wait_for_the_step_then_they_are_named(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("exit 1"), "b": flows.step("sleep 60", "a")})
    shared.cli("workflow", "wait", flow)
    listed = shared.cli("workflow", "ls").stdout.splitlines()[1].split()

    skipped = shared.cli("workflow", "skip", flow, "a")
    shared.cli("workflow", "cancel", flow)

    assert listed[:3] == [flow, "failed", "0/2"]
    assert skipped.stdout == f"workflow {flow} running\n"
    assert skipped.stderr == "stoker: run without the result of a: b\n"


def test_retry_when_no_step_failed_then_a_remark_is_printed_and_no_step_is_queued(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("true")})
    shared.cli("workflow", "wait", flow)

    done = shared.cli("workflow", "retry", flow)

    assert (done.returncode, done.stdout) == (0, f"workflow {flow} succeeded\n")
    assert done.stderr.startswith("stoker: no step failed, so no step was queued again")


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
    expected = f"stoker: NEED: a cycle: b -> b, each needed by the next\nhint: stoker workflow graph {flow}\n"
    assert itself.stderr == expected
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
        (
            ["workflow", "submit", str(EXAMPLE), "--param", "version=1", "--param", "version=2"],
            "--param version is given",
        ),
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
def test_commands_when_the_object_does_not_exist_then_the_error_names_it(
    shared: DaemonProcess, arguments: list[str], expected: str
) -> None:
    done = shared.cli(*arguments)

    assert done.returncode in {64, 65}
    assert expected in done.stderr
    assert done.stdout == ""
