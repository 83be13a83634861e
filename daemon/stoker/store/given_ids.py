"""The last id of each kind that a database has given out: no id is used twice.

That is the id of the newest row, or what `meta` says, where the newest rows are gone: a purge and a restore write it.
Up to schema 22 SQLite did so itself, in `sqlite_sequence`, with each row: one more page in every commit with a new job.
"""

from __future__ import annotations

import sqlite3

from stoker.store.high_water import ID_TABLES, Mark
from stoker.store.queues import SET_META

REMEMBERED = "SELECT coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?), 0)"
NEWEST = "SELECT coalesce(max(id), 0) FROM {table}"
HAS_SEQUENCE = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'"
SEQUENCE = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0)"


def last(connection: sqlite3.Connection, table: str) -> int:
    """The last id of one of ID_TABLES; 0 if there never was one."""
    asked = [connection.execute(REMEMBERED, (_key(table),)), connection.execute(NEWEST.format(table=table))]
    if connection.execute(HAS_SEQUENCE).fetchone():
        asked.append(connection.execute(SEQUENCE, (table,)))
    return max(int(answer.fetchone()[0]) for answer in asked)


def given_out(connection: sqlite3.Connection, epoch: int) -> Mark:
    return Mark(epoch, *(last(connection, table) for table in ID_TABLES))


def keep(connection: sqlite3.Connection) -> None:
    """Remember the last ids before rows are removed. Inside the transaction that removes or lists them."""
    remember(connection, given_out(connection, epoch=0))


def remember(connection: sqlite3.Connection, given: Mark) -> None:
    """Let these be the last ids, whatever becomes of their rows. Inside a transaction."""
    connection.executemany(SET_META, [(_key(table), getattr(given, table)) for table in ID_TABLES])


def _key(table: str) -> str:
    return f"last_{table}"
