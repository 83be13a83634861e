"""Damaged specs of jobs, put back from the log of changes: the change of a submission or an edit has the whole spec.

Used by `stoker doctor --repair` and by a rebuild from the journal, which has the damaged rows too. Invariant: a spec is
put back only if it matches the checksum in the row of the job, so nothing is guessed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from stoker.core.job.model import Spec
from stoker.store import jobs

HELD = "SELECT id FROM jobs WHERE reason = 'damaged'"
ALL = "SELECT id FROM jobs ORDER BY id"
ROW = f"SELECT {jobs.COLUMNS} FROM jobs WHERE id = ?"
RECORDED = """
SELECT payload FROM changes WHERE job_id = ? AND instr(payload, '"spec":') > 0 ORDER BY seq DESC
"""
SPEC_HASH = [name.strip() for name in jobs.COLUMNS.split(",")].index("spec_hash")
UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, AttributeError)  # by a damaged value of any type


class _Payload(Struct):
    spec: Spec | None = None


_payload = msgspec.json.Decoder(_Payload).decode


def find(payloads: Iterable[str], spec_hash: bytes) -> Spec | None:
    """The spec with this checksum in some payloads of changes of its job."""
    for payload in payloads:
        try:
            spec = _payload(payload).spec
        except UNREADABLE:
            continue
        if spec is not None and jobs.spec_hash(spec) == spec_hash:
            return spec
    return None


def put_back(connection: sqlite3.Connection) -> list[str]:
    """Put back each damaged spec that the log of changes has; a sentence for each. Inside a transaction."""
    ids = [row[0] for row in connection.execute(ALL)]
    return list(_put_back(connection, ids))


def put_back_held(connection: sqlite3.Connection) -> list[str]:
    """As `put_back`, for the jobs that a daemon holds because of their damage: no other row is read."""
    ids = [row[0] for row in connection.execute(HELD)]
    return list(_put_back(connection, ids))


def _put_back(connection: sqlite3.Connection, ids: Iterable[int]) -> Iterator[str]:
    for job_id in ids:
        row = connection.execute(ROW, (job_id,)).fetchone()
        if not _is_damaged(row):
            continue
        spec = find((payload for (payload,) in connection.execute(RECORDED, (job_id,))), row[SPEC_HASH])
        if spec is not None:
            connection.execute(jobs.REPLACE_SPEC, (*jobs.spec_values(spec), job_id))
            yield f"job {job_id}: its spec is what the log of changes has"


def _is_damaged(row: tuple[object, ...]) -> bool:
    try:
        return jobs.spec_hash(jobs.strict_spec_of(row)) != row[SPEC_HASH]
    except UNREADABLE:
        return True
