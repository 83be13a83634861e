"""Replaying a journal into a database: its lines, applied in order, restore every row.

Owns the SQL for it. Triggers and foreign keys expect rows in the order in which a daemon writes them. So they are off
during the replay, and the whole result is verified afterwards. Many lines are applied together: only the last image of
a row is written.
"""

from __future__ import annotations

import sqlite3
from binascii import a2b_base64
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from stoker.core.errors import JournalBroken
from stoker.store import outbox
from stoker.store.database import transaction
from stoker.store.journal_files import Line

# Like the settings of a daemon, but not safe in a crash: SQLite writes no journal. The integrity check afterwards finds
# rows that break a constraint.
WITHOUT_CARE = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA secure_delete = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -64000;
PRAGMA ignore_check_constraints = ON;
"""
FLUSH_ROWS = 4_000  # more rows do not fit into the caches of a CPU
ROWS_AT_ONCE = 16
TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
INDEXES = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
BLOBS = "SELECT name FROM pragma_table_info(?) WHERE type = 'BLOB'"
# Changes that retention has removed. The journal has no entries for that, as changes are removed in order.
DELETE_REMOVED = "DELETE FROM changes WHERE seq <= (SELECT value FROM meta WHERE key = 'changes_purged')"

# Errors for values that a column cannot hold. Other errors of SQLite come from the disk.
NOT_STORABLE = (
    *(LookupError, TypeError, ValueError, OverflowError),
    *(sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError),
)

Row = dict[str, Any]


def use_without_care(connection: sqlite3.Connection) -> None:
    """Make writes fast and not crash-safe: the caller removes the file if anything fails."""
    connection.executescript(WITHOUT_CARE)


class ReplayTable:
    """A table, and the rows to be written to it by key: the last image of each, or None if it was deleted."""

    def __init__(self, connection: sqlite3.Connection, table: outbox.Table) -> None:
        self._connection = connection
        self._table = table
        self._blobs = {name for (name,) in connection.execute(BLOBS, (table.name,))}
        self._free = {table.columns[index] for index in table.free}
        self._key_of_row = itemgetter(*table.key)
        self._key_of_list = itemgetter(*range(len(table.key)))  # the same value
        self._images: dict[Any, Row | None] = {}

    def clear(self) -> None:
        self._images.clear()
        self._connection.execute(f"DELETE FROM {self._table.name}")

    def put(self, rows: list[Row]) -> None:
        self._images.update(zip(map(self._key_of_row, rows), rows, strict=True))

    def delete(self, keys: list[list[Any]]) -> None:
        self._images.update(dict.fromkeys(map(self._key_of_list, keys)))

    def write(self) -> None:
        """Write the rows; those with the same columns together.

        NULLs are not bound: that would cost as much as values, and most columns of most jobs are NULL. It is the
        default of every column that allows it.
        """
        deleted, shapes = [], dict[tuple[str, ...], list[Row]]()
        for key, row in self._images.items():
            if row is None:
                deleted.append(key if isinstance(key, tuple) else (key,))
            else:
                shapes.setdefault(tuple(row), []).append(row)
        matches = " AND ".join(f"{column} = ?" for column in self._table.key)
        self._connection.executemany(f"DELETE FROM {self._table.name} WHERE {matches}", deleted)
        for columns, rows in shapes.items():
            self._decode_bytes(rows)
            self._insert(columns, rows)
        self._images.clear()

    def _decode_bytes(self, rows: list[Row]) -> None:
        """Decode the base64 of bytes in place. All `rows` have the same columns."""
        for column in self._blobs.intersection(rows[0]):
            for row in rows:
                row[column] = a2b_base64(row[column])
        for column in self._free.intersection(rows[0]):
            for row in rows:
                if type(value := row[column]) is dict:
                    row[column] = a2b_base64(value["base64"])

    def _insert(self, columns: tuple[str, ...], rows: list[Row]) -> None:
        """Insert several rows with one statement, as a statement costs as much as a row; the last few one by one."""
        if unknown := set(columns).difference(self._table.columns):
            raise LookupError(f"{self._table.name} has no {', '.join(unknown)}")
        statement = f"INSERT OR REPLACE INTO {self._table.name} ({', '.join(columns)}) VALUES "
        marks = f"({', '.join('?' * len(columns))})"
        values = chain.from_iterable(map(dict.values, rows))
        groups, rest = divmod(len(rows), ROWS_AT_ONCE)
        for count, times in ((ROWS_AT_ONCE, groups), (1, rest)):
            parameters = (tuple(islice(values, count * len(columns))) for _ in range(times))
            self._connection.executemany(statement + ", ".join([marks] * count), parameters)


class Replay:
    """Applies lines to the database of `connection`. `apply` them all, then `finish`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        every = [*outbox.tables(connection), outbox.table(connection, outbox.LOG)]
        self._tables = {table.name: ReplayTable(connection, table) for table in every}
        self._count = 0

    def clear(self) -> None:
        """Delete all rows: a chain begins, and its initial rows follow."""
        for table in self._tables.values():
            table.clear()
        self._count = 0

    def apply(self, line: Line) -> None:
        """Raises JournalBroken if the line has rows that the schema does not know."""
        with _known_rows():
            for name, rows in line.put.items():
                self._tables[name].put(rows)
                self._count += len(rows)
            for name, keys in line.gone.items():
                self._tables[name].delete(keys)
                self._count += len(keys)
            if self._count >= FLUSH_ROWS:
                self._write()

    def _write(self) -> None:
        for table in self._tables.values():
            table.write()
        self._count = 0

    def finish(self) -> None:
        with _known_rows():
            self._write()
        self._connection.execute(DELETE_REMOVED)


@contextmanager
def _known_rows() -> Iterator[None]:
    """Raises JournalBroken for rows that the schema cannot hold."""
    try:
        yield
    except NOT_STORABLE as error:
        raise JournalBroken(f"a line of the journal has rows that this schema does not know: {error}") from error


@contextmanager
def replaying(connection: sqlite3.Connection) -> Iterator[Replay]:
    """Replay in one transaction, without triggers and indexes; they are made again at its end."""
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
