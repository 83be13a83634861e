"""The cost of the millionth queued job against the thousandth: submit, dispatch, memory.

Two daemons take turns, one with a thousand jobs in its queue, one with a million; both are asked to accept the same
number of jobs and then to run the same number from the front of the queue. The daemon itself fills the queue, from
batches: no database is prepared.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.footprint import pss_mib
from benchmarks.harness import TRUE, RawConnection, Scale, daemon
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

SHALLOW = 1_000
QUEUE = "deep"
SPEC = {**TRUE, "queue": QUEUE}


class Line:
    """A queue of known depth. `ids` are those still waiting, front first."""

    def __init__(self, process: DaemonProcess, connection: RawConnection, depth: int) -> None:
        self.process = process
        self.connection = connection
        connection.call("queue.set", name=QUEUE)
        connection.call("queue.pause", name=QUEUE)
        self.ids = deque(connection.submit(depth, SPEC))

    def submit(self, jobs: int) -> float:
        """Seconds to accept this number of further jobs."""
        begin = time.perf_counter()
        self.ids.extend(self.connection.submit(jobs, SPEC))
        return time.perf_counter() - begin

    def run(self, jobs: int) -> float:
        """Seconds until this number of jobs from the front have run; the others stay queued."""
        front = [self.ids.popleft() for _ in range(jobs)]
        begin = time.perf_counter()
        self.connection.call("queue.resume", name=QUEUE)
        self.connection.wait(front)
        elapsed = time.perf_counter() - begin
        self.connection.call("queue.pause", name=QUEUE)
        return elapsed


@contextmanager
def line(depth: int) -> Iterator[Line]:
    with daemon() as process, RawConnection(process.socket) as connection:
        yield Line(process, connection, depth)


def rows(scale: Scale) -> Iterator[Row]:
    with line(SHALLOW) as shallow, line(scale.deep) as deep:
        jobs = min(scale.jobs, SHALLOW)
        submits = [_pair(deep.submit(jobs), shallow.submit(jobs), jobs) for _ in range(scale.rounds)]
        runs = [_pair(deep.run(jobs // 2), shallow.run(jobs // 2), jobs // 2) for _ in range(scale.rounds)]
        memory = pss_mib(deep.process)
    for what, pairs in (("submit", submits), ("dispatch", runs)):
        figures = f"{pairs[-1][1]:.0f} µs a job; {pairs[-1][2]:.0f} µs with {SHALLOW:,}"
        yield Row(f"{what} with {scale.deep:,} queued, against {SHALLOW:,}", [pair[0] for pair in pairs], 1.5, 1.2,
                  figures, unit="x")  # fmt: skip
    yield Row(f"memory with {scale.deep:,} queued (daemon + launcher, PSS)", [memory], 150, 110, "", unit=" MiB")


def _pair(deep_s: float, shallow_s: float, jobs: int) -> tuple[float, float, float]:
    """The ratio, and microseconds a job for each."""
    return deep_s / shallow_s, deep_s / jobs * 1e6, shallow_s / jobs * 1e6
