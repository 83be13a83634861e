"""No turn computes for longer than its limit, however much work one event means.

Owns the events that mean much: the end of a job with thousands of dependents, a request of thousands of jobs,
thousands of limits that are due at once, and verbs on a workflow of thousands of steps. The count of slow turns is
asked, never a clock of the test.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from stoker.engine.dispatcher import STARTED_AT_ONCE
from stoker.telemetry.otel import Telemetry
from stoker.telemetry.stalls import SLOW_S, Stalls
from tests.support.daemon import SLOW_CPU_MS, DaemonProcess, LoopKept
from tests.support.facts import until
from tests.support.flows import sent_flow
from tests.support.past import lengthen
from tests.support.work import submit, submit_many, submit_running

if TYPE_CHECKING:
    import stoker
from tests.support.work import Gate

DEPENDENTS = 20_000
DUE = 4_000
DEMANDS = 20_000
STEPS = 5_000
MOST_STEPS = 10_000  # that a workflow may have
ROWS = 100_000
AT_ONCE = 5_000
READS: list[tuple[str, dict[str, Any]]] = [
    ("job.list", {"limit": 1_000}),
    ("job.list", {"limit": 1_000, "label": "no=body"}),
    ("job.list", {"limit": 1_000, "name": "nobody", "states": ["failed"]}),
    ("workflow.list", {"limit": 1_000}),
    ("job.history", {"id": 1}),
    ("job.why", {"id": 1}),
    ("queue.list", {}),
    ("system.status", {}),
    ("system.health", {}),
]
SETTINGS = """
[queues.still]
"""


def burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


def slow(client: stoker.Client) -> tuple[int, int]:
    status = client.status()
    return (status["slow_turns"], status["slow_callbacks"])


def pending(client: stoker.Client) -> tuple[int, int]:
    """Queued and waiting jobs of the queue in which nothing starts."""
    still = next(queue for queue in client.call("queue.list")["queues"] if queue["name"] == "still")
    return (still["queued"], still["waiting"])


def newest_workflow(client: stoker.Client) -> dict[str, Any]:
    """Its head: the whole of a workflow of thousands of steps would cost more to ask for than what it is to show."""
    (head,) = client.call("workflow.list", {"limit": 1})["workflows"]
    return dict(head)


def submit_still(client: stoker.Client, count: int, **words: object) -> None:
    """Jobs of a queue in which nothing starts."""
    client.call("queue.pause", {"name": "still"})
    for _ in range(0, count, AT_ONCE):
        submit_many(client, [{"command": "true", "queue": "still", **words}] * min(count, AT_ONCE))


def test_stalls_when_a_turn_or_a_callback_computes_for_too_long_then_it_is_counted() -> None:
    stalls = Stalls(Telemetry())

    stalls.watched(burn)(SLOW_S / 2)
    assert stalls.callbacks == 0
    stalls.watched(burn)(SLOW_S * 1.5)
    began = stalls.now()
    stalls.measure_turn(began, "decide", [stalls], 0)
    assert stalls.turns == 0
    burn(SLOW_S * 1.5)
    stalls.measure_turn(began, "decide", [stalls], 0)

    assert (stalls.turns, stalls.callbacks) == (1, 1)


async def test_stalls_when_a_task_computes_for_too_long_then_it_is_counted() -> None:
    stalls = Stalls(Telemetry())

    async def work(cpu_s: float) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            burn(cpu_s)

    asyncio.get_running_loop().set_task_factory(stalls.measured_task)
    await asyncio.create_task(work(SLOW_S / 2))
    assert stalls.callbacks == 0
    await asyncio.create_task(work(SLOW_S * 1.5))
    cancelled = asyncio.create_task(work(0))
    cancelled.cancel()
    await asyncio.wait({cancelled})

    assert stalls.callbacks == 3
    assert cancelled.cancelled()


def slow_line(cpu_ms: int) -> str:
    return json.dumps({"event": "turn_slow", "part": "decide", "cpu_ms": cpu_ms})


@pytest.mark.parametrize(
    ("line", "allowed", "raised"),
    [
        (slow_line(SLOW_CPU_MS + 1), False, True),
        (slow_line(SLOW_CPU_MS + 1), True, False),
        (slow_line(SLOW_CPU_MS - 1), False, False),
        (slow_line(SLOW_CPU_MS + 1)[:-1], False, False),
        (slow_line(SLOW_CPU_MS + 1)[:-1] + slow_line(SLOW_CPU_MS - 1), False, False),
        (slow_line(SLOW_CPU_MS - 1)[:-1] + slow_line(SLOW_CPU_MS + 1), False, True),
    ],
)
def test_daemon_process_when_a_turn_was_far_too_slow_then_its_test_fails(
    line: str, *, allowed: bool, raised: bool
) -> None:
    process = DaemonProcess()
    process.stderr.write_text(f"\n{line}\n")
    process.may_be_slow = allowed

    with pytest.raises(LoopKept) if raised else nullcontext():
        process.end()

    assert not process.home.exists()


@pytest.mark.timeout(300)
def test_turns_when_thousands_are_due_at_once_then_none_is_slow(client: stoker.Client) -> None:
    submit_still(client, DUE, ttl_ms=1)

    until(lambda: pending(client) == (0, 0), 120, why="all to expire")

    assert client.list(states=["expired"], limit=1)["jobs"]
    assert slow(client) == (0, 0)


@pytest.mark.timeout(300)
def test_turns_when_a_workflow_has_thousands_of_steps_then_no_verb_of_it_is_slow(client: stoker.Client) -> None:
    client.call("queue.pause", {"name": "still"})
    first = {"command": "true", "queue": "still"}
    steps = {f"s{n}": first | {"needs": [f"s{n - 1 if n % 2 else 0}"]} for n in range(1, STEPS)}
    workflow = sent_flow(client, {"s0": first, **steps})
    beginning = client.checkpoints(workflow=workflow)["checkpoints"][-1]["id"]

    for verb in ("pause", "resume", "cancel", "retry", "cancel", "resume", "cancel"):
        client.call(f"workflow.{verb}", {"id": workflow})
    client.call("workflow.rollback", {"id": workflow, "to": beginning})
    until(lambda: newest_workflow(client)["state"] == "paused", 120, why="the end of the rollback")
    client.call("workflow.skip", {"id": workflow, "step": "s0"})
    client.call("workflow.cancel", {"id": workflow})

    assert slow(client) == (0, 0)


@pytest.mark.timeout(300)
def test_turns_when_thousands_wait_for_one_end_then_none_is_slow(client: stoker.Client, gate: Gate) -> None:
    needed = submit(client, gate.spec())
    submit_still(client, DEPENDENTS, needs=[needed])
    assert pending(client) == (0, DEPENDENTS)

    gate.open()

    until(lambda: pending(client) == (DEPENDENTS, 0), 120, why="all dependents to be told")
    assert slow(client) == (0, 0)


@pytest.mark.timeout(300)
def test_turns_when_thousands_of_demands_are_blocked_then_none_is_slow(client: stoker.Client, gate: Gate) -> None:
    for name, capacity in (("held", 1), ("amount", DEMANDS)):
        client.call("resource.set", {"name": name, "capacity": capacity})
    submit_running(client, gate.spec(), resources={"held": 1})
    for first in range(1, DEMANDS, AT_ONCE):
        asked = [
            {"command": "true", "resources": {"held": 1, "amount": number}} for number in range(first, first + AT_ONCE)
        ]
        submit_many(client, asked)

    for _ in range(20):
        client.wait(submit(client, {"command": "true"}))

    assert slow(client) == (0, 0)


@pytest.mark.timeout(300)
def test_reads_when_there_are_thousands_of_steps_and_jobs_then_none_is_slow(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.wait(submit(client, {"command": "true", "labels": {"team": "blue"}}))
    daemon.stop()
    lengthen(daemon.state_dir / "stoker.db", ROWS)
    daemon.start()
    with daemon.client() as client:
        behind = {"command": "true", "needs": ["s0"]}
        workflow = sent_flow(client, {"s0": {"command": "false"}, **{f"s{n}": behind for n in range(1, MOST_STEPS)}})
        until(lambda: newest_workflow(client)["state"] == "failed", 120, why="the failure")
        until(lambda: list((daemon.state_dir / "archive").glob("*.json.gz")), 120, why="its archive")
        jobs = [step["job"] for step in client.workflow(workflow)["steps"]]

        for method, params in READS:
            client.call(method, params)
        client.call("workflow.get", {"id": workflow, "analyse": True})
        client.call("workflow.resume", {"id": workflow, "explain": True})
        client.call("checkpoint.list", {"workflow": workflow, "limit": 1_000})
        list(itertools.islice(client.watch(after=0, workflow=workflow), MOST_STEPS))
        client.wait(*jobs)

        assert slow(client) == (0, 0)


def test_turns_when_thousands_may_start_at_once_then_each_starts_a_part_of_them(stopped_daemon: DaemonProcess) -> None:
    daemon, each = stopped_daemon, STARTED_AT_ONCE // 2 + 100

    def use(paused: str) -> None:
        queues = "".join(f"[queues.{name}]\npaused = {paused}\n" for name in ("a", "b"))
        daemon.config.write_text(f"[daemon]\nmax_running = 4096\n{queues}")

    use("true")
    daemon.start()
    with daemon.client() as client:
        for name in ("a", "b"):
            submit_many(client, [{"command": "/bin/true", "queue": name}] * each)
    assert daemon.stop() == 0
    use("false")
    daemon.start()
    with daemon.client() as client:
        until(lambda: not client.status()["running"] + client.status()["queued"], why="the end of all")

    query = "SELECT count(*) FROM changes WHERE cause = 'dispatched' GROUP BY at"
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/stoker.db?mode=ro", uri=True)) as database:
        started = [number for (number,) in database.execute(query)]  # the changes of a turn have the same time
    assert sum(started) == 2 * each
    assert max(started) == STARTED_AT_ONCE
