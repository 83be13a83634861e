"""Repairs of a database while no daemon runs: they make again whatever follows from undamaged rows.

Each is a function for one transaction and returns a description of its changes, which `recorded` adds to the log of
changes. Invariant: no repair invents a fact: an index follows from its table, a count from the rows that it counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stoker.core.clock import wall_ms
from stoker.core.job.model import Change
from stoker.store import changes, shipped_schema
from stoker.store.integrity import damaged_pages

PRAGMAS = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
RAISE_ATTEMPTS = """
UPDATE jobs SET attempts = (SELECT max(ordinal) FROM attempts WHERE job_id = jobs.id)
WHERE attempts < (SELECT max(ordinal) FROM attempts WHERE job_id = jobs.id) RETURNING id, attempts
"""
COUNT_NEEDS = """
UPDATE jobs SET needs_open = (SELECT count(*) FROM needs WHERE job_id = jobs.id)
WHERE state IN ('waiting', 'queued', 'held') AND EXISTS (SELECT 1 FROM needs WHERE job_id = jobs.id)
    AND needs_open <> (SELECT count(*) FROM needs WHERE job_id = jobs.id) RETURNING id, needs_open
"""


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes, while no daemon has one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(PRAGMAS)
        yield connection


def rebuild_indexes(connection: sqlite3.Connection) -> list[str]:
    """Rebuild all indexes. Raises sqlite3.Error if the database is still damaged."""
    connection.execute("REINDEX")
    left = next(damaged_pages(connection, 1), None)
    if left is not None:
        raise sqlite3.DatabaseError(f"the indexes were rebuilt, and this is left: {left}")
    return ["every index"]


def remake_objects(connection: sqlite3.Connection) -> list[str]:
    return shipped_schema.remake(connection)


def recount(connection: sqlite3.Connection) -> list[str]:
    raised = connection.execute(RAISE_ATTEMPTS).fetchall()
    counted = connection.execute(COUNT_NEEDS).fetchall()
    return [
        *(f"job {job_id}: attempts is {count}" for job_id, count in raised),
        *(f"job {job_id}: needs_open is {count}" for job_id, count in counted),
    ]


def recorded(
    connection: sqlite3.Connection, check: str, what: list[str], actor_uid: int, reason: str | None, kept: Path
) -> None:
    """Add a repair to the log of changes. `kept`: the directory with what it replaced."""
    seq, head = changes.last(connection)
    change = Change(
        seq=seq + 1,
        at=wall_ms(),
        kind="system",
        subject="database",
        from_state=None,
        to_state=None,
        cause="repaired",
        actor_uid=actor_uid,
        payload={"check": check, "what": what, "set_aside": str(kept), "note": reason},
    )
    rows, _ = changes.insert_rows([change], head)
    connection.executemany(changes.INSERT, rows)
