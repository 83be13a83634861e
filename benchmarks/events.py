"""The time to start jobs that wait for an event, to emit many events, and to let many jobs wait.

The worker prints CLOCK_MONOTONIC first: the time of an event to the last of its jobs is between two readings of it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.footprint import pss_mib
from benchmarks.harness import TRUE, RawConnection, Scale, compiled, daemon, request, result, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITERS = 1_000
WINDOW = 100


def rows(scale: Scale) -> Iterator[Row]:
    waiters, events, waiting = min(WAITERS, scale.jobs), 5 * scale.jobs, scale.deep // 10
    with workshop() as folder, daemon(max_running=waiters) as process, RawConnection(process.socket) as connection:
        program = {"command": str(compiled("first_instruction", Path(folder)))}
        started = [_start_ms(connection, program, waiters) for _ in range(scale.rounds)]
        rates = [_events_per_s(connection, waiters, events) for _ in range(scale.rounds)]
        before = pss_mib(process)
        connection.submit(waiting, TRUE | {"wait_for": "event:never"})
        grown = pss_mib(process) - before
    what = "an event to the first instruction of the last job that waits for it"
    yield Row(what, started, 1_000, 600, f"{waiters:,} jobs", unit=" ms")
    figures = f"{events:,} events at {waiters:,} waiting jobs"
    yield Row("events, 1 client, pipelined", rates, 1_000, 3_000, figures, more_is_better=True, unit="/s")
    yield Row("memory that jobs take which wait for an event", [grown], 20, 10, f"{waiting:,} jobs", unit=" MiB")


def _start_ms(connection: RawConnection, program: dict[str, Any], waiters: int) -> float:
    ids = connection.submit(waiters, program | {"wait_for": "event:go"})
    emitted = time.monotonic_ns()
    connection.call("event.emit", name="go", data={"n": 1})
    connection.wait(ids)
    logs = [connection.call("job.get", id=job)["log"] for job in ids]
    return (max(int(Path(log).read_text()) for log in logs) - emitted) / 1e6


def _events_per_s(connection: RawConnection, waiters: int, events: int) -> float:
    """Each waiting job waits for an event of its own; most events reach no job."""
    jobs = [{**TRUE, "wait_for": f"event:e{number}"} for number in range(waiters)]
    ids = [job["id"] for job in connection.call("job.submit_many", jobs=jobs)["jobs"]]
    emits = [request("event.emit", {"name": f"e{number}"}) for number in range(events)]
    began = time.perf_counter()
    for answer in connection.pipeline(emits, WINDOW):
        result(answer)
    seconds = time.perf_counter() - began
    connection.wait(ids)
    return events / seconds
