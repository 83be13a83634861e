"""The cost of many schedules while nothing is due, and the delay of the jobs of a slot beside them.

A slot is a time of the wall clock. The worker is a C program that prints CLOCK_MONOTONIC first, so both clocks are read
together before and after.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.footprint import idle_cpu_percent
from benchmarks.harness import TRUE, RawConnection, Scale, compiled, daemon, request, result, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 8  # schedules with the same slots
WINDOW = 50


def rows(scale: Scale) -> Iterator[Row]:
    count = scale.deep // 100
    with workshop() as folder, daemon() as process, RawConnection(process.socket) as connection:
        program = compiled("first_instruction", Path(folder))
        adds = [
            request("schedule.add", {"name": f"s{number}", "timing": f"{number % 60} 3 1 1 *", "job": TRUE})
            for number in range(count)
        ]
        for answer in connection.pipeline(adds, WINDOW):
            result(answer)
        cpu = idle_cpu_percent(process, scale.idle_s)
        late = sorted(_late_ms(connection, program, scale.rounds + 2))
    yield Row(
        f"CPU, idle with {count:,} schedules, of one core", [cpu], 0.2, 0.1, f"over {scale.idle_s:g} s", unit=" %"
    )
    p99 = late[int(0.99 * (len(late) - 1))]
    figures = f"p50 {late[len(late) // 2]:.1f} ms, {len(late)} runs, {AT_ONCE} at a time"
    yield Row("a slot to the first instruction of its jobs, p99", [p99], 100, 20, figures, unit=" ms")


def _late_ms(connection: RawConnection, program: Path, slots: int) -> Iterator[float]:
    """How much later than its slot each worker began."""
    names = [f"due{number}" for number in range(AT_ONCE)]
    for name in names:
        connection.call("schedule.add", name=name, timing="every 1s", overlap="allow", job={"command": str(program)})
    time.sleep(slots)
    for name in names:
        connection.call("schedule.pause", name=name)
    ahead_ns = time.time_ns() - time.monotonic_ns()
    for name in names:
        runs = connection.call("schedule.get", name=name)["runs"]
        connection.wait([run["job"] for run in runs])
        for run in runs:
            job = connection.call("job.get", id=run["job"])
            yield (int(Path(job["log"]).read_text()) + ahead_ns) / 1e6 - job["scheduled_for"]
