"""The time of a start with much to read: ten thousand open attempts, a million queued jobs.

From the exec of the daemon to its READY=1, over a database whose rows are written by hand while no daemon runs. The
attempts are of every kind that needs no living process: safe, unsafe and surviving jobs; a worker of another boot, one
whose pid is gone, one whose identity never reached the disk, a handler inside the daemon. An empty start stands beside.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.harness import Scale, daemon
from benchmarks.table import Row
from tests.support import past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def rows(scale: Scale) -> Iterator[Row]:
    empty = min(_start_s(lambda _: None) for _ in range(scale.rounds))
    found = scale.deep // 100
    opened = [_start_s(lambda at: past.leave_open(at, past.kinds(found))) for _ in range(scale.rounds)]
    queued = [_start_s(lambda at: past.leave_queued(at, scale.deep)) for _ in range(min(scale.rounds, 3))]
    figures = f"{empty:.2f} s with nothing to find"
    yield Row(f"recovery of {found:,} open attempts to READY", opened, 5, 2, figures, unit=" s")
    yield Row(f"start with {scale.deep:,} queued jobs to READY", queued, 5, 2, figures, unit=" s")


def _start_s(leave: Callable[[Path], object]) -> float:
    """Seconds from exec to READY over the rows that `leave` wrote."""
    process = daemon(max_running=1)
    try:
        process.start()
        process.stop()
        leave(process.state_dir / "stoker.db")
        begin = time.perf_counter()
        process.start(timeout_s=120)
        return time.perf_counter() - begin
    finally:
        process.end()
