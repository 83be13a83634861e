"""The append-only log of changes: one record for every change of state, in the transaction of that change.

Owns the hash chain: each record's hash covers the one before it, so that a flipped byte shows. Refuses to
edit or to delete; triggers in the schema refuse it too.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from stoker.core.job.model import Change

GENESIS = bytes(32)

INSERT = """
INSERT INTO changes (seq, at, kind, subject, job_id, from_state, to_state, cause, actor_uid, payload, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
PAYLOAD = 9  # its place among the parameters of INSERT
LAST = "SELECT seq, hash FROM changes ORDER BY seq DESC LIMIT 1"
# A purge removes a prefix and leaves its end here: the numbers and the chain go on from it.
PURGED = """
SELECT (SELECT value FROM meta WHERE key = 'changes_purged'), (SELECT value FROM meta WHERE key = 'changes_purged_hash')
"""
COLUMNS = "seq, at, kind, subject, from_state, to_state, cause, actor_uid, payload"
OF_JOB = f"SELECT {COLUMNS} FROM changes WHERE job_id = ? ORDER BY seq"  # noqa: S608 - constants only
FIRST_OF_JOB = "SELECT coalesce(min(seq), 0) FROM changes WHERE job_id = ?"
OF_WORKFLOW = f"""
SELECT {COLUMNS} FROM changes WHERE seq > ? AND seq <= ? AND kind = 'workflow' AND subject = ? ORDER BY seq
"""  # noqa: S608 - constants only
OF_JOB_AFTER = f"""
SELECT {COLUMNS} FROM changes WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?
"""  # noqa: S608 - constants only
# What watchers are told needs no payload, which may be a megabyte of each.
TOLD = "seq, at, kind, subject, from_state, to_state, cause, actor_uid, 'null'"
AFTER = f"SELECT {TOLD} FROM changes WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - constants only
TOLD_OF_JOB = f"""
SELECT {TOLD} FROM changes WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?
"""  # noqa: S608 - constants only
PAGE_BYTES = 1024 * 1024

_encode = msgspec.json.Encoder().encode


def insert_rows(changes: Iterable[Change], head: bytes) -> tuple[list[tuple[Any, ...]], bytes]:
    """The parameters of INSERT for each change, chained behind `head`, and the new head of the chain."""
    rows = []
    for change in changes:
        payload = _encode(change.payload)
        words = (change.seq, change.at, change.kind, change.subject, change.from_state, change.to_state, change.cause,
                 change.actor_uid)  # fmt: skip
        head = hashlib.sha256(head + _encode(words) + payload).digest()
        job_id = int(change.subject) if change.kind == "job" else None
        rows.append((*words[:4], job_id, *words[4:], payload.decode(), head))
    return rows, head


def last(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Sequence number and hash of the newest change, purged or not; (0, GENESIS) where there never was one."""
    row = connection.execute(LAST).fetchone() or connection.execute(PURGED).fetchone()
    return (row[0] or 0, row[1] or GENESIS)


def from_row(row: tuple[Any, ...]) -> Change:
    """The Change that a row of COLUMNS says; the payload stays undecoded."""
    seq, at, kind, subject, from_state, to_state, cause, actor_uid, payload = row
    return Change(
        seq=seq,
        at=at,
        kind=kind,
        subject=subject,
        from_state=from_state,
        to_state=to_state,
        cause=cause,
        actor_uid=actor_uid,
        payload=msgspec.Raw(payload.encode()),
    )


def of_job(connection: sqlite3.Connection, job_id: int) -> list[Change]:
    """Everything that ever changed about a job."""
    return [from_row(row) for row in connection.execute(OF_JOB, (job_id,))]


def page_of_job(connection: sqlite3.Connection, job_id: int, after: int, limit: int) -> tuple[list[Change], int | None]:
    """Up to `limit` changes of a job behind `after`, fewer where they are large, and the cursor of what is behind."""
    found: list[Change] = []
    size = 0
    for row in connection.execute(OF_JOB_AFTER, (job_id, after, limit + 1)):
        size += len(row[-1])
        if len(found) == limit or (found and size > PAGE_BYTES):
            return found, found[-1].seq
        found.append(from_row(row))
    return found, None


def first_of_job(connection: sqlite3.Connection, job_id: int) -> int:
    """The seq of the oldest change of a job that is there; 0 for none."""
    return int(connection.execute(FIRST_OF_JOB, (job_id,)).fetchone()[0])


def of_workflow(connection: sqlite3.Connection, workflow_id: int, after: int, up_to: int) -> list[Change]:
    """What changed about a workflow itself, behind `after` and not behind `up_to`."""
    rows = connection.execute(OF_WORKFLOW, (after, up_to, str(workflow_id)))
    return [from_row(row) for row in rows]


def after(connection: sqlite3.Connection, seq: int, limit: int, job_id: int | None = None) -> list[Change]:
    """Up to `limit` changes (of a job) behind `seq`, in order, without what they changed."""
    rows = (
        connection.execute(AFTER, (seq, limit))
        if job_id is None
        else connection.execute(TOLD_OF_JOB, (job_id, seq, limit))
    )
    return [from_row(row) for row in rows]
