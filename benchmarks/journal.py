"""The cost of the journal for a submit, and the speed of a rebuild of the database from it.

The cost is CPU time of the daemon, with a journal and without one, in turns: the time on the wall also depends on other
users of the disk. The replay is of the submits that were measured, against SQLite alone that inserts the same rows.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.harness import BATCH, TRUE, RawConnection, Scale, measured, request, workshop
from benchmarks.submits import RawStore, written
from benchmarks.table import Row
from stoker.ops.rebuild import Until, from_journal
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.submits import Written

QUEUE = "bench"
SPEC = {**TRUE, "queue": QUEUE}  # nothing runs from here
SETTLED_S = 0.5  # the journal writes a moment after the answer
TIMES = 10  # as many jobs as `Scale.jobs`: the kernel counts CPU time in hundredths of a second


def rows(scale: Scale) -> Iterator[Row]:
    jobs = scale.jobs * TIMES
    with ExitStack() as stack:
        journaled, plain = (stack.enter_context(_daemon(enabled)) for enabled in ("true", "false"))
        for process in (journaled, plain):
            _submit_cpu_s(process, scale.jobs)  # the first submits of a daemon cost more
        rounds = [(_submit_cpu_s(plain, jobs), _submit_cpu_s(journaled, jobs)) for _ in range(scale.rounds)]
        journaled.stop()
        sample = written(journaled.state_dir / "stoker.db", range(1, scale.jobs + 1))
        seq = scale.jobs + jobs * scale.rounds
        replays = [(_inserts_s(sample, seq), *_replay(journaled.state_dir / "journal")) for _ in range(scale.rounds)]
    ratios = [without / with_journal for without, with_journal in rounds]
    plain_us, journaled_us = (statistics.median(times) / jobs * 1e6 for times in zip(*rounds, strict=True))
    figures = f"{journaled_us:.0f} µs of CPU each; {plain_us:.0f} µs without a journal"
    yield Row("submits with the journal, against none (CPU time)", ratios, 0.85, 0.95, figures, more_is_better=True)
    yield Row(
        "replay of the journal, of submits",
        [seq / wall_s for _, _, wall_s in replays],
        50_000,
        100_000,
        "each change with the row of its job",
        unit=" changes/s",
        more_is_better=True,
    )
    ratios = [inserts_s / cpu_s for inserts_s, cpu_s, _ in replays]
    figures = f"{statistics.median(cpu_s for _, cpu_s, _ in replays) / seq * 1e6:.0f} µs of CPU a change"
    yield Row("replay of the journal, against SQLite alone (CPU time)", ratios, 1, 2, figures, more_is_better=True)


def _daemon(enabled: str) -> DaemonProcess:
    return measured(DaemonProcess(f"[cpu]\nthrottle_threshold = 100\n[journal]\nenabled = {enabled}\n"))


def _submit_cpu_s(process: DaemonProcess, jobs: int) -> float:
    with RawConnection(process.socket) as connection:
        connection.call("queue.set", name=QUEUE)
        connection.call("queue.pause", name=QUEUE)
        before = _cpu_s(process)
        connection.pipeline([request("job.submit", SPEC)] * jobs, BATCH)
        time.sleep(SETTLED_S)
        return _cpu_s(process) - before


def _cpu_s(process: DaemonProcess) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def _inserts_s(sample: Sequence[Written], count: int) -> float:
    """The CPU time in which SQLite alone inserts so many rows in one commit, without a sync."""
    rows = [sample[number % len(sample)] for number in range(count)]
    with workshop() as folder, closing(RawStore(Path(folder) / "raw.db")) as raw:
        raw.connection.execute("PRAGMA synchronous = OFF")
        begin = time.process_time()
        raw.commit(rows)
        return time.process_time() - begin


def _replay(journal: Path) -> tuple[float, float]:
    """Seconds of CPU time, and on the wall."""
    with workshop() as folder:
        cpu_s, wall_s = time.process_time(), time.monotonic()
        from_journal(journal, Path(folder) / "stoker.db", Until())
        return time.process_time() - cpu_s, time.monotonic() - wall_s
