"""No turn computes for longer than its limit, however much work follows from one event.

Owns the events with much work: the end of a job with thousands of dependents, a request of thousands of jobs,
thousands of limits that are due at once, and verbs on a workflow of thousands of steps. The daemon measures itself
by CPU time; no test has a clock.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sqlite3
import time
from collections import deque
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from stoker.daemon import GC_THRESHOLDS
from stoker.engine.dispatcher import STARTED_AT_ONCE
from stoker.telemetry.otel import Telemetry
from stoker.telemetry.stalls import SLOW_S, Stalls
from tests.support.daemon import SLOW_CPU_MS, DaemonProcess, LoopKept
from tests.support.facts import until
from tests.support.flows import sent_flow
from tests.support.load import slowness
from tests.support.past import lengthen
from tests.support.work import submit, submit_many, submit_running

if TYPE_CHECKING:
    import stoker
from tests.support.work import Gate

DEPENDENTS = 20_000
DUE = 4_000
DEMANDS = 20_000
SCHEDULES = 100
LONG_FLOWS = 30
MISSED = 60  # slots of each
MINUTE_MS = 60_000
STEPS = 5_000
MOST_STEPS = 10_000  # that a workflow may have
ROWS = 100_000
AT_ONCE = 5_000
OBJECTS = 1_000_000
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


def pending(client: stoker.Client) -> tuple[int, int]:
    """Queued and waiting jobs of the queue in which nothing starts."""
    still = next(queue for queue in client.call("queue.list")["queues"] if queue["name"] == "still")
    return (still["queued"], still["waiting"])


def newest_workflow(client: stoker.Client) -> dict[str, Any]:
    """Its head: the whole of a workflow of thousands of steps would cost more to ask for than what it is to show."""
    (head,) = client.call("workflow.list", {"limit": 1})["workflows"]
    return dict(head)


def fewer_wait(client: stoker.Client, before: int) -> bool:
    return client.status()["waiting"] < before or newest_workflow(client)["state"] == "failed"


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


def test_collector_when_cycles_end_after_a_while_then_few_of_them_stay() -> None:
    before = gc.get_threshold()
    gc.collect()
    tracked = len(gc.get_objects())
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        lately: deque[list[object]] = deque(maxlen=100_000)  # old enough for the oldest generation when they end
        for _ in range(OBJECTS):
            cycle: list[object] = []
            cycle.append(cycle)
            lately.append(cycle)
        left = len(gc.get_objects()) - tracked
    finally:
        gc.set_threshold(*before)
        lately.clear()
        gc.collect()

    assert left < OBJECTS // 2


def test_collector_when_a_million_objects_are_kept_then_few_are_examined_at_once() -> None:
    examined: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] < 2:
            examined.append(sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1)))

    before = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(note)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        kept = [[number] for number in range(OBJECTS)]
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(note)

    assert len(kept) == OBJECTS
    assert max(examined) <= 100_000


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
    process.slowness = lambda: 1.0

    with pytest.raises(LoopKept) if raised else nullcontext():
        process.end()

    assert not process.home.exists()


def test_slow_lines_when_the_machine_is_slow_then_the_limit_grows_with_it() -> None:
    process = DaemonProcess()
    lines = [slow_line(2 * SLOW_CPU_MS - 1), slow_line(2 * SLOW_CPU_MS + 1)]
    process.stderr.write_text("\n".join(lines) + "\n")
    process.slowness = lambda: 2.0
    process.may_be_slow = True

    slow = process.slow_lines()
    process.end()

    assert [line.strip() for line in slow] == lines[1:]
    assert slowness() >= 1


@pytest.mark.timeout(300)
def test_turns_when_thousands_are_due_at_once_then_each_is_short(shared: DaemonProcess, client: stoker.Client) -> None:
    submit_still(client, DUE, ttl_ms=1)

    until(lambda: pending(client) == (0, 0), 120, why="all to expire")

    assert client.list(states=["expired"], limit=1)["jobs"]
    assert shared.slow_lines() == []


@pytest.mark.timeout(300)
def test_turns_when_many_schedules_catch_up_then_each_is_short(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon
    daemon.config.write_text("[queues.still]\npaused = true\n")
    with daemon.start().client() as client:
        for number in range(SCHEDULES):
            job = {"command": "true", "queue": "still"}
            rule = {"timing": "* * * * *", "misfire": "all", "catch_up_ms": MISSED * MINUTE_MS, "overlap": "allow"}
            client.call("schedule.add", {"name": f"s{number}", **rule, "job": job})
    daemon.stop()
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db", isolation_level=None)) as database:
        missed_ms = MISSED * MINUTE_MS
        database.execute("UPDATE schedules SET passed = passed - ?, next_slot = next_slot - ?", (missed_ms, missed_ms))

    with daemon.start().client() as client:
        until(lambda: pending(client)[0] >= SCHEDULES * MISSED, 120, why="the slots that were missed")

        assert stopped_daemon.slow_lines() == []


def test_reads_when_the_flows_of_schedules_are_long_then_each_is_short(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon
    with daemon.start().client() as client:
        flow = {"name": "long", "steps": {"a": {"command": "true"}}}
        client.call("schedule.add", {"name": "s0", "timing": "@yearly", "flow": flow, "paused": True})
    daemon.stop()
    steps = {f"s{number}": {"command": "true", "args": [], "needs": []} for number in range(20_000)}
    row = {"flow": json.dumps({"name": "long", "steps": steps})}
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db", isolation_level=None)) as database:
        database.execute("UPDATE schedules SET flow = :flow", row)
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(schedules)") if name != "name"]
        for number in range(1, LONG_FLOWS):
            copied = f"INSERT INTO schedules (name, {', '.join(columns)}) SELECT ?, {', '.join(columns)} FROM schedules"
            database.execute(f"{copied} WHERE name = 's0'", (f"s{number}",))

    with daemon.start().client() as client:
        page = client.call("schedule.list", {"limit": 1_000})["schedules"]

        assert {schedule["submits"] for schedule in page} == {"long"}
        assert len(page) == LONG_FLOWS
        assert stopped_daemon.slow_lines() == []


@pytest.mark.timeout(300)
def test_turns_when_a_workflow_has_thousands_of_steps_then_no_verb_of_it_is_slow(
    shared: DaemonProcess, client: stoker.Client
) -> None:
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

    assert shared.slow_lines() == []


@pytest.mark.timeout(300)
def test_turns_when_thousands_wait_for_one_end_then_each_is_short(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    needed = submit(client, gate.spec())
    submit_still(client, DEPENDENTS, needs=[needed])
    assert pending(client) == (0, DEPENDENTS)

    gate.open()

    until(lambda: pending(client) == (DEPENDENTS, 0), 120, why="all dependents to be told")
    assert shared.slow_lines() == []


@pytest.mark.timeout(300)
def test_turns_when_thousands_of_demands_are_blocked_then_each_is_short(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
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

    assert shared.slow_lines() == []


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_reads_when_there_are_thousands_of_steps_and_jobs_then_each_is_short(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.wait(submit(client, {"command": "true", "labels": {"team": "blue"}}))
    daemon.stop()
    lengthen(daemon.state_dir / "stoker.db", ROWS)
    daemon.start()
    with daemon.client() as client:
        behind = {"command": "true", "needs": ["s0"]}
        workflow = sent_flow(client, {"s0": {"command": "false"}, **{f"s{n}": behind for n in range(1, MOST_STEPS)}})
        while newest_workflow(client)["state"] != "failed":  # however slow the machine is, some steps are skipped
            until(partial(fewer_wait, client, client.status()["waiting"]), why="further steps that are skipped")
        until(lambda: list((daemon.state_dir / "archive").glob("*.json.gz")), 600, why="its archive")
        jobs = [step["job"] for step in client.workflow(workflow)["steps"]]

        for method, params in READS:
            client.call(method, params)
        client.call("workflow.get", {"id": workflow, "analyse": True})
        client.call("workflow.resume", {"id": workflow, "explain": True})
        client.call("checkpoint.list", {"workflow": workflow, "limit": 1_000})
        list(itertools.islice(client.watch(after=0, workflow=workflow), MOST_STEPS))
        client.wait(*jobs)

        assert daemon.slow_lines() == []


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
    started = [number for (number,) in daemon.rows(query)]  # the changes of a turn have the same time
    assert sum(started) == 2 * each
    assert max(started) == STARTED_AT_ONCE
