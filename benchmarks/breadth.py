"""Many queues, and many jobs behind one: how much slower a dispatch is, and whether a turn becomes long.

The first daemon has a million jobs in a thousand queues, and runs some of one queue; the second has a thousand in one
queue. Then one job ends for which a hundred thousand others wait. A long turn is one of over 100 ms of CPU time, which
the daemon counts itself; all clients wait for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.harness import BATCH, TRUE, RawConnection, Scale, batches, daemon, ids_of
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_QUEUES = 1_000
FEW = 1_000
BEHIND = 10  # of the jobs in the queues one in so many waits for the same job
LASTING = {"command": "/bin/sleep", "args": ["86400"]}


def rows(scale: Scale) -> Iterator[Row]:
    queues = min(MOST_QUEUES, scale.deep // BATCH)
    run = min(scale.jobs, FEW, scale.deep // queues) // 2 // scale.rounds  # in a round; the first queue has as many
    waiting = scale.deep // BEHIND
    with daemon() as many, daemon() as one, RawConnection(many.socket) as broad, RawConnection(one.socket) as narrow:
        fronts = [_fill(broad, scale.deep, queues), _fill(narrow, FEW, 1)]
        pairs = [(_run(broad, fronts[0], run), _run(narrow, fronts[1], run)) for _ in range(scale.rounds)]
        released_s = _release(broad, waiting)
        status = broad.call("system.status")
    ratios = [broad_s / narrow_s for broad_s, narrow_s in pairs]
    what = f"dispatch with {scale.deep:,} queued over {queues:,} queues, against {FEW:,} in one"
    yield Row(what, ratios, 1.5, 1.2, f"{pairs[-1][0] / run * 1e6:.0f} µs a job", unit="x")
    figures = f"the {waiting:,} jobs were skipped in {released_s:.1f} s"
    what = f"turns over 100 ms, to then skip {waiting:,} jobs that need one job"
    yield Row(what, [status["slow_turns"] + status["slow_callbacks"]], 0, 0, figures)


def _fill(connection: RawConnection, jobs: int, queues: int) -> list[int]:
    """Submit so many jobs, and return those of the first queue. All queues are paused."""
    first: list[int] = []
    for number in range(queues):
        name = f"q{number}"
        connection.call("queue.set", name=name)
        connection.call("queue.pause", name=name)
        ids = connection.submit(jobs // queues, TRUE | {"queue": name})
        first = first or ids
    return first


def _run(connection: RawConnection, ids: list[int], jobs: int) -> float:
    """Seconds until so many jobs from the front of the first queue have run."""
    front, ids[:jobs] = ids[:jobs], []
    begin = time.perf_counter()
    connection.call("queue.resume", name="q0")
    connection.wait(front)
    elapsed = time.perf_counter() - begin
    connection.call("queue.pause", name="q0")
    return elapsed


def _release(connection: RawConnection, jobs: int) -> float:
    """Seconds from the end of a job to that of the last of so many jobs that need it."""
    (needed,) = ids_of([connection.ask(next(iter(batches(1, LASTING))))])
    spec = TRUE | {"queue": "q1", "needs": [needed]}
    behind = ids_of(connection.pipeline(list(batches(jobs, spec)), window=1))
    begin = time.perf_counter()
    connection.call("job.cancel", id=needed)
    for first in range(0, len(behind), BATCH * BATCH):
        connection.call("job.wait", ids=behind[first : first + BATCH * BATCH])
    return time.perf_counter() - begin
