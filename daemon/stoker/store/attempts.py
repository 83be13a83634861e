"""Rows of `attempts`: each attempt of a job, its launcher, its process and its outcome.

The update that settles an attempt must change exactly one open row; otherwise the whole transaction is rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from stoker.core.job.model import Attempt, Identity
from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED
from stoker.store.strict import strict

# The columns of an Attempt, in part those of its identity and its outcome. One has another name than its field.
_IDENTITY = Identity.__struct_fields__
_OUTCOME = (
    "kind", "exit_code", "signal", "stopped", "error", "user_ms", "system_ms", "max_rss_kib", "log_bytes", "output",
)  # fmt: skip
_NAMES = (
    *("run_id", "job_id", "ordinal", "launcher", "created_at", "stop_reason", "adopted", "started_at", "ended_at"),
    *_IDENTITY,
    *_OUTCOME,
    "bounds",
)
_outcome_row = attrgetter(*_OUTCOME)
_key = attrgetter("job_id", "ordinal", "run_id")
COLUMNS = ", ".join("outcome" if name == "kind" else name for name in _NAMES)
INSERT = "INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, holds) VALUES (?, ?, ?, ?, ?, ?)"
UPDATE = """
UPDATE attempts SET pid = ?, start_ticks = ?, boot_id = ?, pid_namespace = ?, pidfs_inode = ?, cgroup = ?,
    stop_reason = ?, adopted = ?, started_at = ?, bounds = ?
WHERE job_id = ? AND ordinal = ? AND run_id = ? AND ended_at IS NULL
"""
SETTLE = """
UPDATE attempts SET pid = ?, start_ticks = ?, boot_id = ?, pid_namespace = ?, pidfs_inode = ?, cgroup = ?,
    stop_reason = ?, adopted = ?, started_at = ?, bounds = ?,
    ended_at = ?, outcome = ?, exit_code = ?, signal = ?, stopped = ?, error = ?, user_ms = ?, system_ms = ?,
    max_rss_kib = ?, log_bytes = ?, output = ?
WHERE job_id = ? AND ordinal = ? AND run_id = ? AND ended_at IS NULL
"""
OPEN = f"SELECT {COLUMNS} FROM attempts WHERE ended_at IS NULL ORDER BY job_id"
OF_JOB = f"SELECT {COLUMNS} FROM attempts WHERE job_id = ? ORDER BY ordinal"
NEWEST_END = f"SELECT {COLUMNS} FROM attempts WHERE job_id = ? AND ended_at IS NOT NULL ORDER BY ordinal DESC LIMIT 1"
PAGE = f"SELECT {COLUMNS} FROM attempts WHERE job_id = ? AND ordinal < ? ORDER BY ordinal DESC LIMIT ?"
# A job that took over an earlier end has no attempt; the outputs are in its spec. A damaged spec has none.
REUSED_OUTPUT = "CASE WHEN json_valid(jobs.policy) THEN json_extract(jobs.policy, '$.reused.output') END"
OUTPUTS = f"""
SELECT job_id, output FROM attempts WHERE job_id IN (SELECT value FROM json_each(?1))
    AND ordinal = (SELECT max(ordinal) FROM attempts AS newer WHERE newer.job_id = attempts.job_id)
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id AND jobs.reason = 'reused')
UNION ALL
SELECT jobs.id, {REUSED_OUTPUT} FROM jobs WHERE jobs.id IN (SELECT value FROM json_each(?1)) AND jobs.reason = 'reused'
"""
NEEDED = f"""
SELECT jobs.id, jobs.step, jobs.state, jobs.reason, jobs.exit_code,
    CASE jobs.reason WHEN 'reused' THEN {REUSED_OUTPUT} ELSE attempts.output END FROM jobs
LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.ordinal = jobs.attempts
WHERE jobs.id IN (SELECT value FROM json_each(?)) AND {NOT_PURGED} ORDER BY jobs.id
"""
ERRORS = """
SELECT job_id, error FROM attempts WHERE job_id IN (SELECT value FROM json_each(?)) AND error IS NOT NULL
    AND ordinal = (SELECT max(ordinal) FROM attempts AS newer WHERE newer.job_id = attempts.job_id)
"""
# The count of an unseen end is missing, so its log may hold something.
SILENT = """
SELECT job_id FROM attempts WHERE job_id IN (SELECT value FROM json_each(?))
    AND ordinal = (SELECT max(ordinal) FROM attempts AS newer WHERE newer.job_id = attempts.job_id)
    AND outcome != 'unseen' AND coalesce(log_bytes, 0) = 0
