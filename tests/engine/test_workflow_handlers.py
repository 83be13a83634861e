"""Handlers of a whole workflow with a real daemon: on_failure, on_success and finally."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, InvalidParams, NotAllowed
from tests.support.facts import until
from tests.support.flows import flow_end, job_of, sent_flow, step, step_states, workflow_view
from tests.support.work import Gate, lines, running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"
GOOD, BAD = "exit 0", "exit 1"


def tables(say: str = "exit 0") -> dict[str, Any]:
    """One handler in each table."""
    return {table: {name: step(say)} for table, name in HANDLERS.items()}


HANDLERS = {"on_failure": "alert", "on_success": "publish", "finally": "clean"}


@pytest.mark.parametrize(
    ("steps", "end", "ran"),
    [
        ({"a": step(GOOD)}, "succeeded", {"publish", "clean"}),
        ({"a": step(BAD)}, "failed", {"alert", "clean"}),
        ({"a": step(BAD, critical=False)}, "succeeded", {"publish", "clean"}),
        ({"a": step(BAD), "b": step(GOOD, "a")}, "failed", {"alert", "clean"}),
        ({"a": step(GOOD), "b": step(GOOD, {"step": "a", "on": "failed"})}, "succeeded", {"publish", "clean"}),
    ],
)
def test_handlers_when_all_steps_have_ended_then_those_run_that_apply(
    client: stoker.Client, steps: dict[str, Any], end: str, ran: set[str]
) -> None:
    workflow = sent_flow(client, steps, **tables())

    assert flow_end(client, workflow) == end
    states = step_states(client, workflow)
    assert {name for name in HANDLERS.values() if states[name] == "succeeded"} == ran
    assert {name for name in HANDLERS.values() if states[name] == "skipped"} == {*HANDLERS.values()} - ran
    views = {one["name"]: one for one in workflow_view(client, workflow)["steps"]}
    assert {views[name]["handler"]: name for name in HANDLERS.values()} == HANDLERS


def test_handlers_when_they_run_then_finally_is_last_and_needs_hold_within_a_table(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    say = {name: step(f"echo {name} >> {ledger}") for name in ("a", "b", "alert", "clean", "report")}
    workflow = sent_flow(
        client,
        {"a": say["a"], "b": step(f"echo b >> {ledger}; exit 1")},
        **{
            "on_failure": {"alert": say["alert"]},
            "finally": {"report": {**say["report"], "needs": ["clean"]}, "clean": say["clean"]},
        },
    )

    assert flow_end(client, workflow) == "failed"

    assert sorted(lines(ledger)[:2]) == ["a", "b"]
    assert lines(ledger)[2:] == ["alert", "clean", "report"]


@pytest.mark.parametrize(
    ("own", "end"), [({}, "succeeded"), ({"critical": False}, "succeeded"), ({"critical": True}, "failed")]
)
def test_handler_when_it_fails_then_only_a_critical_one_fails_the_workflow(
    client: stoker.Client, own: dict[str, Any], end: str
) -> None:
    handlers = {**tables(), "on_success": {"publish": step(BAD, **own)}}
    workflow = sent_flow(client, {"a": step(GOOD)}, **handlers)

    assert flow_end(client, workflow) == end

    assert step_states(client, workflow)["alert"] == "skipped"  # it watches the steps, not the handlers


def test_handlers_when_they_run_then_they_know_the_end_and_what_failed(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    told = step(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/$STOKER_STEP; echo $STOKER_WORKFLOW_STATE >> {tmp_path}/states')
    steps = {"a": step("echo rows=3 > $STOKER_OUTPUT; exit 7"), "b": step(GOOD, "a"), "c": step(BAD, critical=False)}
    handlers = {
        "on_failure": {"alert": told, "page": step(BAD, "alert")},
        "finally": {"clean": told, "last": {**gate.spec("exit 0"), "needs": ["clean"]}},
    }
    workflow = sent_flow(client, steps, **handlers)
    running(client, last := job_of(client, workflow, "last"))
    env = client.call("job.environment", {"id": last})["env"]
    of_last = json.loads(Path(env["STOKER_INPUTS_FILE"]).read_text())
    gate.open()
    assert flow_end(client, workflow) == "failed"

    def failed(code: int, **outputs: str) -> dict[str, Any]:
        return {"state": "failed", "reason": "exit", "exit_code": code, "outputs": outputs}

    ordinary = {"a": failed(7, rows="3"), "c": failed(1)}
    assert json.loads((tmp_path / "alert").read_text()) == ordinary
    assert json.loads((tmp_path / "clean").read_text()) == {**ordinary, "page": failed(1)}
    assert lines(tmp_path / "states") == ["failed"] * 2
    assert env["STOKER_WORKFLOW_STATE"] == "failed"
    assert of_last.keys() == {"a", "c", "page", "clean"}
    assert json.loads(env["STOKER_INPUTS"])["a"] == {"rows": "3"}

    good = sent_flow(client, {"a": step(GOOD)}, **{"finally": {"clean": told}})
    assert flow_end(client, good) == "succeeded"
    assert lines(tmp_path / "states")[2:] == ["succeeded"]
    assert json.loads((tmp_path / "clean").read_text()) == {}


def test_cancel_when_there_is_finally_then_it_runs_and_a_second_cancel_ends_it(
    client: stoker.Client, gate: Gate
) -> None:
    handlers = {**tables(), "finally": {"clean": gate.spec("exit 0", grace_ms=100)}}
    first = sent_flow(client, {"a": step("sleep 600"), "b": step(GOOD, "a")}, **handlers)
    running(client, job_of(client, first, "a"))

    assert client.call("workflow.cancel", {"id": first})["spared"] == ["clean"]
    running(client, job_of(client, first, "clean"))
    assert step_states(client, first) == {
        "a": "cancelled",
        "b": "cancelled",
        "alert": "cancelled",
        "publish": "cancelled",
        "clean": "running",
    }
    environment = client.call("job.environment", {"id": job_of(client, first, "clean")})["env"]
    assert environment["STOKER_WORKFLOW_STATE"] == "cancelled"
    assert client.call("workflow.cancel", {"id": first})["spared"] == []

    assert flow_end(client, first) == "cancelled"
    assert step_states(client, first)["clean"] == "cancelled"


def test_retry_when_the_handlers_have_run_then_they_run_again_after_the_steps(
    client: stoker.Client, tmp_path: Path
) -> None:
    mended, ledger = tmp_path / "mended", tmp_path / "ledger"
    workflow = sent_flow(client, {"a": step(f"test -e {mended}")}, **tables(f"echo $STOKER_STEP >> {ledger}"))
    assert flow_end(client, workflow) == "failed"
    mended.touch()

    retried = client.call("workflow.retry", {"id": workflow, "again": "failed"})

    assert retried["reset"] == ["a", "alert", "clean", "publish"]
    assert flow_end(client, workflow) == "succeeded"
    assert lines(ledger) == ["alert", "clean", "publish", "clean"]


def test_handler_when_it_runs_then_the_steps_it_watches_do_not_run_again(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step(BAD)}, **{"finally": {"clean": gate.spec("exit 0")}})
    running(client, job_of(client, workflow, "clean"))

    for method, more in (("workflow.retry", {"again": "failed"}), ("workflow.resume", {"from": "a"})):
        with pytest.raises(NotAllowed, match="step clean has an open attempt"):
            client.call(method, {"id": workflow, **more})
    gate.open()

    assert flow_end(client, workflow) == "failed"
    assert [one["runs"] for one in client.call("workflow.resume", {"id": workflow, "explain": True})["steps"]] == [
        True,
        True,
    ]


def test_flow_when_handlers_are_wrong_then_each_mistake_has_its_path(client: stoker.Client) -> None:
    steps = {"a": step(GOOD), "b": step(GOOD, "late")}
    handlers = {
        "on_failure": {"a": step(GOOD), "late": step(GOOD, "b")},
        "finally": {"c d": step(GOOD), "last": step(GOOD, "late", each=["{{x}}"], critical="no")},
    }

    with pytest.raises(FlowInvalid) as error:
        sent_flow(client, steps, **handlers)

    assert {one["path"]: one["message"] for one in error.value.details["errors"]} == {
        "on_failure.a": "steps.a has this name already",
        "finally.c d": "not a valid name for a step",
        "finally.last.critical": 'expected true or false, got "no"',
        "finally.last.each[0]": "{{x}}: no such parameter (there are: none)",
        "steps.b.needs[0]": "'late' is a handler, which runs after all steps",
        "on_failure.late.needs[0]": "a handler can need only handlers of [on_failure]",
        "finally.last.needs[0]": "a handler can need only handlers of [finally]",
    }


def test_need_when_it_names_a_group_of_one_then_it_is_on_its_step(client: stoker.Client, gate: Gate) -> None:
    one = {"each": ["x"]}
    steps = {"a": gate.spec("exit 0"), "b": step(GOOD, "a", **one), "c": step(GOOD, "a", **one)}
    workflow = sent_flow(client, steps)

    added = client.call("workflow.add_need", {"id": workflow, "step": "c", "need": "b"})

    assert [need["step"] for need in added["needs"]] == ["a", "b[x]"]
    gate.open()
    assert flow_end(client, workflow) == "succeeded"


def test_need_when_one_side_is_a_handler_then_it_is_not_changed(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": gate.spec("exit 0"), "b": step(GOOD, "a")}, **tables())

    with pytest.raises(NotAllowed, match="step clean is a handler"):
        client.call("workflow.add_need", {"id": workflow, "step": "clean", "need": "a"})
    with pytest.raises(InvalidParams, match="need: step clean is a handler"):
        client.call("workflow.add_need", {"id": workflow, "step": "b", "need": "clean"})
    gate.open()

    assert flow_end(client, workflow) == "succeeded"


def test_handlers_when_the_daemon_dies_in_each_phase_then_each_runs_once(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Each step has a queue of its own, which is paused: so the daemon dies while exactly that step is open."""
    ledger = tmp_path / "ledger"
    queues = {"a": "first", "alert": "second", "clean": "third"}
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        for queue in queues.values():
            client.call("queue.set", {"name": queue})
            client.call("queue.pause", {"name": queue})
        say = {name: step(f"echo {name} >> {ledger}; exit 1", queue=queue) for name, queue in queues.items()}
        workflow = sent_flow(
            client, {"a": say["a"]}, **{"on_failure": {"alert": say["alert"]}, "finally": {"clean": say["clean"]}}
        )

    for name, queue in queues.items():
        stopped_daemon.kill_and_start()
        with stopped_daemon.client() as client:
            until(lambda: step_states(client, workflow)[name] == "queued", why=f"{name} queued")  # noqa: B023
            later = [*queues][[*queues].index(name) + 1 :]
            assert [step_states(client, workflow)[one] for one in later] == ["waiting"] * len(later)
            client.call("queue.resume", {"name": queue})
            until(lambda: step_states(client, workflow)[name] == "failed", why=f"{name} failed")  # noqa: B023

    with stopped_daemon.client() as client:
        assert flow_end(client, workflow) == "failed"
    assert lines(ledger) == ["a", "alert", "clean"]
