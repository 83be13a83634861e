"""The time of a backup and a restore of a hundred megabytes, and the answers to clients during a backup.

The database is made of copies of a job that a daemon ran, with their changes in a chain. One client submits to a paused
queue, one job after the other, first while nothing else happens, then while backups are made.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.harness import RawConnection, Scale, daemon
from benchmarks.purge import QUIET_S, answers_ms, copy_job, run_one, wait_for_journal
from benchmarks.table import Row
from stoker.ops.restore import carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

TIMES = 21  # as many jobs as `Scale.jobs`: about a hundred megabytes
BACKUPS = 5
MIB = 1 << 20


def rows(scale: Scale) -> Iterator[Row]:
    with daemon() as process:
        job = run_one(process)
        process.stop()
        copy_job(process.state_dir, job, scale.jobs * TIMES, logs=0)
        process.start()
        wait_for_journal(process)
        backups = BackupsMade(process)
        with RawConnection(process.socket) as connection:
            end = time.monotonic() + min(QUIET_S, scale.idle_s)
            quiet = answers_ms(connection, lambda: time.monotonic() < end)
            backups.start()
            busy = answers_ms(connection, backups.is_alive)
        process.kill9()
        megabytes = backups.size / MIB
        restored_s = [_restore_s(process) for _ in range(scale.rounds)]
    share, what = megabytes / 100, f"{megabytes:.0f} MB, {scale.jobs * TIMES:,} jobs"
    yield Row(f"backup of {what}, verified", backups.took_s, share, share / 2, "", unit=" s")
    calm, loaded = (statistics.quantiles(times, n=100)[-1] for times in (quiet, busy))
    figures = f"{loaded:.2f} ms; {calm:.2f} ms while no backup is made"
    yield Row("p99 of answers to submits meanwhile, against a quiet daemon", [loaded / calm], 3, 1.5, figures, unit="x")
    yield Row(f"restore of {what}, without a daemon", restored_s, share, share / 2, "", unit=" s")


class BackupsMade(threading.Thread):
    """Makes a few, one after the other."""

    def __init__(self, process: DaemonProcess) -> None:
        super().__init__()
        self._process = process
        self.took_s: list[float] = []
        self.size = 0

    def run(self) -> None:
        with self._process.client() as client:
            for _ in range(BACKUPS):
                begin = time.monotonic()
                *_, last = client.stream("system.backup", {"to": None})
                self.took_s.append(time.monotonic() - begin)
                self.size = last["backup"]["bytes"]


def _restore_s(process: DaemonProcess) -> float:
    begin = time.monotonic()
    carry_out(str(process.state_dir), "latest")
    return time.monotonic() - begin
