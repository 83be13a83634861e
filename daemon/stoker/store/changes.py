"""The append-only log of changes: one record for every change of state, in the transaction of that change.

The hash of each record covers the record before it, so that damage can be detected. Triggers in the schema refuse
updates and deletes.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from stoker.core.errors import ChangesRemoved
from stoker.core.job.model import Change

GENESIS = bytes(32)

INSERT = """
INSERT INTO changes (seq, at, kind, subject, job_id, from_state, to_state, cause, actor_uid, payload, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
PAYLOAD = 9  # its index in the parameters of INSERT
LAST_AT = "SELECT at FROM changes ORDER BY seq DESC LIMIT 1"
LAST = "SELECT seq, hash FROM changes ORDER BY seq DESC LIMIT 1"
GIVEN_UP = "changes_given_up"  # the key in meta: up to this seq changes are to be removed
# A purge removes the oldest changes and stores the seq and hash of the last removed one: the chain goes on from it.
PURGED = """
SELECT (SELECT value FROM meta WHERE key = 'changes_purged'), (SELECT value FROM meta WHERE key = 'changes_purged_hash')
"""
FIELDS = Change.__struct_fields__  # each has a column of its name; the last is the payload
COLUMNS = ", ".join(FIELDS)
OF_JOB = f"SELECT {COLUMNS} FROM changes WHERE job_id = ? ORDER BY seq"
# Whether the first change of a job or workflow, that of its submission, is there.
JOB_BEGINS = "SELECT from_state IS NULL FROM changes WHERE job_id = ? ORDER BY seq LIMIT 1"
FIRST_OF_JOB = "SELECT coalesce(min(seq), 0) FROM changes WHERE job_id = ?"
OF_WORKFLOW = f"""
SELECT {COLUMNS} FROM changes WHERE seq > ? AND seq <= ? AND kind = 'workflow' AND subject = ? ORDER BY seq
"""
OF_JOB_AFTER = f"SELECT {COLUMNS} FROM changes WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?"
# Watchers get no payloads, which may have a megabyte each, but the reason that a person gave.
NOTE = """
iif(instr(payload, '"note":"') AND json_valid(payload), json_object('note', json_extract(payload, '$.note')), 'null')
"""
WITHOUT_PAYLOAD = f"seq, at, kind, subject, from_state, to_state, cause, actor_uid, {NOTE}"
AFTER = f"SELECT {WITHOUT_PAYLOAD} FROM changes WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
AFTER_OF_JOB = f"SELECT {WITHOUT_PAYLOAD} FROM changes WHERE job_id = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
# There is no index by workflow: at most SCANNED changes are looked at in one query.
AFTER_OF_WORKFLOW = f"""
SELECT {WITHOUT_PAYLOAD} FROM changes
WHERE seq > ?1 AND seq <= ?2
    AND (job_id IN (SELECT id FROM jobs WHERE workflow_id = ?3) OR (kind = 'workflow' AND subject = CAST(?3 AS TEXT)))
ORDER BY seq LIMIT ?4
"""
SCANNED = 50_000
PAGE_BYTES = 1024 * 1024

_encode = msgspec.json.Encoder().encode


class ChangePage(NamedTuple):
    """Changes in order, and the cursor after which the next page begins."""

    changes: list[Change]
    cursor: int


def insert_rows(changes: Iterable[Change], head: bytes) -> tuple[list[tuple[Any, ...]], bytes]:
    """The parameters of INSERT for each change, chained to `head`, and the new head of the chain."""
    rows = []
    for change in changes:
        payload = _encode(change.payload)
        who = (change.seq, change.at, change.kind, change.subject)
        what = (change.from_state, change.to_state, change.cause, change.actor_uid)
        head = digest(head, (*who, *what), payload)
        job_id = int(change.subject) if change.kind == "job" else None
        rows.append((*who, job_id, *what, payload.decode(), head))
    return rows, head


def digest(head: bytes, fields: tuple[Any, ...], payload: bytes) -> bytes:
    """The hash of a change; `head` is the hash of the change before it."""
    return hashlib.sha256(head + _encode(fields) + payload).digest()


def last(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Sequence number and hash of the newest change, purged or not; (0, GENESIS) if there never was one."""
    row = connection.execute(LAST).fetchone() or connection.execute(PURGED).fetchone()
    return (row[0] or 0, row[1] or GENESIS)


def last_at(connection: sqlite3.Connection) -> int:
    """The time of the newest change (UTC ms); 0 if there is none."""
    row = connection.execute(LAST_AT).fetchone()
    return 0 if row is None else int(row[0])


def from_row(row: tuple[Any, ...]) -> Change:
    """A change of a row; its payload stays encoded."""
    *values, payload = row
    return Change(**dict(zip(FIELDS, values, strict=False)), payload=msgspec.Raw(payload.encode()))


def of_job(connection: sqlite3.Connection, job_id: int) -> list[Change]:
    return [from_row(row) for row in connection.execute(OF_JOB, (job_id,))]


def page_of_job(connection: sqlite3.Connection, job_id: int, after: int, limit: int) -> tuple[list[Change], int | None]:
    """Up to `limit` changes of a job after `after`, fewer if they are large, and the cursor of the next page."""
    page: list[Change] = []
    size = 0
    for row in connection.execute(OF_JOB_AFTER, (job_id, after, limit + 1)):
        size += len(row[-1])
        if len(page) == limit or (page and size > PAGE_BYTES):
            return page, page[-1].seq
        page.append(from_row(row))
    return page, None


def first_of_job(connection: sqlite3.Connection, job_id: int) -> int:
    """The seq of the oldest change of a job; 0 if there is none."""
    return int(connection.execute(FIRST_OF_JOB, (job_id,)).fetchone()[0])


def begins(connection: sqlite3.Connection, job_id: int) -> bool:
    """Whether the log still has all changes of a job, from its submission on."""
    row = connection.execute(JOB_BEGINS, (job_id,)).fetchone()
    return row is not None and bool(row[0])


def last_removed(connection: sqlite3.Connection) -> int:
    """The seq of the newest change that was removed; 0 if none was."""
    return connection.execute(PURGED).fetchone()[0] or 0


def check_cursor(connection: sqlite3.Connection, seq: int) -> None:
    """Raises ChangesRemoved if changes after `seq` were removed."""
    removed = last_removed(connection)
    if seq < removed:
        raise ChangesRemoved(
            f"after: the changes up to {removed} were removed ([retention] keep_changes, stoker purge)",
            hint=f"stoker watch --after {removed}",
            path="after",
            oldest=removed + 1,
        )


def of_workflow(connection: sqlite3.Connection, workflow_id: int, after: int, up_to: int) -> list[Change]:
    """Changes of a workflow itself, from after `after` up to `up_to`."""
    rows = connection.execute(OF_WORKFLOW, (after, up_to, str(workflow_id)))
    return [from_row(row) for row in rows]


def after(connection: sqlite3.Connection, seq: int, up_to: int, limit: int) -> ChangePage:
    """Up to `limit` changes behind `seq` and not behind `up_to`, without their payloads, and the next cursor.

    Raises ChangesRemoved.
    """
    check_cursor(connection, seq)
    return _page(connection.execute(AFTER, (seq, up_to, limit)), up_to, limit)


def after_of_job(connection: sqlite3.Connection, job_id: int, seq: int, up_to: int, limit: int) -> ChangePage:
    """As `after`, for one job."""
    return _page(connection.execute(AFTER_OF_JOB, (job_id, seq, up_to, limit)), up_to, limit)


def after_of_workflow(connection: sqlite3.Connection, workflow_id: int, seq: int, up_to: int, limit: int) -> ChangePage:
    """As `after`, for a workflow and its steps. A page may be empty although there are more."""
    end = min(up_to, seq + SCANNED)
    return _page(connection.execute(AFTER_OF_WORKFLOW, (seq, end, workflow_id, limit)), end, limit)


def _page(rows: Iterable[tuple[Any, ...]], up_to: int, limit: int) -> ChangePage:
    page = [from_row(row) for row in rows]
    return ChangePage(page, page[-1].seq if len(page) == limit else up_to)
