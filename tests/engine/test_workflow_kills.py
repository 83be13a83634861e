"""kill -9 of the daemon at any moment of a workflow: every step runs as promised, and the chain agrees with the rows.

Owns the moments (right after the answer, while a step runs, between steps, in a pause, in a cancel) and asks the audit
after the last life. Killing at single syscalls, with workflows in the mix, is in tests/faults.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.audit import Audit
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.flows import chain, context, flow, flow_end, send, step_states, workflow_view
from tests.support.ledger import Ledger
from tests.support.work import end_of, kill9, running

if TYPE_CHECKING:
    import stoker

SETTINGS = "[daemon]\nmax_running = 4\n[cpu]\nthrottle_threshold = 100\n"


class Recorded:
    """A daemon, and a ledger with the submits of its workflows."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.ledger = Ledger(daemon.home / "ledger")

    def step(self, *needs: Any, lasts_s: float = 0, code: int = 0, **options: Any) -> dict[str, Any]:
        spec = self.ledger.spec("", lasts_s=lasts_s, code=code, on_orphan="requeue", grace_ms=100, **options)
        del spec["idempotency_key"]
        return {**spec, "needs": list(needs)}

    def send(self, client: stoker.Client, steps: dict[str, Any], key: str = "k") -> dict[str, Any]:
        self.ledger.send(key, flow(steps))
        answer = send(client, flow(steps), idempotency_key=key)
        self.ledger.answer(key, min(answer["steps"].values()))
        return answer

    def again(self) -> None:
        self.daemon.kill_and_start()

    def audit(self) -> Audit:
        """Stop the daemon and check all promises."""
        self.daemon.kill9()
        return Audit(self.daemon.state_dir / "stoker.db", self.ledger)


def rows(daemon: DaemonProcess, sql: str) -> list[Any]:
    """Run a statement on the database, as a person with sqlite3 could."""
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        return database.execute(sql).fetchall()


@pytest.fixture
def recorded(daemon: DaemonProcess) -> Recorded:
    return Recorded(daemon)


def test_workflow_when_the_daemon_dies_after_the_answer_then_each_step_runs_once(recorded: Recorded) -> None:
    steps = {"a": recorded.step(), "b": recorded.step("a"), "c": recorded.step("a", code=3), "d": recorded.step("c"),
             "e": recorded.step({"step": "c", "on": "failed"})}  # fmt: skip
    with recorded.daemon.client() as client:
        answer = recorded.send(client, steps)
    recorded.again()

    with recorded.daemon.client() as client:
        assert flow_end(client, answer["id"]) == "failed"
        assert step_states(client, answer["id"]) == {
            "a": "succeeded", "b": "succeeded", "c": "failed", "d": "skipped", "e": "succeeded"
        }  # fmt: skip
    audit = recorded.audit()
    assert audit.complaints() == []
    assert Counter(line.job for line in recorded.ledger.lines() if line.what == "END") == {
        answer["steps"][name]: 1 for name in "abce"
    }


def kill_after_each_line(recorded: Recorded, workflow: int) -> int:
    """Kill and start the daemon whenever a step began or ended, twelve times at most; returns the number of kills."""

    def succeeded(client: stoker.Client) -> bool:
        return bool(workflow_view(client, workflow)["state"] == "succeeded")

    for kills in range(12):
        lines = recorded.ledger.count()
        with recorded.daemon.client() as client:
            until(lambda lines=lines: recorded.ledger.count() > lines or succeeded(client), why="a line more")  # type: ignore[misc]
            if succeeded(client):
                return kills
        recorded.again()
    return 12


def test_workflow_when_the_daemon_dies_at_any_step_then_no_completed_step_runs_again(
    recorded: Recorded,
) -> None:
    with recorded.daemon.client() as client:
        client.call("resource.set", {"name": "tool", "capacity": 2})
    needs = [[], ["s0"], ["s0"], ["s1", "s2"], ["s3"], ["s3"], ["s4", "s5"], ["s6"]]
    for lasts_ms in scales(50):
        step: dict[str, Any] = {"lasts_s": lasts_ms / 1_000, "resources": {"tool": 1}}
        steps = {f"s{number}": recorded.step(*need, **step) for number, need in enumerate(needs)}
        with recorded.daemon.client() as client:
            workflow = recorded.send(client, steps, key=f"k{lasts_ms}")["id"]
        kills = kill_after_each_line(recorded, workflow)
        with recorded.daemon.client() as client:
            assert flow_end(client, workflow) == "succeeded"
        if kills > 3:
            break  # else the steps were over before the busy machine could kill

    audit = recorded.audit()
    assert audit.complaints() == []
    for attempts in audit.attempts.values():
        assert [attempt["outcome"] for attempt in attempts].index("exit") == len(attempts) - 1


