"""Maintenance of the database: old idempotency keys, the WAL, and SQLite's statistics.

These statements change no job, so they need no record in the log of changes. Each call does a bounded amount of work.
"""

from __future__ import annotations

import sqlite3

FORGET_KEYS = """
DELETE FROM idempotency WHERE (owner_uid, key) IN (
    SELECT owner_uid, key FROM idempotency
    WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = idempotency.job_id) LIMIT 500
)
"""


def forget_keys(connection: sqlite3.Connection, before: int) -> int:
    """Delete some idempotency keys older than `before` (UTC ms) whose jobs were purged; returns their number."""
    return connection.execute(FORGET_KEYS, (before,)).rowcount


def checkpoint(connection: sqlite3.Connection) -> int:
    """Copy the WAL into the database, without waiting for readers; returns the number of copied pages."""
    _busy, _pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(done)


def optimize(connection: sqlite3.Connection) -> int:
    """Let SQLite refresh the statistics of its query planner (PRAGMA optimize)."""
    connection.execute("PRAGMA optimize")
    return 0
