"""Jobs a second: `/bin/true` from the first submit to the last outcome on disk, against a C loop that only spawns.

The C loop and the daemon take turns in the same run, so that a busy or slow machine slows both. Both run the same
number of processes, the same number at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import TRUE, RawConnection, Scale, compiled, daemon, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGETS = {8: (0.5, 0.6), 32: (0.65, 0.75)}


def rows(scale: Scale) -> Iterator[Row]:
    with workshop() as folder:
        loop = compiled("spawn_loop", Path(folder))
        for width, (must, goal) in BUDGETS.items():
            yield _row(scale, loop, width, must, goal)


def _row(scale: Scale, loop: Path, width: int, must: float, goal: float) -> Row:
    ours, theirs = [], []
    with daemon(max_running=width) as process, RawConnection(process.socket) as connection:
        _run(connection, scale.jobs // 10)
        for _ in range(scale.rounds):
            theirs.append(scale.jobs / _spawn_loop(loop, scale.jobs, width))
            ours.append(scale.jobs / _run(connection, scale.jobs))
    figures = f"{statistics.median(ours):,.0f} jobs/s; C loop {statistics.median(theirs):,.0f}/s"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row(f"jobs/s of /bin/true, {width} at a time, against a C posix_spawn loop", ratios, must, goal, figures,
               more_is_better=True)  # fmt: skip


def _run(connection: RawConnection, jobs: int) -> float:
    begin = time.perf_counter()
    connection.wait(connection.submit(jobs, TRUE))
    return time.perf_counter() - begin


def _spawn_loop(loop: Path, jobs: int, width: int) -> float:
    return float(subprocess.run([loop, str(jobs), str(width), "/bin/true"], check=True, capture_output=True).stdout)
