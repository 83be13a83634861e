"""What the journal costs a submit, and how fast a database is rebuilt from it.

The cost is CPU time of the daemon, with a journal and without one, in turns: the time on the wall also depends on who
else uses the disk. The replay is of the submits that were measured.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.harness import BATCH, TRUE, RawConnection, Scale, request
from benchmarks.table import Row
from stoker.ops.rebuild import Until, from_journal
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "bench"
SPEC = {**TRUE, "queue": QUEUE}  # nothing runs from here
SETTLED_S = 0.5  # the journal writes a moment after the answer


def rows(scale: Scale) -> Iterator[Row]:
    jobs = scale.jobs * 2
    with ExitStack() as stack:
        journaled, plain = (stack.enter_context(_daemon(enabled)) for enabled in ("true", "false"))
        for process in (journaled, plain):
            _submit_cpu_s(process, scale.jobs)  # the first submits of a daemon cost more
        rounds = [(_submit_cpu_s(plain, jobs), _submit_cpu_s(journaled, jobs)) for _ in range(scale.rounds)]
        journaled.stop()
        changes_a_second = [_replay(journaled.state_dir / "journal") for _ in range(scale.rounds)]
    ratios = [without / with_journal for without, with_journal in rounds]
    figures = f"{rounds[-1][1] / jobs * 1e6:.0f} µs of CPU each; {rounds[-1][0] / jobs * 1e6:.0f} µs without a journal"
    yield Row("submits with the journal, against none (CPU time)", ratios, 0.85, 0.95, figures, more_is_better=True)
    yield Row(
        "replay of the journal, of submits",
        changes_a_second,
        50_000,
        100_000,
        "each change with the row of its job",
        unit=" changes/s",
        more_is_better=True,
    )


def _daemon(enabled: str) -> DaemonProcess:
    return DaemonProcess(f"[cpu]\nthrottle_threshold = 100\n[journal]\nenabled = {enabled}\n")


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


def _replay(journal: Path) -> float:
    """Changes in a second."""
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        begin = time.monotonic()
        rebuilt = from_journal(journal, Path(folder) / "stoker.db", Until())
        return rebuilt.seq / (time.monotonic() - begin)
