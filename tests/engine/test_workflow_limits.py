"""Ends of a workflow, or of a group, before all of its steps have run: fail_fast, abort_on, timeout, deadline."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, NotAllowed
from tests.support.facts import until
from tests.support.flows import flow_end, job_of, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import Gate, attempts_of, job_view, lines, running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"
GOOD, BAD = "exit 0", "exit 1"
SKIPPED = """
UPDATE jobs SET state = 'skipped', reason = 'user', finished_at = created_at WHERE step = 'a' AND workflow_id = ?
"""
CLEAN: dict[str, Any] = {"finally": {"clean": step(GOOD)}, "on_failure": {"alert": step(GOOD)}}


def of_item(script: str, **options: Any) -> dict[str, Any]:
    return step(script, each=["a", "b", "c"], fail_fast=True, grace_ms=100, **options)


def test_fail_fast_when_a_step_fails_then_the_others_of_its_group_end_and_no_more(client: stoker.Client) -> None:
    script = 'test "$STOKER_ITEM" != b || exit 1; sleep 600'
    workflow = sent_flow(client, {"work": of_item(script), "other": step(GOOD), "after": step(GOOD, "work")}, **CLEAN)

    assert flow_end(client, workflow) == "failed"

    assert step_states(client, workflow) == {
        "work[a]": "cancelled",
        "work[b]": "failed",
        "work[c]": "cancelled",
        "other": "succeeded",
        "after": "skipped",
        "alert": "succeeded",
        "clean": "succeeded",
    }
    assert job_view(client, job_of(client, workflow, "work[a]"))["reason"] == "aborted"


def test_fail_fast_when_the_group_runs_one_by_one_then_no_other_step_starts(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger, mended = tmp_path / "ledger", tmp_path / "mended"
    script = f"echo $STOKER_ITEM >> {ledger}; test -e {mended}"
    workflow = sent_flow(client, {"work": of_item(script, width=1)})
    assert flow_end(client, workflow) == "failed"
    assert lines(ledger) == ["a"]
    mended.touch()

    client.call("workflow.retry", {"id": workflow, "again": "failed"})

    assert flow_end(client, workflow) == "succeeded"
    assert sorted(lines(ledger)) == ["a", "a", "b", "c"]


def test_abort_when_a_step_exits_with_that_code_then_the_workflow_ends(
    client: stoker.Client,
) -> None:
    steps = {
        "fatal": step("exit 3", abort_on=[3], max_attempts=5, critical=False),
        "long": step("sleep 600", grace_ms=100),
        "after": step(GOOD, "long"),
    }
    workflow = sent_flow(client, steps, **CLEAN)

    assert flow_end(client, workflow) == "failed"

    view = workflow_view(client, workflow)
    assert (view["intent"], view["aborted_by"]) == ("abort", "abort_on")
    assert step_states(client, workflow) == {
        "fatal": "failed",
        "long": "cancelled",
        "after": "cancelled",
        "alert": "succeeded",
        "clean": "succeeded",
    }
    assert job_view(client, job_of(client, workflow, "fatal"))["attempts"] == 1


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_limit_when_it_passes_then_the_workflow_fails_and_a_retry_has_it_anew(
    client: stoker.Client, tmp_path: Path, limit: str
) -> None:
    mended = tmp_path / "mended"
    steps = {"long": step(f"test -e {mended} || sleep 600", grace_ms=100), "after": step(GOOD, "long")}
    alert = {"alert": step(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/inputs')}
    workflow = sent_flow(client, steps, **{f"{limit}_ms": 2_000}, **{**CLEAN, "on_failure": alert})

    assert flow_end(client, workflow) == "failed"

    view = workflow_view(client, workflow)
    assert view["aborted_by"] == limit
    assert step_states(client, workflow) == {
        "long": "cancelled",
        "after": "cancelled",
        "alert": "succeeded",
        "clean": "succeeded",
    }
    inputs = json.loads((tmp_path / "inputs").read_text())
    assert {name: one["reason"] for name, one in inputs.items()} == {"long": "aborted", "after": "aborted"}
    mended.touch()
    client.call("workflow.retry", {"id": workflow, "again": "failed"})
    again = workflow_view(client, workflow)
    assert (again["intent"], again["aborted_by"]) == ("run", None)
    if limit == "deadline":
        assert again["deadline"] > view["deadline"]
    settled(client, workflow)


def child(steps: dict[str, Any], **head: Any) -> dict[str, Any]:
    return {"workflow": {"name": "child", "steps": steps, **head}}


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_limit_when_that_of_a_nested_workflow_passes_then_only_its_steps_end(
    client: stoker.Client, gate: Gate, limit: str
) -> None:
    inner = {"long": step("sleep 600", grace_ms=100, critical=False), "after": step(GOOD, "long", critical=False)}
    deep = {"deep": child({"long": step("sleep 600", grace_ms=100)}), **inner}
    alert = {**step(GOOD, "build"), "when": "any_failed"}
    steps = {"build": child(deep, **{f"{limit}_ms": 500}), "other": gate.spec(GOOD), "alert": alert}
    workflow = sent_flow(client, steps)

    until(lambda: step_states(client, workflow)["alert"] == "succeeded", why="the end of the nested workflow")

    assert step_states(client, workflow) == {
        "build/deep/long": "cancelled",
        "build/deep": "failed",
        "build/long": "cancelled",
        "build/after": "cancelled",
        "build": "failed",
        "other": "running",
        "alert": "succeeded",
    }
    build = job_of(client, workflow, "build")
    (attempt,) = attempts_of(client, build)
    assert attempt["error"] == f"ended by its {limit}: {limit}_ms = 500"
    assert (attempt["stop_reason"], job_view(client, build)["reason"]) == (limit, limit)
    view = workflow_view(client, workflow)
    assert (view["intent"], view["inner_limits"]) == ("run", [])
    gate.open()
    assert flow_end(client, workflow) == "failed"
    client.call("workflow.retry", {"id": workflow, "again": "failed"})
    assert flow_end(client, workflow) == "failed"  # the limit counts anew, and passes again
    assert len(attempts_of(client, job_of(client, workflow, "build"))) == 2


def test_limit_when_a_nested_workflow_ends_in_time_then_nothing_is_kept(client: stoker.Client, gate: Gate) -> None:
    limits = {"timeout_ms": 3_600_000, "deadline_ms": 3_600_000}
    workflow = sent_flow(client, {"build": child({"a": gate.spec(GOOD)}, **limits), "end": gate.spec(GOOD)})
    running(client, job_of(client, workflow, "build/a"))
    (counting,) = workflow_view(client, workflow)["inner_limits"]
    assert (counting["step"], counting["passed"]) == ("build", None)
    assert counting["times_out_at"] > 0
    assert counting["deadline"] > 0
    gate.open()

    assert flow_end(client, workflow) == "succeeded"

    assert workflow_view(client, workflow)["inner_limits"] == []


def test_limit_when_the_workflow_is_paused_then_it_counts(client: stoker.Client, gate: Gate) -> None:
    handlers = {"finally": {"clean": gate.spec("exit 0")}}
    workflow = sent_flow(client, {"a": step("sleep 600", grace_ms=100)}, deadline_ms=1_500, **handlers)
    client.call("workflow.pause", {"id": workflow})

    until(lambda: workflow_view(client, workflow)["aborted_by"] == "deadline", why="the deadline")

    with pytest.raises(NotAllowed, match="is being ended, so pause does not apply"):
        client.call("workflow.pause", {"id": workflow})
    running(client, job_of(client, workflow, "clean"))
    gate.open()
    assert flow_end(client, workflow) == "failed"


def test_limit_when_it_passes_while_no_daemon_runs_then_the_start_ends_the_workflow(
    stopped_daemon: DaemonProcess,
) -> None:
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        ids = [sent_flow(client, {"a": step(GOOD)}, deadline_ms=50, **CLEAN)]
        nested = sent_flow(client, {"build": child({"a": step(GOOD, critical=False)}, deadline_ms=50)})
        stopped_daemon.kill9()

    stopped_daemon.start()

    with stopped_daemon.client() as client:
        until(lambda: step_states(client, ids[0])["a"] == "cancelled", why="the end of the step")
        client.call("queue.resume", {"name": "default"})
        assert flow_end(client, ids[0]) == "failed"
        assert step_states(client, ids[0])["clean"] == "succeeded"
        assert flow_end(client, nested) == "failed"
        assert step_states(client, nested) == {"build/a": "cancelled", "build": "failed"}


def test_ends_when_a_crash_came_before_their_second_half_then_the_start_goes_on(daemon: DaemonProcess) -> None:
    """Each row is as the commit leaves it after which the daemon died."""
    held = {**step(GOOD, queue="closed"), "fail_fast": True, "each": ["x", "y"]}
    with daemon.client() as client:
        for queue in ("closed", "late"):
            client.call("queue.set", {"name": queue})
            client.call("queue.pause", {"name": queue})
        cut = sent_flow(client, {"a": held})
        late = {"a": step(GOOD, queue="closed", critical=False)}
        passed = sent_flow(client, {"build": child(late, timeout_ms=3_600_000)})
        aborted, ended = (sent_flow(client, {"a": step(GOOD, queue="closed")}, **CLEAN) for _ in "ab")
        steps = {"a": step(GOOD, queue="late"), "b": step(GOOD, "a", queue="closed")}
        timed = sent_flow(client, steps, timeout_ms=3_600_000)
        client.call("queue.resume", {"name": "late"})  # its timeout begins after the commit of its row
        until(lambda: step_states(client, timed) == {"a": "succeeded", "b": "queued"}, why="the start of its timeout")
    daemon.kill9()
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        database.execute("UPDATE workflows SET cut = 'a' WHERE id = ?", (cut,))
        database.execute("UPDATE workflows SET cut = 'build/' WHERE id = ?", (passed,))
        database.execute("UPDATE inner_limits SET passed = 'timeout' WHERE workflow_id = ?", (passed,))
        database.execute("UPDATE workflows SET intent = 'abort', target = 'abort_on' WHERE id = ?", (aborted,))
        database.execute("UPDATE workflows SET expires_at = 1 WHERE id = ? AND expires_at NOT NULL", (timed,))
        database.execute(SKIPPED, (ended,))
    daemon.start()

    with daemon.client() as client:
        assert [flow_end(client, one) for one in (cut, aborted, timed, ended)] == ["failed"] * 3 + ["succeeded"]
        assert flow_end(client, passed) == "failed"
        assert step_states(client, passed) == {"build/a": "cancelled", "build": "failed"}
        assert step_states(client, cut) == {"a[x]": "cancelled", "a[y]": "cancelled"}
        assert step_states(client, timed) == {"a": "succeeded", "b": "cancelled"}
        assert step_states(client, aborted) == {"a": "cancelled", "alert": "succeeded", "clean": "succeeded"}
        assert step_states(client, ended) == {"a": "skipped", "alert": "skipped", "clean": "succeeded"}


def two_run(client: stoker.Client, workflow: int) -> bool:
    return list(step_states(client, workflow).values()).count("running") == 2


def test_most_running_when_it_is_set_then_no_more_steps_of_the_workflow_run_at_once(
    client: stoker.Client, gate: Gate
) -> None:
    steps = {name: gate.spec("exit 0") for name in "abc"}
    workflow = sent_flow(client, steps, max_running=2)
    nested = sent_flow(client, {"x": {"workflow": {"name": "child", "steps": steps, "max_running": 2}}})

    for flow_id, of in (workflow, f"workflow {workflow}"), (nested, "'x'"):
        until(partial(two_run, client, flow_id), why="two steps")
        waits = next(name for name, state in step_states(client, flow_id).items() if state == "queued")
        why = client.call("job.why", {"id": job_of(client, flow_id, waits)})
        assert f"at most 2 steps of {of} run at once" in why["message"]
    gate.open()

    assert [flow_end(client, one) for one in (workflow, nested)] == ["succeeded", "succeeded"]


def test_labels_when_the_flow_has_some_then_it_and_its_steps_are_found_by_them(client: stoker.Client) -> None:
    steps = {"a": step(GOOD), "b": step(GOOD, labels={"team": "red"}, priority=1)}
    head = {"labels": {"team": "{{who}}", "env": "test"}, "priority": 5, "parameters": {"who": "blue"}}
    labelled = sent_flow(client, steps, **head, defaults={"labels": {"env": "prod"}})
    sent_flow(client, steps)

    jobs = {name: job_view(client, job_of(client, labelled, name)) for name in steps}
    assert {name: job["labels"] for name, job in jobs.items()} == {
        "a": {"team": "blue", "env": "prod"},
        "b": {"team": "red", "env": "prod"},
    }
    assert [jobs["a"]["priority"], jobs["b"]["priority"]] == [5, 1]
    assert workflow_view(client, labelled)["labels"] == {"team": "blue", "env": "test"}
    found = {
        label: [one["id"] for one in client.call("workflow.list", {"label": label})["workflows"]]
        for label in ("team=blue", "team=red", "env=tes")
    }
    assert found == {"team=blue": [labelled], "team=red": [], "env=tes": []}
    with pytest.raises(FlowInvalid, match=r"labels\.a: \{\{item\}\}"):
        sent_flow(client, {"a": step(GOOD)}, labels={"a": "{{item}}"})


def test_flow_when_its_limits_are_wrong_then_each_mistake_has_its_path(client: stoker.Client) -> None:
    steps = {
        "a": step(GOOD, fail_fast=True),
        "b": step(GOOD, abort_on=[0, 7], success_exit_codes=[7]),
        "c": step(GOOD, abort_on=[256]),
    }

    with pytest.raises(FlowInvalid) as error:
        sent_flow(client, steps, timeout_ms=0, max_running="two", **{"finally": {"d": step(GOOD, abort_on=[1])}})

    assert {one["path"]: one["message"] for one in error.value.details["errors"]} == {
        "timeout_ms": "0ms is less than 1ms, the minimum",
        "max_running": 'expected a whole number or null, got "two"',
        "steps.c.abort_on[0]": "256 is more than 255, the maximum",
        "steps.a.fail_fast": "only a step with `each` or `matrix` has others of its group",
        "steps.b.abort_on": "exit code 7 is a success (success_exit_codes)",
        "finally.d.abort_on": "a handler runs after all steps, so it ends none",
    }
