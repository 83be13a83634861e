"""The cost of a job for the daemon: system calls, context switches, and CPU against a fixed piece of Python.

Two ways to send the same jobs: one submit after the other, two jobs at a time; and batches of 100, eight at a time. The
first two figures are counts, which say whether a change pays even while the machine is busy. The client only sends and
waits, and the launcher is not counted. strace slows the daemon down, so more of its work falls into one turn: the
calls are counted in a round of their own.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.footprint import cpu_ns
from benchmarks.harness import TRUE, RawConnection, Scale, daemon, ids_of, request, result, workshop
from benchmarks.table import Row
from tests.support.strace import Attached, counts_in, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

YARDSTICK_OPERATIONS = 1_000_000
SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")
SHARE = 4  # of the jobs of other benchmarks: counts need fewer
SHOWN_CALLS = 8
WAITING_CLIENTS = 1_000
RUN_AT = 4_000_000_000_000


class Way(NamedTuple):
    """How jobs are sent, and what one may cost: must and goal. `cpu`: in thousands of operations of the yardstick."""

    name: str
    slots: int
    send: Callable[[RawConnection, int], None]
    calls: tuple[float, float]
    switches: tuple[float, float]
    cpu: tuple[float, float]


def one_at_a_time(connection: RawConnection, jobs: int) -> None:
    line = request("job.submit", TRUE)
    connection.wait(ids_of([connection.ask(line) for _ in range(jobs)]))


def in_batches(connection: RawConnection, jobs: int) -> None:
    connection.wait(connection.submit(jobs, TRUE))


WAYS = (
    Way("one submit at a time, 2 slots", 2, one_at_a_time, (45, 30), (8, 5), (14, 10)),
    Way("batches of 100, 8 slots", 8, in_batches, (20, 14), (4, 3), (6.5, 5)),
)


def rows(scale: Scale) -> Iterator[Row]:
    for way in WAYS:
        yield from _rows(scale, way)
    yield _waiters(scale)


def _rows(scale: Scale, way: Way) -> Iterator[Row]:
    jobs = scale.jobs // SHARE
    switches, cpu_us, cpu = [], [], []
    with daemon(max_running=way.slots) as process, RawConnection(process.socket) as connection:
        way.send(connection, jobs)
        for _ in range(scale.rounds):
            operation_ns = _operation_ns()
            switched, used_ns = _switches(process.pid), cpu_ns([process.pid])
            way.send(connection, jobs)
            switches.append((_switches(process.pid) - switched) / jobs)
            cpu_us.append((cpu_ns([process.pid]) - used_ns) / jobs / 1_000)
            cpu.append(cpu_us[-1] / operation_ns)
        if why_not() is None:
            counts = count_calls(process.pid, lambda: way.send(connection, jobs))
            most = sorted(counts.items(), key=lambda call: -call[1])[:SHOWN_CALLS]
            figures = ", ".join(f"{name} {calls / jobs:.1f}" for name, calls in most)
            yield Row(f"system calls a job, {way.name}", [sum(counts.values()) / jobs], *way.calls, figures)
    yield Row(f"context switches a job, {way.name}", switches, *way.switches, "")
    figures = f"{statistics.median(cpu_us):,.0f} us; the unit is 1 000 writes to a dict"
    yield Row(f"CPU a job, {way.name}", cpu, *way.cpu, figures)


def _waiters(scale: Scale) -> Row:
    """Each waits for the same job, over a connection of its own; the daemon is measured from its end to the answers."""
    clients = min(WAITING_CLIENTS, scale.jobs)
    spent_us = []
    with daemon() as process, contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(RawConnection(process.socket)) for _ in range(clients)]
        for _ in range(scale.rounds):
            (job,) = first.submit(1, TRUE | {"run_at": RUN_AT})
            line = request("job.wait", {"ids": [job]})
            for other in others:
                other.socket.sendall(line)
            first.call("system.health")  # all of them are read by now
            before_ns = cpu_ns([process.pid])
            first.call("job.cancel", id=job)
            for other in others:
                result(other.answers.readline())
            spent_us.append((cpu_ns([process.pid]) - before_ns) / len(others) / 1_000)
    return Row(f"CPU for each of {clients:,} clients at the end of the job they wait for", spent_us, 50, 30, "", " us")


def count_calls(pid: int, work: Callable[[], None]) -> dict[str, int]:
    """How often all threads of a process made each system call during the work."""
    with workshop() as folder:
        table = Path(folder) / "calls"
        strace = Attached(pid, table, counted=True)
        try:
            work()
        finally:
            strace.detach()
        return counts_in(table)


def _operation_ns() -> float:
    """The CPU time of one operation of the yardstick: a write to a small dict, by this process."""
    values: dict[int, int] = {}
    begin = time.thread_time_ns()
    for number in range(YARDSTICK_OPERATIONS):
        values[number & 1023] = number
    return (time.thread_time_ns() - begin) / YARDSTICK_OPERATIONS


def _switches(pid: int) -> int:
    """The context switches of all threads so far, voluntary and not (proc(5), status)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int(count) for thread in threads for count in SWITCHES.findall((thread / "status").read_text()))
