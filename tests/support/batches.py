"""Batches for the writer, as a turn would store them.

Owns the bookkeeping between the parts of a batch: a change for each job, sequence numbers without gaps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from stoker.core.job.model import Attempt, Change, Job
from stoker.store import attempts, changes, jobs
from stoker.store.writer import Batch


def change(seq: int, **fields: Any) -> Change:
    values: dict[str, Any] = {
        "at": seq, "kind": "job", "subject": "1", "from_state": None, "to_state": "queued", "cause": "submitted",
        "actor_uid": 1000, "payload": {"n": seq},
    }  # fmt: skip
    return Change(seq=seq, **(values | fields))


def accepted(*new: Job, seq: int = 1) -> Batch:
    """New jobs, each with its change; the first change has number `seq`."""
    entries = [change(seq + place, subject=str(job.id), to_state=job.state.value) for place, job in enumerate(new)]
    return Batch(new_jobs={job.id: job for job in new}, changes=entries)


def put(connection: sqlite3.Connection, new: Iterable[Job], runs: Iterable[Attempt] = ()) -> None:
    """Rows without their changes, for tests of reading."""
    connection.executemany(jobs.INSERT, [jobs.insert_row(job) for job in new])
    connection.executemany(attempts.INSERT, [attempts.insert_row(run, {}) for run in runs])


def tables(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is in the database, for comparing before and after."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {
        name: sorted(connection.execute(f"SELECT * FROM {name} ORDER BY 1"), key=lambda row: repr(row[:2]))
        for name in names
    }


def tables_of(database: Path, names: Iterable[str]) -> dict[str, list[tuple[Any, ...]]]:
    """These tables of a database file."""
    with closing(sqlite3.connect(database)) as connection:
        by_name = tables(connection)
    return {name: by_name[name] for name in names}


Look = Callable[[sqlite3.Connection], Any]


def newest(connection: sqlite3.Connection) -> tuple[int, bytes]:
    return changes.last(connection)
