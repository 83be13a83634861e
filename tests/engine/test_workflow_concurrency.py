"""Workflows that run one at a time: `concurrency` with its key and its three policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid
from tests.support.facts import until
from tests.support.flows import flow, flow_end, job_of, send, sent_flow, step, step_states, workflow_view
from tests.support.work import Gate, running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"


def keyed(key: str, policy: str = "queue") -> dict[str, Any]:
    return {"concurrency": {"key": key, "policy": policy}}


def test_queue_when_another_run_of_the_key_goes_on_then_the_later_one_waits(client: stoker.Client, gate: Gate) -> None:
    first = sent_flow(client, {"a": gate.spec("exit 0")}, **keyed("queue-{{env}}"), parameters={"env": "x"})
    second = sent_flow(client, {"a": step("exit 0")}, **keyed("queue-x"))
    other = sent_flow(client, {"a": step("exit 0")}, **keyed("queue-y"))

    assert flow_end(client, other) == "succeeded"

    view = workflow_view(client, second)
    assert (view["concurrency_key"], view["waits_for"]) == ("queue-x", [first])
    why = client.call("job.why", {"id": job_of(client, second, "a")})
    assert why["code"] == "workflow_waits"
    assert why["message"].endswith(f"runs after workflow {first} of the same key")
    gate.open()
    assert [flow_end(client, one) for one in (first, second)] == ["succeeded", "succeeded"]


def test_retry_when_another_run_of_the_key_goes_on_then_it_goes_last(client: stoker.Client, gate: Gate) -> None:
    failed = sent_flow(client, {"a": step("exit 1")}, **keyed("retry"))
    assert flow_end(client, failed) == "failed"
    newer = sent_flow(client, {"a": gate.spec("exit 0")}, **keyed("retry"))

    client.call("workflow.retry", {"id": failed, "again": "failed"})

    assert workflow_view(client, failed)["waits_for"] == [newer]
    assert step_states(client, failed) == {"a": "queued"}
    gate.open()
    assert flow_end(client, failed) == "failed"


def test_skip_when_another_run_of_the_key_goes_on_then_nothing_is_stored(client: stoker.Client, gate: Gate) -> None:
    first = send(client, flow({"a": gate.spec("exit 0")}, **keyed("skip", "skip")))

    second = send(client, flow({"a": step("exit 0")}, **keyed("skip", "skip")))

    assert (first["skipped"], second["skipped"]) == (False, True)
    assert (second["id"], second["steps"]) == (first["id"], first["steps"])
    gate.open()
    assert flow_end(client, first["id"]) == "succeeded"
    assert send(client, flow({"a": step("exit 0")}, **keyed("skip", "skip")))["skipped"] is False


def test_supersede_when_another_run_of_the_key_goes_on_then_it_ends_first(client: stoker.Client, gate: Gate) -> None:
    handlers = {"finally": {"clean": gate.spec("exit 0")}}
    first = sent_flow(client, {"a": step("sleep 600", grace_ms=100)}, **keyed("new", "supersede"), **handlers)
    running(client, job_of(client, first, "a"))

    second = sent_flow(client, {"a": step("exit 0")}, **keyed("new", "supersede"))

    running(client, job_of(client, first, "clean"))
    assert (workflow_view(client, second)["waits_for"], step_states(client, second)) == ([first], {"a": "queued"})
    gate.open()
    assert [flow_end(client, one) for one in (first, second)] == ["cancelled", "succeeded"]


def test_queue_when_the_daemon_dies_then_the_order_stays(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("queue.set", {"name": "closed"})
        client.call("queue.pause", {"name": "closed"})
        first = sent_flow(client, {"a": step("exit 0", queue="closed")}, **keyed("k"))
        second = sent_flow(client, {"a": step("exit 0")}, **keyed("k"))

    daemon.kill_and_start()

    with daemon.client() as client:
        until(lambda: step_states(client, second) == {"a": "queued"}, why="the step that waits")
        assert workflow_view(client, second)["waits_for"] == [first]
        client.call("queue.resume", {"name": "closed"})
        assert [flow_end(client, one) for one in (first, second)] == ["succeeded", "succeeded"]


def test_concurrency_when_it_is_wrong_then_each_mistake_has_its_path(client: stoker.Client) -> None:
    with pytest.raises(FlowInvalid) as error:
        sent_flow(client, {"a": step("exit 0")}, **keyed("k", "later"))
    assert [one["path"] for one in error.value.details["errors"]] == ["concurrency.policy"]

    for key, message in {"{{x}}": "{{x}}: no such parameter", "{{long}}": "filled in, it has 300 characters"}.items():
        with pytest.raises(FlowInvalid) as error:
            sent_flow(client, {"a": step("exit 0")}, **keyed(key), parameters={"long": "x" * 300})
        (mistake,) = error.value.details["errors"]
        assert mistake["path"] == "concurrency.key"
        assert mistake["message"].startswith(message)
