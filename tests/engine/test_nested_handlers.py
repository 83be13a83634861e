"""Handlers of nested workflows, under a real daemon: when they run, what they know, and what ends them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid
from tests.support.facts import until
from tests.support.flows import flow_end, job_of, sent_flow, step, step_states
from tests.support.work import Gate, lines, running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"
GOOD, BAD = "exit 0", "exit 1"
HANDLERS = {"on_failure": "alert", "on_success": "publish", "finally": "clean"}


def tables(say: str = GOOD) -> dict[str, Any]:
    """One handler in each table."""
    return {table: {name: step(say)} for table, name in HANDLERS.items()}


def child(steps: dict[str, Any], *needs: str, head: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"workflow": {"name": "child", "steps": steps, **(head or tables())}, "needs": list(needs), **options}


def ran(client: stoker.Client, workflow: int, outer: str) -> set[str]:
    states = step_states(client, workflow)
    assert {states[f"{outer}/{name}"] for name in HANDLERS.values()} <= {"succeeded", "skipped", "cancelled"}
    return {name for name in HANDLERS.values() if states[f"{outer}/{name}"] == "succeeded"}


def test_handlers_when_nested_workflows_have_ended_then_those_run_that_apply(client: stoker.Client) -> None:
    broken = {**tables(), "finally": {"clean": step(GOOD), "sweep": step(BAD, critical=True)}}
    steps = {
        "good": child({"a": step(GOOD), "free": step(BAD, critical=False)}),
        "bad": child({"a": step(BAD), "b": step(GOOD, "a")}, critical=False),
        "skipped": child({"a": step(GOOD)}, "bad"),
        "deep": child({"in": child({"a": step(BAD)})}, critical=False),
        "swept": child({"a": step(GOOD)}, head=broken, critical=False),
        "off": {**child({"a": step(GOOD)}), "if": "false"},
    }

    workflow = sent_flow(client, steps, **tables())

    assert flow_end(client, workflow) == "failed"  # `skipped` could not run because of a failure
    assert {outer: ran(client, workflow, outer) for outer in (*steps, "deep/in")} == {
        "good": {"publish", "clean"},
        "bad": {"alert", "clean"},
        "skipped": set(),
        "deep": {"alert", "clean"},
        "deep/in": {"alert", "clean"},
        "swept": {"publish", "clean"},
        "off": set(),
    }
    states = step_states(client, workflow)
    assert [states[outer] for outer in steps] == ["succeeded", "failed", "skipped", "failed", "failed", "skipped"]
    assert (states["alert"], states["clean"]) == ("succeeded", "succeeded")


def test_handlers_when_they_run_then_they_know_their_workflow_and_the_rest_waits(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    told = step(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/told; echo $STOKER_WORKFLOW_STATE >> {tmp_path}/states')
    head = {"on_failure": {"alert": told}, "finally": {"clean": gate.spec(GOOD)}}
    build = child({"a": step("exit 7"), "b": step(BAD, critical=False)}, head=head, critical=False)
    steps = {"build": build, "other": step(BAD, critical=False), "after": {**step(GOOD, "build"), "when": "always"}}
    workflow = sent_flow(client, steps)

    running(client, job_of(client, workflow, "build/clean"))

    states = step_states(client, workflow)
    assert [states[name] for name in ("build/alert", "build", "after")] == ["succeeded", "waiting", "waiting"]
    assert lines(tmp_path / "states") == ["failed"]
    told_of = json.loads((tmp_path / "told").read_text())
    assert {name: end["exit_code"] for name, end in told_of.items()} == {"a": 7, "b": 1}
    gate.open()
    assert flow_end(client, workflow) == "succeeded"
    assert step_states(client, workflow)["after"] == "succeeded"


def test_cancel_when_nested_workflows_have_finally_then_that_of_begun_ones_runs(
    client: stoker.Client, gate: Gate
) -> None:
    head = {**tables(), "finally": {"clean": gate.spec(GOOD, grace_ms=100)}}
    steps = {
        "build": child({"a": step("sleep 600", grace_ms=100), "b": step(GOOD, "a")}, head=head),
        "late": child({"a": step(GOOD)}, "build"),
    }
    workflow = sent_flow(client, steps, **tables())
    running(client, job_of(client, workflow, "build/a"))

    client.call("workflow.cancel", {"id": workflow})

    running(client, job_of(client, workflow, "build/clean"))
    assert step_states(client, workflow)["clean"] == "waiting"
    gate.open()
    assert flow_end(client, workflow) == "cancelled"
    states = step_states(client, workflow)
    assert (ran(client, workflow, "build"), states["build"]) == ({"clean"}, "cancelled")
    assert ran(client, workflow, "late") == set()
    assert states["clean"] == "succeeded"


def test_retry_when_nested_handlers_have_run_then_they_run_again(client: stoker.Client, tmp_path: Path) -> None:
    mended, ledger = tmp_path / "mended", tmp_path / "ledger"
    say = tables(f"echo $STOKER_STEP >> {ledger}")
    steps = {"x": step(GOOD), "build": child({"a": step(f"test -e {mended}"), "b": step(GOOD)}, "x", head=say)}
    workflow = sent_flow(client, steps)
    assert flow_end(client, workflow) == "failed"
    mended.touch()

    retried = client.call("workflow.retry", {"id": workflow, "again": "failed"})

    assert retried["reset"] == ["build", "build/a", "build/alert", "build/clean", "build/publish"]
    assert flow_end(client, workflow) == "succeeded"
    assert lines(ledger) == [f"build/{name}" for name in ("alert", "clean", "publish", "clean")]
    plan = client.call("workflow.resume", {"id": workflow, "from": "build/a", "strategy": "restart", "explain": True})
    assert not any(one["runs"] for one in plan["steps"])


def test_add_need_when_it_makes_a_cycle_through_a_handler_then_it_is_refused(client: stoker.Client, gate: Gate) -> None:
    steps = {"first": step(f"read _ < {gate.path}; :"), "in": child({"a": step(GOOD)}, "first")}
    workflow = sent_flow(client, steps)
    client.call("workflow.remove_need", {"id": workflow, "step": "in", "need": "in/a"})

    with pytest.raises(FlowInvalid, match=r"a cycle: .*in/(alert|clean|publish)"):
        client.call("workflow.add_need", {"id": workflow, "step": "in/a", "need": "in"})

    gate.open()
    assert flow_end(client, workflow) == "succeeded"
    assert step_states(client, workflow)["in/a"] == "succeeded"


def test_limit_when_it_ends_a_nested_workflow_then_its_handlers_run(client: stoker.Client) -> None:
    deep = child({"x": step("sleep 600", grace_ms=100)}, critical=False)
    head = {**tables(), "timeout_ms": 500}
    steps = {"build": child({"a": step("sleep 600", grace_ms=100, critical=False), "in": deep}, head=head)}

    workflow = sent_flow(client, steps)

    assert flow_end(client, workflow) == "failed"
    assert [ran(client, workflow, outer) for outer in ("build", "build/in")] == [{"alert", "clean"}] * 2
    states = step_states(client, workflow)
    assert [states[name] for name in ("build/a", "build/in/x", "build/in", "build")] == [
        *("cancelled", "cancelled", "failed", "failed")
    ]


def test_handlers_when_a_list_comes_later_then_each_of_its_workflows_has_them(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    say = step(f'echo "$STOKER_STEP $STOKER_WORKFLOW_STATE" >> {ledger}')
    listing = step('printf "n<<E\\ngood\\nbad\\nE\\n" >> "$STOKER_OUTPUT"')
    head = {"parameters": {"who": ""}, "on_failure": {"alert": say}, "finally": {"clean": say}}
    build = child(
        {"a": step('test "$WHO" = good', env={"WHO": "{{who}}"})},
        head=head,
        each={"step": "list", "output": "n"},
        parameters={"who": "{{item}}"},
    )

    workflow = sent_flow(client, {"list": listing, "build": build})

    assert flow_end(client, workflow) == "failed"
    assert sorted(lines(ledger)) == [
        "build[bad]/alert failed",
        "build[bad]/clean failed",
        "build[good]/clean succeeded",
    ]


def test_handlers_when_the_daemon_dies_before_they_run_then_each_runs_once(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    head = tables(f"echo $STOKER_STEP >> {ledger}")
    survives = {"survive": True, "on_orphan": "requeue"}
    with daemon.client() as client:
        workflow = sent_flow(client, {"build": child({"a": gate.spec(BAD, **survives)}, head=head, critical=False)})
        running(client, job_of(client, workflow, "build/a"))
    daemon.kill9()
    gate.open()

    daemon.start()

    with daemon.client() as client:
        assert flow_end(client, workflow) == "succeeded"
        assert lines(ledger) == ["build/alert", "build/clean"]
        until(lambda: step_states(client, workflow)["build"] == "failed", why="the end of the nested workflow")
