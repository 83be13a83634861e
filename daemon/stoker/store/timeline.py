"""The attempts that ran in a time, newest first, and the jobs that ended last.

Owns the use of the indexes that have what has ended (0021_index_ends.sql). Each query reads about as many rows as it
returns, however many have ended. For one user it also reads the rows of others that stand between theirs.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from msgspec import Struct

from stoker.core.job.model import Job
from stoker.store import jobs
from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED
from stoker.store.strict import strict

# By the digits of their duration. `created_at > ?` leaves out those that ended too early, but for a few.
ENDED_TOUCHING = """
SELECT created_at, run_id FROM attempts
WHERE ended_at IS NOT NULL AND length(ended_at - created_at) = ? AND created_at > ? AND created_at <= ?
    AND (created_at, run_id) < (?, ?) AND ended_at >= ?{owner}
ORDER BY created_at DESC, run_id DESC LIMIT ?
"""
OPEN_TOUCHING = """
SELECT created_at, run_id FROM attempts
WHERE ended_at IS NULL AND created_at <= ? AND (created_at, run_id) < (?, ?){owner}
ORDER BY created_at DESC, run_id DESC LIMIT ?
"""
OF_OWNER = " AND (SELECT owner_uid FROM jobs WHERE id = job_id) = ?"
TIMELINE = f"""
SELECT attempts.job_id, attempts.ordinal, attempts.run_id, jobs.queue, jobs.name, jobs.workflow_id, jobs.step,
    jobs.state, attempts.ordinal = jobs.attempts, attempts.created_at, attempts.started_at, attempts.ended_at,
    attempts.outcome, attempts.exit_code, attempts.signal, attempts.stop_reason
FROM json_each(?) AS shown
JOIN attempts ON attempts.job_id = CAST(shown.value AS INTEGER) AND attempts.run_id = shown.value
JOIN jobs ON jobs.id = attempts.job_id
WHERE {NOT_PURGED}
ORDER BY attempts.created_at DESC, attempts.run_id DESC
"""
FAILED_LAST = f"""
SELECT {jobs.COLUMNS} FROM jobs WHERE state IN ('failed', 'expired') AND {NOT_PURGED}
    AND (?1 IS NULL OR owner_uid = ?1) ORDER BY finished_at DESC LIMIT ?2
"""
ENDS_SINCE = """
SELECT state, count(*) FROM (
    SELECT state, owner_uid FROM jobs WHERE finished_at IS NOT NULL AND finished_at >= ?1
    ORDER BY finished_at DESC LIMIT ?2
) WHERE ?3 IS NULL OR owner_uid = ?3 GROUP BY state
"""
MOST_DIGITS = 14  # of a duration in milliseconds: three thousand years
COUNTED_ENDS = 20_000  # at most: 5 ms, and an open page asks each second
AFTER_ALL = (2**63 - 1, "")


class TimelineRow(Struct, frozen=True):
    """An attempt with what a chart shows of its job; `is_last`: the job has had no later one."""

    job: int
    attempt: int
    run_id: str
    queue: str
    name: str | None
    workflow: int | None
    step: str | None
    job_state: str
    is_last: bool
    created_at: int
    started_at: int | None
    ended_at: int | None
    outcome: str | None
    exit_code: int | None
    signal: int | None
    stop_reason: str | None


class Timeline(Struct, frozen=True):
    """Attempts, newest first; those after the last one go on behind `next`."""

    rows: list[TimelineRow]
    next: tuple[int, str] | None


def touching(
    connection: sqlite3.Connection,
    since: int,
    until: int,
    behind: tuple[int, str] | None,
    limit: int,
    owner_uid: int | None = None,
) -> Timeline:
    """The attempts that ran at some time between `since` and `until`. `behind`: the `next` of the page before.

    `owner_uid`: only of the jobs of that user.
    """
    edge = behind or AFTER_ALL
    of_owner, owner = ("", ()) if owner_uid is None else (OF_OWNER, (owner_uid,))
    still_open, ended = OPEN_TOUCHING.format(owner=of_owner), ENDED_TOUCHING.format(owner=of_owner)
    found = list(connection.execute(still_open, (until, *edge, *owner, limit + 1)))
    for digits in range(1, MOST_DIGITS + 1):
        parameters = (digits, since - 10**digits, min(until, edge[0]), *edge, since, *owner, limit + 1)
        found += connection.execute(ended, parameters)
    newest: list[tuple[int, str]] = sorted(found, reverse=True)[: limit + 1]
    shown = newest[:limit]
    rows = connection.execute(TIMELINE, (json_array(run_id for _, run_id in shown),))
    return Timeline([_timeline_row(row) for row in rows], shown[-1] if len(newest) > limit else None)


@strict("attempts")
def _timeline_row(row: Any) -> TimelineRow:
    names = TimelineRow.__struct_fields__
    values = dict(zip(names, row, strict=True))
    return TimelineRow(**values | {"is_last": bool(values["is_last"])})


def failed_last(connection: sqlite3.Connection, limit: int, owner_uid: int | None = None) -> list[Job]:
    """The jobs that failed or expired last, newest end first; those of a user, or all."""
    return [jobs.from_row(row) for row in connection.execute(FAILED_LAST, (owner_uid, limit))]


class Ends(Struct, frozen=True):
    """How many jobs ended, by state; `counted_all` is false if there were more than are counted."""

    counts: dict[str, int]
    counted_all: bool


def ends_since(connection: sqlite3.Connection, since: int, owner_uid: int | None = None) -> Ends:
    """The newest ends since that time, among the newest COUNTED_ENDS of all; those of a user, or all."""
    counts = dict(connection.execute(ENDS_SINCE, (since, COUNTED_ENDS, owner_uid)))
    return Ends(counts, sum(counts.values()) < COUNTED_ENDS)
