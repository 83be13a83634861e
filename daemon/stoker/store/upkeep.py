"""Maintenance of the database: the WAL, and SQLite's statistics.

These statements change no job, so they need no record in the log of changes. Each call does a bounded amount of work.
"""

from __future__ import annotations

import sqlite3


def checkpoint(connection: sqlite3.Connection) -> int:
    """Copy the WAL into the database, without waiting for readers; returns the number of copied pages."""
    _busy, _pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(done)


def optimize(connection: sqlite3.Connection) -> int:
    """Let SQLite refresh the statistics of its query planner (PRAGMA optimize)."""
    connection.execute("PRAGMA optimize")
    return 0
