"""Finds the pending jobs that have something due, and the time of the next one.

Owns the four times of a job that does not run: the end of a backoff, `run_at`, ttl, deadline. Each has a partial index,
so a million queued jobs cost nothing until one is due. Invariant: the event of a due job takes it out of its query's
result, so that repeating the query makes progress.
"""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from stoker.core.clock import Now

# `blocked` in core/job/transition.py has the same conditions for one job.
DUE_WAKE = """
SELECT id FROM jobs WHERE state = 'waiting' AND wake_at IS NOT NULL AND wake_at <= :steady
    AND needs_open = 0 AND undecided = 0 AND conditions_open = 0 AND (run_at IS NULL OR run_at <= :wall) LIMIT :limit
"""
DUE_RUN_AT = """
SELECT id FROM jobs WHERE state = 'waiting' AND run_at IS NOT NULL AND run_at <= :wall
    AND needs_open = 0 AND (wake_at IS NULL OR wake_at <= :steady)
    AND (undecided + conditions_open = 0 OR (ttl_ms IS NOT NULL AND expires_at IS NULL AND attempts = 0)) LIMIT :limit
"""
DUE_TTL = """
SELECT id FROM jobs WHERE state IN ('waiting', 'queued') AND expires_at IS NOT NULL AND expires_at <= :steady
    LIMIT :limit
"""
DUE_DEADLINE = """
SELECT id FROM jobs WHERE state IN ('waiting', 'queued') AND deadline IS NOT NULL AND deadline <= :wall LIMIT :limit
"""
NEXT_STEADY = """
SELECT min(due) FROM (
    SELECT min(wake_at) AS due FROM jobs WHERE state = 'waiting' AND wake_at IS NOT NULL AND wake_at > :steady
    UNION ALL
    SELECT min(expires_at) FROM jobs
    WHERE state IN ('waiting', 'queued') AND expires_at IS NOT NULL AND expires_at > :steady
)
"""
NEXT_WALL = """
SELECT min(due) FROM (
    SELECT min(run_at) AS due FROM jobs WHERE state = 'waiting' AND run_at IS NOT NULL AND run_at > :wall
    UNION ALL
    SELECT min(deadline) FROM jobs WHERE state IN ('waiting', 'queued') AND deadline IS NOT NULL AND deadline > :wall
)
"""


class Due(Struct, frozen=True):
    """Ids of jobs. `more`: the limit cut a list short."""

    woken: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    overdue: tuple[int, ...] = ()
    more: bool = False
    next_steady: int | None = None
    next_wall: int | None = None


def due(connection: sqlite3.Connection, now: Now, limit: int) -> Due:
    """The jobs that are due at `now`, at most `limit` of each kind, and when to ask again."""
    at = {"steady": now.steady, "wall": now.wall, "limit": limit}

    def ids(query: str) -> tuple[int, ...]:
        return tuple(row[0] for row in connection.execute(query, at))

    lists = [ids(query) for query in (DUE_WAKE, DUE_RUN_AT, DUE_TTL, DUE_DEADLINE)]
    woken, timed, expired, overdue = lists
    ended = {*expired, *overdue}
    return Due(
        woken=tuple(dict.fromkeys(job for job in (*woken, *timed) if job not in ended)),
        expired=tuple(job for job in expired if job not in overdue),
        overdue=overdue,
        more=any(len(ids) == limit for ids in lists),
        next_steady=connection.execute(NEXT_STEADY, at).fetchone()[0],
        next_wall=connection.execute(NEXT_WALL, at).fetchone()[0],
    )