def test_chain_when_a_step_holds_a_resource_over_a_restart_then_the_context_has_it(recorded: Recorded) -> None:
    with recorded.daemon.client() as client:
        client.call("resource.set", {"name": "tool", "capacity": 2})
        answer = recorded.send(
            client, {"a": recorded.step(lasts_s=600, survive=True, resources={"tool": 2}), "b": recorded.step()}
        )
        running(client, answer["steps"]["a"])
        until(lambda: step_states(client, answer["id"])["b"] == "succeeded", why="the other step")
    recorded.again()

    with recorded.daemon.client() as client:
        client.call("workflow.pause", {"id": answer["id"]})  # a change of state leaves a whole context
        assert step_states(client, answer["id"])["a"] == "running"

    assert recorded.audit().complaints() == []


def test_chain_when_a_worker_cannot_be_proven_ours_then_its_step_keeps_its_resources(recorded: Recorded) -> None:
    with recorded.daemon.client() as client:
        client.call("resource.set", {"name": "tool", "capacity": 2})
        answer = recorded.send(
            client, {"a": recorded.step(lasts_s=600, resources={"tool": 2}), "b": recorded.step("a")}
        )
        running(client, answer["steps"]["a"])
        (launcher,) = client.call("system.status")["launchers"]
        until(lambda: rows(recorded.daemon, "SELECT 1 FROM attempts WHERE pid NOT NULL"), why="its identity on disk")
    recorded.daemon.kill9()
    kill9(launcher["pid"])
    rows(recorded.daemon, "UPDATE attempts SET pid_namespace = 1")  # of a container, say, that was there then
    recorded.daemon.start()

    with recorded.daemon.client() as client:
        assert end_of(client, answer["steps"]["a"]) == ("held", "stuck")
        newest = chain(client, workflow=answer["id"])[-1]["id"]
        assert context(client, newest)["holds"] == {"a": {"tool": 2}}
        (tool,) = client.call("resource.list")["resources"]
        assert (tool["used"], tool["holders"]) == (2, [answer["steps"]["a"]])
        client.call("workflow.pause", {"id": answer["id"]})

    assert recorded.audit().complaints() == []


@pytest.mark.parametrize("verb", ["workflow.pause", "workflow.cancel"])
def test_workflow_when_the_daemon_dies_after_a_verb_then_the_verb_still_holds(recorded: Recorded, verb: str) -> None:
    steps = {"a": recorded.step(lasts_s=600, survive=True), "b": recorded.step("a")}
    with recorded.daemon.client() as client:
        answer = recorded.send(client, steps)
        running(client, answer["steps"]["a"])
        client.call(verb, {"id": answer["id"]})

    recorded.again()

    with recorded.daemon.client() as client:
        if verb == "workflow.pause":
            assert workflow_view(client, answer["id"])["state"] == "paused"
            assert step_states(client, answer["id"]) == {"a": "running", "b": "waiting"}
            client.call("workflow.cancel", {"id": answer["id"]})
        assert flow_end(client, answer["id"]) == "cancelled"
        assert step_states(client, answer["id"]) == {"a": "cancelled", "b": "cancelled"}
    assert recorded.audit().complaints() == []


def test_workflow_when_paused_and_the_daemon_dies_then_its_width_holds_after_a_retry(
    recorded: Recorded, tmp_path: Path
) -> None:
    steps = {"all": {**recorded.step(lasts_s=0.1), "each": ["1", "2", "3", "4"], "width": 1}}
    with recorded.daemon.client() as client:
        answer = recorded.send(client, steps)
    recorded.again()
    with recorded.daemon.client() as client:
        assert flow_end(client, answer["id"]) == "succeeded"
    recorded.again()  # nothing of it is in memory now

    with recorded.daemon.client() as client:
        client.call("workflow.retry", {"id": answer["id"], "again": "all"})
        assert flow_end(client, answer["id"]) == "succeeded"

    audit = recorded.audit()
    assert audit.complaints() == []
    most, now = 0, 0
    for line in recorded.ledger.lines():
        now += {"START": 1, "END": -1}.get(line.what, 0)
        most = max(most, now)
    assert most <= 1 + sum(len(attempts) > 2 for attempts in audit.attempts.values())  # one that was killed has no END
