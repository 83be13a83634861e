"""Upkeep of the database: what may be forgotten, and what SQLite wants done now and then.

Owns statements that change no job's state, so they need no record in the log of changes. Refuses long
transactions: each call does a bounded piece.
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
    """Forget idempotency keys older than `before` (UTC ms) whose jobs were purged; how many there were."""
    return connection.execute(FORGET_KEYS, (before,)).rowcount


def checkpoint(connection: sqlite3.Connection) -> int:
    """Bring what is in the WAL into the database, without waiting for readers; how many of its pages are there now."""
    _busy, _pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(done)


def optimize(connection: sqlite3.Connection) -> int:
    """Let SQLite refresh the statistics it plans by (PRAGMA optimize)."""
    connection.execute("PRAGMA optimize")
    return 0
