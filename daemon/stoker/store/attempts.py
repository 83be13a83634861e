"""Rows of `attempts`: each attempt of a job, its launcher, its process and its outcome.

The update that settles an attempt must change exactly one open row; otherwise the whole transaction is rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from stoker.core.job.limits import Bounds
from stoker.core.job.model import Attempt, Identity, Outcome, OutcomeKind, StopReason

COLUMNS = (
    "run_id, job_id, ordinal, launcher, created_at, pid, start_ticks, boot_id, pid_namespace, pidfs_inode, cgroup, "
    "stop_reason, adopted, started_at, ended_at, outcome, exit_code, signal, stopped, error, user_ms, system_ms, "
    "max_rss_kib, log_bytes, bounds, output"
)
INSERT = "INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, holds) VALUES (?, ?, ?, ?, ?, ?)"
UPDATE = """
UPDATE attempts SET pid = ?, start_ticks = ?, boot_id = ?, pid_namespace = ?, pidfs_inode = ?, cgroup = ?,
    stop_reason = ?, adopted = ?, started_at = ?, bounds = ?
WHERE run_id = ? AND ended_at IS NULL
"""
SETTLE = """
UPDATE attempts SET pid = ?, start_ticks = ?, boot_id = ?, pid_namespace = ?, pidfs_inode = ?, cgroup = ?,
    stop_reason = ?, adopted = ?, started_at = ?, bounds = ?,
    ended_at = ?, outcome = ?, exit_code = ?, signal = ?, stopped = ?, error = ?, user_ms = ?, system_ms = ?,
    max_rss_kib = ?, log_bytes = ?, output = ?
WHERE run_id = ? AND ended_at IS NULL
"""
OPEN = f"SELECT {COLUMNS} FROM attempts WHERE ended_at IS NULL ORDER BY job_id"  # noqa: S608 - constants only
OF_JOB = f"SELECT {COLUMNS} FROM attempts WHERE job_id = ? ORDER BY ordinal"  # noqa: S608 - constants only
NEWEST_END = f"""
SELECT {COLUMNS} FROM attempts WHERE job_id = ? AND ended_at IS NOT NULL ORDER BY ordinal DESC LIMIT 1
"""  # noqa: S608 - constants only
PAGE = f"""
SELECT {COLUMNS} FROM attempts WHERE job_id = ? AND ordinal < ? ORDER BY ordinal DESC LIMIT ?
"""  # noqa: S608 - constants only
OUTPUTS = """
SELECT job_id, output FROM attempts WHERE job_id IN (SELECT value FROM json_each(?))
    AND ordinal = (SELECT max(ordinal) FROM attempts AS newer WHERE newer.job_id = attempts.job_id)
"""
NEEDED = """
SELECT jobs.id, jobs.step, jobs.state, jobs.reason, jobs.exit_code, attempts.output FROM jobs
LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.ordinal = jobs.attempts
WHERE jobs.id IN (SELECT value FROM json_each(?)) ORDER BY jobs.id
"""
ERRORS = """
SELECT job_id, error FROM attempts WHERE job_id IN (SELECT value FROM json_each(?)) AND error IS NOT NULL
    AND ordinal = (SELECT max(ordinal) FROM attempts AS newer WHERE newer.job_id = attempts.job_id)
