"""Batches for the writer, as a turn would store them.

Owns the bookkeeping between the parts of a batch: a change for each job, sequence numbers without gaps.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from stoker.core.job.model import Attempt, Change, Job, State
from stoker.store import attempts, changes, jobs
from stoker.store.batch import Batch
from tests.support.jobs import attempt, exited, job


def change(seq: int, **fields: Any) -> Change:
    values: dict[str, Any] = {
        "at": seq, "kind": "job", "subject": "1", "from_state": None, "to_state": "queued", "cause": "submitted",
        "actor_uid": 1000, "payload": {"n": seq},
    }  # fmt: skip
    return Change(seq=seq, **(values | fields))


def accepted(*new: Job, seq: int = 1) -> Batch:
    """New jobs, each with its change; the first change has number `seq`."""
    entries = [change(seq + place, subject=str(one.id), to_state=one.state.value) for place, one in enumerate(new)]
    return Batch(new_jobs={one.id: one for one in new}, changes=entries)


def opening(batch: Batch, *runs: Attempt) -> Batch:
    """The batch, which also opens these attempts."""
    batch.new_attempts = {run.run_id: run for run in runs}
    return batch


def running(ident: int = 1) -> tuple[Job, Attempt]:
    of = job(State.RUNNING, id=ident, attempts=1)
    return of, attempt(of)


def over(of: Attempt) -> Attempt:
    return replace(of, outcome=exited(0, ended_at=5), ended_at=5)


def put(connection: sqlite3.Connection, new: Iterable[Job], runs: Iterable[Attempt] = ()) -> None:
    """Rows without their changes, for tests of reading."""
    connection.executemany(jobs.INSERT, [jobs.insert_row(one) for one in new])
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


def chain_holds(rows: list[tuple[Any, ...]]) -> bool:
    """Whether the hash of each change covers the change before it, computed here independently."""
    head = bytes(32)
    for seq, at, kind, subject, _, was, became, cause, uid, payload, digest in rows:
        words = msgspec.json.encode([seq, at, kind, subject, was, became, cause, uid])
        head = hashlib.sha256(head + words + payload.encode()).digest()
        if head != digest:
            return False
    return True


Look = Callable[[sqlite3.Connection], Any]


def newest(connection: sqlite3.Connection) -> tuple[int, bytes]:
    return changes.last(connection)
