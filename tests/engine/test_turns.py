"""Turns decide without reading the disk and without waiting: all facts are in memory or were read before.

Owns a daemon that records every access of a turn to the disk, and the negative control that it records them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import stoker.daemon  # noqa: F401 - imports every module that defines messages
from stoker.core.clock import Now
from stoker.core.errors import StokerError
from stoker.core.job import events as ev
from stoker.core.job.model import Need
from stoker.engine.inbox import Message, RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.attempts import Needed
from stoker.store.loading import Loaded
from tests.support.daemon import DaemonProcess
from tests.support.flows import flow_end, send, sent_flow, settled, step
from tests.support.jobs import attempt, exited, job, running, spec
from tests.support.turn_watch import noted, watched_programs
from tests.support.work import Gate, end_of, shell, submit, submit_many, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    from stoker import Client

SETTINGS = """
[daemon]
drain_timeout_ms = 100
"""
MESSAGES = {
    "Alarms", "Dependents", "DueJobs", "Editing", "Finish", "WorkflowCommand", "WorkflowSubmission",
    "Recovered", "Remembered", "Reports", "Save", "StopRuns", "Submission", "TurnChange", "VerbCommand",
}  # fmt: skip
"""Kinds of messages that the work below must bring to the loop. The others follow only from faults, or now and then."""


def test_needed_ends_when_the_first_attempts_need_many_then_no_more_are_collected() -> None:
    opened = [attempt(job(id=ident), run_id=f"{ident}.1.a") for ident in (1, 2, 1_000)]
    needs = [tuple(Need(job=number) for number in range(first, first + 40)) for first in (100, 200)]
    loaded = {ident: job(id=ident, asked=spec(needs=needs[ident - 1])) for ident in (1, 2)}  # job 1000 is not there

    few, many = (Turn(LiveState({}, {}, 0, 0), Now(0, 0), Loaded(jobs=loaded)) for _ in range(2))
    few.batch.new_attempts = {one.run_id: one for one in opened[:1]}
    many.batch.new_attempts = {one.run_id: one for one in opened}

    assert few.needed_ends() == set(range(100, 140))
    assert many.needed_ends() == ()


def test_needed_ends_when_one_came_in_the_same_turn_then_it_is_not_read() -> None:
    ended, its_attempt = running(id=100)
    opened = job(id=1, asked=spec(needs=(Need(job=100), Need(job=200))))
    memory = LiveState({}, {}, 0, 0)
    memory.open(ended, its_attempt)
    turn = Turn(memory, Now(0, 0), Loaded(jobs={1: opened}))
    turn.step(100, ev.Ended(outcome=exited(output='{"a": "b"}')))
    turn.batch.new_attempts = {"1.1.a": attempt(opened, run_id="1.1.a")}

    assert turn.needed_ends() == {200}
    assert turn.ends == {100: Needed(100, None, "succeeded", "exit", 0, '{"a": "b"}')}


def kinds(kind: type[Message]) -> set[type[Message]]:
    return {kind}.union(*(kinds(below) for below in kind.__subclasses__()))


def test_messages_when_listed_then_neither_they_nor_turns_can_await() -> None:
    applied = [getattr(kind, "apply_to") for kind in kinds(Message) - {Message, RequestMessage}]  # noqa: B009
    methods = [method for _, method in inspect.getmembers(Turn, inspect.isfunction)]

    assert len(applied) >= len(MESSAGES)
    waiting = [
        one for one in (*applied, *methods) if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
    ]
    assert waiting == []


@pytest.mark.parametrize("reads", [False, True])
def test_turns_when_all_kinds_of_messages_come_then_no_turn_reads_the_disk(tmp_path: Path, reads: bool) -> None:  # noqa: FBT001
    daemon = DaemonProcess(SETTINGS, programs=watched_programs(tmp_path, reads=reads))
    with daemon, daemon.client() as client:
        jobs(client, Gate(tmp_path / "gate"))
        workflows(client, Gate(tmp_path / "steps"))
        submit_running(client, shell("sleep 600"))
        daemon.stop()

    assert noted(tmp_path, "messages") >= MESSAGES
    assert noted(tmp_path, "looks") == ({"os.stat (PosixPath('/etc/hostname'),)"} if reads else set())


def call(client: Client, method: str, **params: Any) -> Any:
    return client.call(method, params)


def jobs(client: Client, gate: Gate) -> None:
    """Send every verb on jobs, queues and resources."""
    call(client, "resource.set", name="gpu", capacity=1)
    call(client, "queue.set", name="bulk", max_running=1)
    call(client, "queue.pause", name="bulk")
    queued = submit(client, shell("exit 0"), queue="bulk", ttl_ms=3_600_000)
    call(client, "job.edit", id=queued, priority=5)
    call(client, "job.hold", id=queued)
    call(client, "job.release", id=queued)
    call(client, "job.skip", id=queued)
    call(client, "queue.resume", name="bulk")
    running = submit_running(client, gate.spec(), resources={"gpu": 1}, survive=True)
    behind = submit(client, shell("exit 0"), needs=[running])
    submit(client, shell("exit 0"), resources={"gpu": 1})
    client.cancel(running)
    assert end_of(client, behind) == ("skipped", "dependency")
    client.retry(running)
    gate.open()
    assert end_of(client, behind)[0] == "succeeded"
    assert end_of(client, submit(client, shell("exit 3"), max_attempts=2, base_delay_ms=10)) == ("failed", "exit")
    assert end_of(client, submit(client, shell("sleep 60"), timeout_ms=50))[1] == "timeout"
    same = shell("exit 0", idempotency_key="k")
    assert submit_many(client, [same, same])[1]["existing"]


def workflows(client: Client, gate: Gate) -> None:
    """Send every verb on workflows, and save a checkpoint."""
    command, *args = gate.pass_by()
    waits = {"command": command, "args": args, "needs": ["a"]}
    workflow = sent_flow(
        client,
        {
            "a": step("echo half | stoker checkpoint save"),
            "b": waits,
            "c": step("exit 1", "b"),
            "d": step("exit 0", "c"),
        },
    )
    settled(client, workflow, "running")
    call(client, "workflow.pause", id=workflow)
    call(client, "workflow.resume", id=workflow)
    call(client, "workflow.add_need", id=workflow, step="d", need="b")
    call(client, "workflow.remove_need", id=workflow, step="d", need="b")
    gate.open()
    assert flow_end(client, workflow) == "failed"
    call(client, "workflow.retry", id=workflow)
    assert flow_end(client, workflow) == "failed"
    call(client, "workflow.resume", id=workflow, strategy="restart")
    assert flow_end(client, workflow) == "failed"
    call(client, "workflow.rollback", id=workflow, to="latest", resume=True)
    assert flow_end(client, workflow) == "failed"
    call(client, "workflow.skip", id=workflow, step="c")
    assert flow_end(client, workflow) == "succeeded"
    with pytest.raises(StokerError):
        send(client, {"name": "wrong", "steps": {"a": {"command": "no such program"}}})
    call(client, "workflow.cancel", id=sent_flow(client, {"a": step("sleep 60")}))
