"""Schedules that submit a part of a workflow, or what changed since an earlier run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, InvalidParams, ScheduleNotFound, StokerError, WorkflowNotFound
from tests.support.facts import until
from tests.support.flows import flow, sent_flow, settled, step, step_states, workflow_view
from tests.support.purges import purge
from tests.support.work import shell

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

REFUSED = "SELECT payload FROM changes WHERE kind = 'schedule' AND subject = '{}' AND cause = 'refused'"
DECLARED = """[schedules.pinned]
timing = "every 1s"
reuse = 77
flow = { name = "f", steps = { a = { command = "/bin/true" } } }
"""
CHAIN = {"get": step(":"), "compile": step(":", "get"), "test": step(":", "get")}


def add(client: stoker.Client, name: str, sent: dict[str, Any], **fields: Any) -> None:
    client.call("schedule.add", {"name": name, "timing": "@yearly", "flow": sent, **fields})


def ran(client: stoker.Client, name: str) -> int:
    """The workflow of a run by hand, once it has ended."""
    workflow: int = client.call("schedule.run", {"name": name})["workflow"]
    settled(client, workflow)
    return workflow


def taken_over(client: stoker.Client, workflow: int) -> dict[str, str | None]:
    """By step, the earlier step whose end it took over."""
    return {one["name"]: one["reused"] for one in workflow_view(client, workflow)["steps"]}


def refusals(daemon: DaemonProcess, name: str) -> list[str]:
    """Why slots of a schedule were refused."""
    return [json.loads(payload)["note"] for (payload,) in daemon.rows(REFUSED.format(name))]


def test_run_when_a_target_is_asked_for_then_the_steps_beside_it_are_left_out(client: stoker.Client) -> None:
    add(client, "part", flow(CHAIN), target=["compile"])

    assert step_states(client, ran(client, "part")) == {"get": "succeeded", "compile": "succeeded"}


def test_slot_when_the_run_before_is_reused_then_only_what_failed_runs_again(
    client: stoker.Client, tmp_path: Path
) -> None:
    """A slot of the clock, and a run by hand: both read the newest run of the schedule."""
    made, ready = tmp_path / "made", tmp_path / "ready"
    sent = flow({"get": step(f"echo made >> {made}"), "compile": step(f"test -e {ready}", "get")})
    add(client, "again", sent, timing="every 1s", reuse="latest")
    until(lambda: len(client.call("schedule.get", {"name": "again"})["runs"]) >= 3, why="three runs")
    ready.touch()
    client.call("schedule.pause", {"name": "again"})
    newest = client.call("schedule.get", {"name": "again"})["last_workflow"]
    settled(client, newest)
    sent_flow(client, {"get": step("exit 9")})  # the newest workflow of that name is none of the schedule

    workflow = ran(client, "again")

    assert step_states(client, workflow) == {"get": "succeeded", "compile": "succeeded"}
    assert taken_over(client, workflow)["get"] == f"{newest}/get"
    assert made.read_text() == "made\n"


def test_run_when_there_was_none_before_it_then_latest_is_the_newest_of_that_name(client: stoker.Client) -> None:
    steps = {"get": step("echo by=hand > $STOKER_OUTPUT"), "compile": step("echo $STOKER_INPUTS", "get")}
    settled(client, by_hand := sent_flow(client, steps))
    add(client, "from", flow(steps), reuse="latest", **{"from": ["compile"]})

    workflow = ran(client, "from")

    assert taken_over(client, workflow) == {"get": f"{by_hand}/get", "compile": None}
    (job,) = [one["job"] for one in workflow_view(client, workflow)["steps"] if one["name"] == "compile"]
    assert b"".join(client.logs(job)) == b'{"get":{"by":"hand"}}\n'


def test_purge_when_a_schedule_reuses_a_run_then_that_is_kept(client: stoker.Client) -> None:
    settled(client, earlier := sent_flow(client, CHAIN))
    settled(client, other := sent_flow(client, CHAIN))
    add(client, "pinned", flow(CHAIN), reuse=earlier)

    assert purge(client)["needed"] >= 1

    with pytest.raises(WorkflowNotFound):
        workflow_view(client, other)
    assert set(taken_over(client, ran(client, "pinned")).values()) == {f"{earlier}/{name}" for name in CHAIN}
    client.call("schedule.remove", {"name": "pinned"})
    purge(client)
    with pytest.raises(WorkflowNotFound):
        workflow_view(client, earlier)


def test_slot_when_there_is_no_run_to_reuse_then_it_is_refused_by_name(stopped_daemon: DaemonProcess) -> None:
    """Settings are read before anything can be known of the state, which a restore may have taken back."""
    stopped_daemon.config.write_text(DECLARED)
    stopped_daemon.start()

    assert until(lambda: refusals(stopped_daemon, "pinned"))[0] == "reuse: there is no workflow 77 of yours"
    with stopped_daemon.client() as client, pytest.raises(WorkflowNotFound):
        client.call("schedule.run", {"name": "pinned"})


def test_run_when_the_latest_was_purged_then_all_steps_run(client: stoker.Client) -> None:
    sent = {**flow(CHAIN), "name": "purged"}
    add(client, "whole", sent, reuse="latest")
    ran(client, "whole")
    purge(client)

    assert set(taken_over(client, ran(client, "whole")).values()) == {None}


@pytest.mark.parametrize(
    ("fields", "error", "path"),
    [
        ({"flow": flow(CHAIN), "target": ["link"]}, FlowInvalid, None),
        ({"flow": flow(CHAIN), "reuse": 10**9}, WorkflowNotFound, "reuse"),
        ({"flow": flow(CHAIN), "reuse": "newest"}, InvalidParams, "reuse"),
        ({"job": shell(":"), "target": ["get"]}, InvalidParams, "target"),
    ],
    ids=["step", "workflow", "word", "job"],
)
def test_schedule_when_its_part_is_wrong_then_it_is_refused_and_not_stored(
    client: stoker.Client, fields: dict[str, Any], error: type[StokerError], path: str | None
) -> None:
    with pytest.raises(error) as caught:
        client.call("schedule.add", {"name": "wrong", "timing": "@yearly", **fields})

    assert path is None or caught.value.details["path"] == path
    with pytest.raises(ScheduleNotFound):
        client.call("schedule.get", {"name": "wrong"})
