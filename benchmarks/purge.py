"""The time to remove a hundred thousand ended jobs, and the answers to clients meanwhile.

The jobs are copies of one that a daemon ran: its rows, its changes in a chain of their own, and its log. One client
submits to a paused queue, one job after the other, first while nothing else happens, then while the jobs are removed.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from benchmarks.harness import RawConnection, Scale, daemon, request
from benchmarks.table import Row
from stoker.core.job.model import Change
from stoker.process.attempt_logs import log_path
from stoker.store import changes
from tests.support.facts import until
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

TIMES = 50  # as many jobs as `Scale.jobs`
AT_ONCE = 5_000
QUIET_S = 5.0
FEWEST = 2  # answers: a percentile needs as many, however busy the machine is
CAUGHT_UP_S = 300.0
QUEUE = "bench"
SUBMIT = request("job.submit", {"command": "/bin/true", "queue": QUEUE})


def rows(scale: Scale) -> Iterator[Row]:
    jobs, logs = scale.jobs * TIMES, scale.jobs
    with daemon() as process:
        job = run_one(process)
        process.stop()
        copy_job(process.state_dir, job, jobs, logs)
        process.start()
        wait_for_journal(process)
        removal = Removal(process)
        with RawConnection(process.socket) as connection:
            end = time.monotonic() + min(QUIET_S, scale.idle_s)
            quiet = answers_ms(connection, lambda: time.monotonic() < end)
            removal.start()
            busy = answers_ms(connection, removal.is_alive)
    share, figures = jobs / 100_000, f"{jobs / removal.of_rows_s:,.0f} jobs/s"
    figures += f"; {logs:,} logs and the free pages of the file {removal.of_rest_s:.1f} s more"
    yield Row(f"removing {jobs:,} ended jobs", [removal.of_rows_s], 30 * share, 15 * share, figures, unit=" s")
    calm, loaded = (statistics.quantiles(times, n=100)[-1] for times in (quiet, busy))
    figures = f"{loaded:.2f} ms; {calm:.2f} ms while nothing is removed"
    what = "p99 of answers to submits meanwhile, against a quiet daemon"
    yield Row(what, [loaded / calm], 1.5, 1.2, figures, unit="x")


class Removal(threading.Thread):
    """Removes as `stoker purge --before TIME --yes` does: first all rows, then logs and free pages."""

    def __init__(self, process: DaemonProcess) -> None:
        super().__init__()
        self._process = process
        self._before = int(time.time() * 1_000)
        self.of_rows_s = self.of_rest_s = 0.0

    def run(self) -> None:
        begin = rows_gone = time.monotonic()
        with self._process.client() as client:
            more = True
            while more:
                answer = client.call("system.purge", {"before": self._before})
                more = answer["more"]
                if answer["jobs"] or answer["changes"] > 1:
                    rows_gone = time.monotonic()
        self.of_rows_s, self.of_rest_s = rows_gone - begin, time.monotonic() - rows_gone


def run_one(process: DaemonProcess) -> int:
    """A job that has ended, and a queue that starts nothing."""
    with process.client() as client:
        job = submit(client, shell("echo hello"))
        end_of(client, job)
        client.call("queue.set", {"name": QUEUE})
        client.call("queue.pause", {"name": QUEUE})
    return job


def wait_for_journal(process: DaemonProcess) -> None:
    """Until it has the copies too: a daemon that catches up with so many rows is not quiet."""

    def has_all() -> bool:
        status = client.status()
        return status["journal"]["seq"] == status["last_seq"] and not status["journal"]["behind"]

    with process.client() as client:
        until(has_all, CAUGHT_UP_S)


def answers_ms(connection: RawConnection, goes_on: Callable[[], bool]) -> list[float]:
    """How long each answer took, of one client that submits one job after the other; of two at least."""
    times: list[float] = []
    while goes_on() or len(times) < FEWEST:
        begin = time.perf_counter()
        connection.ask(SUBMIT)
        times.append((time.perf_counter() - begin) * 1_000)
    return times


def copy_job(state_dir: Path, job: int, count: int, logs: int, *, with_changes: bool = True) -> None:
    """So many copies of an ended job, some with a log, as if the daemon had run them."""
    with closing(sqlite3.connect(state_dir / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for done in range(0, count, AT_ONCE):
            connection.execute("BEGIN")
            ids = range(job + 1 + done, job + 1 + min(count, done + AT_ONCE))
            _copy_rows(connection, job, "jobs", "id", ids)
            _copy_rows(connection, job, "attempts", "job_id", ids)
            if with_changes:
                _copy_changes(connection, job, ids)
            connection.execute("COMMIT")
    for ident in range(job + 1, job + 1 + logs):
        log = log_path(state_dir, ident, 1)
        log.parent.mkdir(parents=True)
        log.write_bytes(log_path(state_dir, job, 1).read_bytes())
    os.sync()


def _copy_rows(connection: sqlite3.Connection, job: int, table: str, key: str, ids: range) -> None:
    names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]  # without generated columns
    row = connection.execute(f"SELECT {', '.join(names)} FROM {table} WHERE {key} = ?", (job,)).fetchone()
    sample = dict(zip(names, row, strict=True))
    copies = [sample | {key: ident} for ident in ids]
    for copy in copies if "run_id" in sample else ():
        copy["run_id"] = f"{copy[key]}.1.{copy[key]:016x}"
    marks = ", ".join("?" * len(names))
    connection.executemany(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", [tuple(copy.values()) for copy in copies]
    )


def _copy_changes(connection: sqlite3.Connection, job: int, ids: range) -> None:
    seq, head = changes.last(connection)
    sample = changes.of_job(connection, job)
    copies: list[Change] = []
    for ident in ids:
        for one in sample:
            seq += 1
            copies.append(msgspec.structs.replace(one, seq=seq, subject=str(ident)))
    connection.executemany(changes.INSERT, changes.insert_rows(copies, head)[0])
