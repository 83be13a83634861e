"""Rows that an earlier daemon left, written by hand while no daemon runs: open attempts and long queues.

A test gets in seconds what would take a daemon hours. Invariant: every row passes the checks of the schema.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from itertools import cycle, islice, product
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.clock import wall_ms
from stoker.core.job.model import IN_PROCESS, Attempt, ExecutionMode, Identity, Job, OnOrphan, State
from stoker.process.identity import boot_id, pid_namespace, read_stat
from stoker.store import attempts, given_ids, jobs
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

OTHER_BOOT = "00000000-0000-4000-8000-000000000000"
DEAD = "1-deadbeef"  # a launcher that left no lock
LAST_PID = 4_194_303  # the highest pid: below it no process is likely to be
MORE_QUEUED = f"""
WITH RECURSIVE further(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM further WHERE n < ?)
INSERT INTO jobs ({jobs.COLUMNS})
SELECT {jobs.COLUMNS.replace("id,", "id + n,", 1).replace("order_key", "order_key + n")}
FROM further, jobs WHERE id = ? ORDER BY n
"""

CLAIM = """
UPDATE attempts SET pid = ?, start_ticks = ?, boot_id = ?, pid_namespace = ?, pidfs_inode = ?
WHERE job_id = ? AND ended_at IS NULL
"""


class Kind(NamedTuple):
    """The policies of a job, and the recorded facts about its worker."""

    on_orphan: OnOrphan = OnOrphan.FAIL
    survive: bool = False
    worker: str = (
        "gone"  # a pid of this boot that no process has; other_boot; unknown: no identity reached the disk; inside
    )


KINDS = [Kind(*kind) for kind in product(OnOrphan, (False, True), ("gone", "other_boot", "unknown", "inside"))]


def kinds(count: int) -> Iterator[Kind]:
    """`count` kinds, each in turn."""
    return islice(cycle(KINDS), count)


def leave_open(database: Path, left: Iterable[Kind]) -> list[str]:
    """Write a running job with an open attempt for each kind; returns the run ids."""
    with closing(sqlite3.connect(database)) as connection, connection:
        last = given_ids.last(connection, "jobs")
        rows = [_run(ident, kind) for ident, kind in enumerate(left, last + 1)]
        connection.executemany(jobs.INSERT, [jobs.insert_row(of) for of, _ in rows])
        connection.executemany(attempts.INSERT, [attempts.insert_row(run, {}) for _, run in rows])
        connection.executemany(attempts.UPDATE, [attempts.update_row(run) for _, run in rows])
    return [run.run_id for _, run in rows]


def claim(database: Path, jobs: Sequence[int], pid: int) -> None:
    """The open attempts of these jobs all name the process `pid`, which is a worker of one of them."""
    stat = read_stat(pid)
    assert stat is not None, "a process can only be claimed while it lives"
    pidfd = os.pidfd_open(pid)
    identity = (pid, stat.start_ticks, boot_id(), pid_namespace(), os.fstat(pidfd).st_ino)
    os.close(pidfd)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(CLAIM, [(*identity, job_id) for job_id in jobs])


def forget_start(database: Path, job_id: int) -> None:
    """The job is queued while its attempt is open: a row that no daemon writes."""
    with closing(sqlite3.connect(database)) as connection, connection:
        changed = connection.execute("UPDATE jobs SET state = 'queued', pid = NULL WHERE id = ?", (job_id,))
        assert changed.rowcount == 1, "the job is there"


def leave_queued(database: Path, count: int) -> None:
    """Write queued jobs into the default queue."""
    with closing(sqlite3.connect(database)) as connection, connection:
        last = given_ids.last(connection, "jobs")
        first = job(State.QUEUED, id=last + 1, order_key=wall_ms(), owner_uid=os.geteuid())
        connection.execute(jobs.INSERT, jobs.insert_row(first))
        connection.execute(MORE_QUEUED, (count - 1, first.id))


def _run(ident: int, kind: Kind) -> tuple[Job, Attempt]:
    inside = kind.worker == "inside"
    mode = ExecutionMode.IN_PROCESS if inside else ExecutionMode.SUBPROCESS
    asked = spec(on_orphan=kind.on_orphan, survive=kind.survive, execution_mode=mode)
    of = job(State.RUNNING, id=ident, asked=asked, attempts=1, started_at=wall_ms(), owner_uid=os.geteuid())
    run = Attempt(
        run_id=f"{ident}.1.{ident:016x}",
        job_id=ident,
        ordinal=1,
        launcher=IN_PROCESS if inside else DEAD,
        created_at=wall_ms(),
        started_at=wall_ms(),
        identity=_identity(ident, kind.worker),
    )
    return of, run


def _identity(ident: int, worker: str) -> Identity | None:
    boots = {"gone": boot_id(), "other_boot": OTHER_BOOT}
    if worker not in boots:
        return None
    return Identity(
        pid=LAST_PID - ident, start_ticks=ident, boot_id=boots[worker], pid_namespace=pid_namespace(), pidfs_inode=ident
    )


def lengthen(path: Path, rows: int) -> None:
    """Fill a database at rest with copies of its job 1, so that a search takes long."""
    with closing(sqlite3.connect(path)) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(jobs)") if row[1] != "id"]
        columns = ", ".join(names)
        database.execute(
            f"INSERT INTO jobs ({columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"SELECT {columns} FROM jobs, n WHERE jobs.id = 1",
            (rows,),
        )
