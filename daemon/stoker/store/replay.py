"""Replaying a journal into a database: its lines, applied in order, give every row as it was.

Owns the SQL of that. The triggers of the schema and the foreign keys expect rows in the order of a life; here they are
put aside, and the result is verified as a whole afterwards. Many lines are applied together: of a row that changed
often only its last image is written.
"""

from __future__ import annotations

import sqlite3
from binascii import a2b_base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from stoker.core.errors import JournalBroken
from stoker.store import outbox
from stoker.store.database import transaction
from stoker.store.journal_files import Line

# As of a daemon's database, but without care for a crash: SQLite keeps no journal of its own. Constraints of rows are
# checked afterwards, by the integrity check, instead of at each image.
WITHOUT_CARE = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -64000;
PRAGMA ignore_check_constraints = ON;
"""
FLUSH_ROWS = 50_000
TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
INDEXES = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
BLOBS = "SELECT name FROM pragma_table_info(?) WHERE type = 'BLOB'"
# Retention removed these changes: a journal has no entries for them, as they only go from the front.
DELETE_REMOVED = "DELETE FROM changes WHERE seq <= (SELECT value FROM meta WHERE key = 'changes_purged')"

Key = tuple[Any, ...]


def use_without_care(connection: sqlite3.Connection) -> None:
    """For a file that is removed if anything goes wrong."""
    connection.executescript(WITHOUT_CARE)


class ReplayTable(Struct, frozen=True):
    """The statements for a table. `blobs`: columns that a line has in base64."""

    table: outbox.Table
    blobs: frozenset[str]
    put: str
    delete: str
    clear: str

    def values(self, row: dict[str, Any]) -> tuple[Any, ...]:
        for column in self.blobs:
            if (value := row.get(column)) is not None:
                row[column] = a2b_base64(value)
        for index in self.table.free:
            if type(value := row.get(self.table.columns[index])) is dict:
                row[self.table.columns[index]] = a2b_base64(value["base64"])
        return tuple(map(row.get, self.table.columns))


class Replay:
    """Applies lines to the database of `connection`. `apply` them all, then `finish`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        every = [*outbox.tables(connection), outbox.table(connection, outbox.LOG)]
        self._targets = {table.name: _replay_table(connection, table) for table in every}
        self._rows: dict[str, dict[Key, dict[str, Any] | None]] = {name: {} for name in self._targets}
        self._count = 0

    def clear(self) -> None:
        """Forget everything: a chain begins with all rows."""
        for name, target in self._targets.items():
            self._rows[name].clear()
            self._connection.execute(target.clear)
        self._count = 0

    def apply(self, line: Line) -> None:
        """Raises JournalBroken if the line has rows that the schema does not know."""
        try:
            for name, rows in line.put.items():
                key = self._targets[name].table.key
                self._rows[name].update({tuple([row[column] for column in key]): row for row in rows})
            for name, keys in line.gone.items():
                self._rows[name].update({tuple(key): None for key in keys})
        except KeyError as error:
            raise JournalBroken(f"a line of the journal has rows that this schema does not know: {error}") from error
        self._count += sum(map(len, line.put.values())) + sum(map(len, line.gone.values()))
        if self._count >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        for name, rows in self._rows.items():
            target = self._targets[name]
            self._connection.executemany(target.delete, [key for key, row in rows.items() if row is None])
            self._connection.executemany(target.put, [target.values(row) for row in rows.values() if row is not None])
            rows.clear()
        self._count = 0

    def finish(self) -> None:
        self._flush()
        self._connection.execute(DELETE_REMOVED)


def _replay_table(connection: sqlite3.Connection, table: outbox.Table) -> ReplayTable:
    names, columns = table.name, table.columns
    matches = " AND ".join(f"{column} = ?" for column in table.key)
    return ReplayTable(
        table=table,
        blobs=frozenset(name for (name,) in connection.execute(BLOBS, (table.name,))),
        put=f"INSERT OR REPLACE INTO {names} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        delete=f"DELETE FROM {names} WHERE {matches}",
        clear=f"DELETE FROM {names}",
    )


@contextmanager
def replaying(connection: sqlite3.Connection) -> Iterator[Replay]:
    """One transaction; at its end the triggers and indexes are as they were."""
    connection.execute("PRAGMA foreign_keys = OFF")
    aside = [*connection.execute(TRIGGERS).fetchall(), *connection.execute(INDEXES).fetchall()]
    with transaction(connection):
        for name, sql in aside:
            connection.execute(f"DROP {'TRIGGER' if sql.startswith('CREATE TRIGGER') else 'INDEX'} {name}")
        replay = Replay(connection)
        yield replay
        replay.finish()
        for _, sql in aside:
            connection.execute(sql)