"""
# A run id begins with the id of its job, which is what SQLite makes of the text as a number.
KNOWN = "SELECT run_id FROM json_each(?) JOIN attempts ON job_id = CAST(value AS INTEGER) AND run_id = value"


def insert_row(attempt: Attempt, holds: dict[str, int]) -> tuple[Any, ...]:
    """The parameters of INSERT; `holds` is the amount of each resource that the attempt holds while it is open."""
    return (
        attempt.run_id, attempt.job_id, attempt.ordinal, attempt.launcher, attempt.created_at,
        msgspec.json.encode(holds).decode() if holds else "{}",
    )  # fmt: skip


def _progress(attempt: Attempt) -> tuple[Any, ...]:
    identity = (None,) * len(_IDENTITY) if attempt.identity is None else astuple(attempt.identity)
    bounds = None if attempt.bounds is None else msgspec.json.encode(attempt.bounds).decode()
    return (*identity, attempt.stop_reason, attempt.adopted, attempt.started_at, bounds)


def update_row(attempt: Attempt) -> tuple[Any, ...]:
    return (*_progress(attempt), *_key(attempt))


def settle_row(attempt: Attempt) -> tuple[Any, ...]:
    end = attempt.outcome
    assert end is not None, "only an ended attempt is settled"
    return (*_progress(attempt), attempt.ended_at, *_outcome_row(end), *_key(attempt))


@strict("attempts")
def from_row(row: Sequence[Any]) -> Attempt:
    values = dict(zip(_NAMES, row, strict=True))
    identity = {name: values.pop(name) for name in _IDENTITY}
    outcome = {name: values.pop(name) for name in _OUTCOME}
    bounds = values.pop("bounds")
    if identity["pid"] is not None:
        values["identity"] = identity
    if outcome["kind"] is not None:
        values["outcome"] = outcome | {"stopped": outcome["stopped"] or 0, "ended_at": values["ended_at"]}
    if bounds is not None:
        values["bounds"] = msgspec.json.decode(bounds)
    return msgspec.convert(values, Attempt, strict=False)


def open_attempts(connection: sqlite3.Connection) -> list[Attempt]:
    return [from_row(row) for row in connection.execute(OPEN)]


def of_job(connection: sqlite3.Connection, job_id: int) -> list[Attempt]:
    return [from_row(row) for row in connection.execute(OF_JOB, (job_id,))]


def page(connection: sqlite3.Connection, job_id: int, before: int, limit: int) -> list[Attempt]:
    """The newest `limit` attempts of a job before the ordinal `before`, oldest first."""
    return [from_row(row) for row in connection.execute(PAGE, (job_id, before, limit))][::-1]


def newest_end(connection: sqlite3.Connection, job_id: int) -> Attempt | None:
    row = connection.execute(NEWEST_END, (job_id,)).fetchone()
    return None if row is None else from_row(row)


def newest_ends(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, Attempt]:
    """The newest attempt that has ended of each of these jobs, if there is one."""
    ends = {job_id: newest_end(connection, job_id) for job_id in job_ids}
    return {job_id: attempt for job_id, attempt in ends.items() if attempt is not None}


def silent(connection: sqlite3.Connection, job_ids: Iterable[int]) -> set[int]:
    """Those of these jobs whose newest attempt has ended without any output, so that it has no log."""
    return {job_id for (job_id,) in connection.execute(SILENT, (json_array(job_ids),))}


def outputs(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, str]:
    """The output of the newest attempt of each of these jobs, if it has one."""
    rows = connection.execute(OUTPUTS, (json_array(job_ids),))
    return {job_id: output for job_id, output in rows if output is not None}


class Needed(Struct, frozen=True):
    """The state of a needed job, and the output of its newest attempt as JSON."""

    job: int
    step: str | None
    state: str
    reason: str | None
    exit_code: int | None
    output: str | None

    @property
    def name(self) -> str:
        return self.step or str(self.job)


def needed(connection: sqlite3.Connection, job_ids: Iterable[int]) -> list[Needed]:
    """The state and output of each of these jobs; purged ones are left out."""
    return [Needed(*row) for row in connection.execute(NEEDED, (json_array(job_ids),))]


def errors(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, str]:
    """The error of the newest attempt of each of these jobs, if it has one."""
    return dict(connection.execute(ERRORS, (json_array(job_ids),)))


def existing(connection: sqlite3.Connection, run_ids: Iterable[str]) -> set[str]:
    """Those of `run_ids` that have a row, open or settled."""
    return {row[0] for row in connection.execute(KNOWN, (json_array(run_ids),))}