"""
KNOWN = "SELECT run_id FROM attempts WHERE run_id IN (SELECT value FROM json_each(?))"


def insert_row(attempt: Attempt, holds: dict[str, int]) -> tuple[Any, ...]:
    """The parameters of INSERT; `holds` is the amount of each resource that the attempt holds while it is open."""
    return (
        attempt.run_id, attempt.job_id, attempt.ordinal, attempt.launcher, attempt.created_at,
        msgspec.json.encode(holds).decode() if holds else "{}",
    )  # fmt: skip


def _progress(attempt: Attempt) -> tuple[Any, ...]:
    who = attempt.identity
    identity = (
        (None,) * 6
        if who is None
        else (who.pid, who.start_ticks, who.boot_id, who.pid_namespace, who.pidfs_inode, who.cgroup)
    )
    bounds = None if attempt.bounds is None else msgspec.json.encode(attempt.bounds).decode()
    return (*identity, attempt.stop_reason and attempt.stop_reason.value, attempt.adopted, attempt.started_at, bounds)


def update_row(attempt: Attempt) -> tuple[Any, ...]:
    """The parameters of UPDATE."""
    return (*_progress(attempt), attempt.run_id)


def settle_row(attempt: Attempt) -> tuple[Any, ...]:
    """The parameters of SETTLE."""
    end = attempt.outcome
    assert end is not None, "only an ended attempt is settled"
    return (
        *_progress(attempt), attempt.ended_at, end.kind.value, end.exit_code, end.signal, end.stopped, end.error,
        end.user_ms, end.system_ms, end.max_rss_kib, end.log_bytes, end.output,
        attempt.run_id,
    )  # fmt: skip


def from_row(row: Sequence[Any]) -> Attempt:
    """The Attempt of a row of COLUMNS."""
    (
        run_id, job_id, ordinal, launcher, created_at, pid, ticks, boot_id, namespace, inode, cgroup, stop_reason,
        adopted, started_at, ended_at, kind, exit_code, signal, stopped, error, user_ms, system_ms, rss, log_bytes,
        bounds, output,
    ) = row  # fmt: skip
    identity = None
    if pid is not None:
        identity = Identity(
            pid=pid, start_ticks=ticks, boot_id=boot_id, pid_namespace=namespace, pidfs_inode=inode, cgroup=cgroup
        )
    outcome = None
    if kind is not None:
        outcome = Outcome(
            kind=OutcomeKind(kind),
            exit_code=exit_code,
            signal=signal,
            stopped=bool(stopped),
            error=error,
            ended_at=ended_at,
            user_ms=user_ms,
            system_ms=system_ms,
            max_rss_kib=rss,
            log_bytes=log_bytes,
            output=output,
        )
    return Attempt(
        run_id=run_id,
        job_id=job_id,
        ordinal=ordinal,
        launcher=launcher,
        created_at=created_at,
        identity=identity,
        stop_reason=None if stop_reason is None else StopReason(stop_reason),
        adopted=adopted,
        started_at=started_at,
        ended_at=ended_at,
        outcome=outcome,
        bounds=None if bounds is None else msgspec.json.decode(bounds, type=Bounds),
    )


def open_attempts(connection: sqlite3.Connection) -> list[Attempt]:
    """Every attempt without an outcome."""
    return [from_row(row) for row in connection.execute(OPEN)]


def of_job(connection: sqlite3.Connection, job_id: int) -> list[Attempt]:
    """All attempts of a job, oldest first."""
    return [from_row(row) for row in connection.execute(OF_JOB, (job_id,))]


def page(connection: sqlite3.Connection, job_id: int, before: int, limit: int) -> list[Attempt]:
    """The newest `limit` attempts of a job before the ordinal `before`, oldest first."""
    return [from_row(row) for row in connection.execute(PAGE, (job_id, before, limit))][::-1]


def newest_end(connection: sqlite3.Connection, job_id: int) -> Attempt | None:
    """The newest attempt of a job that has ended."""
    row = connection.execute(NEWEST_END, (job_id,)).fetchone()
    return None if row is None else from_row(row)


def newest_ends(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, Attempt]:
    """The newest attempt that has ended of each of these jobs, if there is one."""
    ends = {job_id: newest_end(connection, job_id) for job_id in job_ids}
    return {job_id: attempt for job_id, attempt in ends.items() if attempt is not None}


def outputs(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, str]:
    """The output of the newest attempt of each of these jobs, if it has one."""
    rows = connection.execute(OUTPUTS, (msgspec.json.encode(list(job_ids)).decode(),))
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
    return [Needed(*row) for row in connection.execute(NEEDED, (msgspec.json.encode(list(job_ids)).decode(),))]


def errors(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, str]:
    """The error of the newest attempt of each of these jobs, if it has one."""
    return dict(connection.execute(ERRORS, (msgspec.json.encode(list(job_ids)).decode(),)))


def known(connection: sqlite3.Connection, run_ids: Iterable[str]) -> set[str]:
    """Those of `run_ids` that have a row, open or settled."""
    return {row[0] for row in connection.execute(KNOWN, (msgspec.json.encode(list(run_ids)).decode(),))}
