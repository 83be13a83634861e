"""The outbox: which rows changed and are not yet in the journal.

Triggers, made from the schema, write the table and the key of each changed row to `outbox`, in the transaction of the
change. After the commit the rows are read for the journal; when they are durable there, a later commit deletes the
entries. So after a crash the next start finds the rows that the journal lacks. The log of changes needs no entries: it
only grows, so its rows are read by their numbers. Invariant: the newest entry stays, so that no number is used twice.
"""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import Struct

from stoker.core.errors import CorruptRecord
from stoker.store import checkpoints, jobs, secret_rows
from stoker.store.database import json_array, transaction
from stoker.store.queues import SET_META

LOG = "changes"
NOT_JOURNALED = ("outbox", LOG, secret_rows.TABLE)
PORTION_BYTES = 256 * 1024
ROW_BYTES = 64  # of a row without its texts
MOST_KEYS = 2  # columns of a primary key; the outbox has as many columns for them
# The order of values that are inserted, if the table has another one.
INSERTED = {"jobs": jobs.COLUMNS.split(", "), "checkpoints": list(checkpoints.FIELDS)}

Rows = Sequence[tuple[Any, ...]]

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
COLUMNS = "SELECT name, type, pk FROM pragma_table_info(?) ORDER BY cid"  # without generated columns
TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'outbox!_%' ESCAPE '!'"
TRIGGER = """\
CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN
    INSERT INTO outbox (place, {columns}) VALUES ('{table}', {key});
END"""
EXISTS = "SELECT 1 FROM sqlite_schema WHERE name = 'outbox'"
CHAIN = "journal"  # the key in meta: the chain of journal files of this database
LEFT_CHAIN = "journal_left"  # the key of its chain before a restore, which may be ahead of the database
READ_CHAIN = "SELECT value FROM meta WHERE key = 'journal'"
FORGET_CHAIN = "DELETE FROM meta WHERE key = 'journal'"
CLEAR = "DELETE FROM outbox"
RANGE = "SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM outbox"
FORGET = "DELETE FROM outbox WHERE id <= ? AND id < (SELECT max(id) FROM outbox)"
PLACES = """
SELECT place, max(id), count(*) FROM (SELECT id, place FROM outbox WHERE id > ? ORDER BY id LIMIT ?) GROUP BY place
"""
PLACES_UP_TO = "SELECT place, max(id), count(*) FROM outbox WHERE id > ? AND id <= ? GROUP BY place"
IMAGES = """
SELECT {columns} FROM outbox JOIN {table} AS t ON {matches}
WHERE outbox.id > ? AND outbox.id <= ? AND outbox.place = '{table}'
"""
SIZES = """
SELECT outbox.id, {sizes} FROM outbox JOIN {table} AS t ON {matches}
WHERE outbox.id > ? AND outbox.id <= ? AND outbox.place = '{table}'
"""
GONE = """
SELECT DISTINCT {columns} FROM outbox WHERE id > ? AND id <= ? AND place = '{table}'
    AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {matches})
"""
KEYS = "SELECT {columns} FROM outbox WHERE id > ? AND id <= ? AND place = '{table}'"
DAMAGED_ENTRY = "SELECT 1 FROM outbox WHERE place NOT IN (SELECT value FROM json_each(?)) LIMIT 1"
ROWS = "SELECT {columns} FROM {table} AS t"


class Table(Struct, frozen=True, dict=True):
    """A table of the state: its stored columns, and the columns of its primary key in order."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    free: tuple[int, ...]
    """The indexes of the columns of type ANY. Bytes in them are marked, as JSON has no bytes."""

    @cached_property
    def row_type(self) -> type[Struct]:
        """A row of the journal: values by column, without NULLs."""
        return msgspec.defstruct(self.name, [(column, Any, None) for column in self.columns], omit_defaults=True)

    @cached_property
    def triggers(self) -> dict[str, str]:
        """The triggers by name. An update that changes a key adds an entry for the old and one for the new key."""
        moved = f"UPDATE OF {', '.join(self.key)}"
        events = {"insert": ("INSERT", "NEW"), "update": ("UPDATE", "NEW"), "moved": (moved, "OLD")}
        return {
            name: TRIGGER.format(
                name=name, event=event, table=self.name, columns=self._entry_columns, key=self._of(row)
            )
            for short, (event, row) in {**events, "delete": ("DELETE", "OLD")}.items()
            if (name := f"outbox_{self.name}_{short}")
        }

    @cached_property
    def images(self) -> str:
        """SQL for the rows of the entries in a range."""
        return IMAGES.format(columns=self._all_columns, table=self.name, matches=self._matches)

    @cached_property
    def gone(self) -> str:
        """SQL for the keys of the entries in a range whose rows are gone."""
        return GONE.format(columns=self._entry_columns, table=self.name, matches=self._matches)

    @cached_property
    def keys(self) -> str:
        """SQL for the keys of the entries in a range."""
        return KEYS.format(columns=self._entry_columns, table=self.name)

    @cached_property
    def sizes(self) -> str:
        """SQL for the numbers of the entries in a range, and the approximate bytes of the row of each."""
        sizes = " + ".join(f"ifnull(length(t.{column}), 0)" for column in self.columns)
        return SIZES.format(sizes=sizes, table=self.name, matches=self._matches)

    @cached_property
    def rows(self) -> str:
        """SQL for all rows."""
        return ROWS.format(columns=self._all_columns, table=self.name)

    @cached_property
    def key_indexes(self) -> tuple[int, ...]:
        return tuple(self.columns.index(column) for column in self.key)

    @property
    def _matches(self) -> str:
        return " AND ".join(f"t.{column} = outbox.key{place}" for place, column in enumerate(self.key, start=1))

    @property
    def _entry_columns(self) -> str:
        return ", ".join(f"key{place}" for place in range(1, len(self.key) + 1))

    @property
    def _all_columns(self) -> str:
        return ", ".join(f"t.{column}" for column in self.columns)

    def _of(self, row: str) -> str:
        return ", ".join(f"{row}.{column}" for column in self.key)

    def row(self, values: tuple[Any, ...]) -> Struct:
        if self.free and any(type(values[index]) is bytes for index in self.free):
            values = tuple(_marked(value) if index in self.free else value for index, value in enumerate(values))
        return self.row_type(*values)

    def inserted_row(self, values: tuple[Any, ...]) -> Struct:
        """The row that an insert of these values makes."""
        return self.row(self._in_order(values))

    @cached_property
    def _in_order(self) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        names = INSERTED.get(self.name, self.columns)
        return itemgetter(*map(names.index, self.columns))


def _marked(value: Any) -> Any:
    return {"base64": b64encode(value).decode()} if type(value) is bytes else value


class Written(Struct):
    """The part of its rows that a transaction tells, so that the journal need not read them again.

    `bytes`: about how many it writes. `inserted`: the new rows of a table. `deleted`: tables of which it only deletes.
    """

    bytes: int = 0
    inserted: Mapping[str, Rows] = {}
    deleted: Collection[str] = ()


class Images(Struct, frozen=True):
    """The present rows of some entries, by table (`put`), and the keys of rows that do not exist (`gone`).

    `more`: further entries may follow. `size`: the approximate bytes of the rows; 0 if not measured.
    """

    last: int
    more: bool
    size: int
    put: dict[str, list[Struct]]
    gone: dict[str, list[list[Any]]]


def tables(connection: sqlite3.Connection) -> list[Table]:
    """Every table of the state but the log of changes."""
    names = [name for (name,) in connection.execute(TABLES).fetchall() if name not in NOT_JOURNALED]
    return [table(connection, name) for name in names]


def table(connection: sqlite3.Connection, name: str) -> Table:
    columns = connection.execute(COLUMNS, (name,)).fetchall()
    key = tuple(column for column, _, place in sorted(columns, key=lambda row: row[2]) if place)
    assert 1 <= len(key) <= MOST_KEYS, f"{name}: its primary key must have one or two columns, see outbox"
    free = tuple(index for index, (_, kind, _) in enumerate(columns) if kind == "ANY")
    return Table(name, tuple(column for column, _, _ in columns), key, free)


# --- the triggers -------------------------------------------------------------------------------------------


def arm(connection: sqlite3.Connection) -> bool:
    """Make the triggers of every table. Returns whether every change before is recorded.

    It is not if a trigger was missing, or if a damaged entry names no table.
    """
    every = tables(connection)
    wanted = {name: sql for table in every for name, sql in table.triggers.items()}
    present = dict(connection.execute(TRIGGERS).fetchall())
    if present == wanted:
        return connection.execute(DAMAGED_ENTRY, (json_array(table.name for table in every),)).fetchone() is None
    with transaction(connection):
        for name in present:
            connection.execute(f"DROP TRIGGER {name}")
        for sql in wanted.values():
            connection.execute(sql)
    return False


def disarm(connection: sqlite3.Connection) -> bool:
    """Remove the triggers and the entries, as no journal is kept. Returns False, as `arm` does: changes get lost."""
    present = connection.execute(TRIGGERS).fetchall()
    with transaction(connection):
        for name, _ in present:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(CLEAR)
        connection.execute(FORGET_CHAIN)
    return False


# --- the entries --------------------------------------------------------------------------------------------


def exists(connection: sqlite3.Connection) -> bool:
    """Whether the schema of this database has an outbox."""
    return connection.execute(EXISTS).fetchone() is not None


def chain(connection: sqlite3.Connection) -> str | None:
    """The name of the chain of journal files of this database; None without a journal."""
    row = connection.execute(READ_CHAIN).fetchone()
    return None if row is None else row[0]


def set_chain(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(SET_META, (CHAIN, name))


def entry_range(connection: sqlite3.Connection) -> tuple[int, int]:
    """The numbers of the oldest and the newest entry; (1, 0) if there never was one."""
    first, last = connection.execute(RANGE).fetchone()
    return first, last


def forget(connection: sqlite3.Connection, up_to: int) -> None:
    """Delete entries that are durable in the journal."""
    connection.execute(FORGET, (up_to,))


def images(
    connection: sqlite3.Connection,
    of: dict[str, Table],
    after: int,
    limit: int,
    most_bytes: int | None = None,
    written: Written | None = None,
) -> Images:
    """The rows of up to `limit` entries after `after`, and up to `most_bytes`, unless the first row has more.

    `written`: of the open transaction, if all entries after `after` are its own. Raises CorruptRecord if one of the
    entries names no table.
    """
    places = connection.execute(PLACES, (after, limit)).fetchall()
    if unknown := [place for place, *_ in places if place not in of]:
        raise CorruptRecord(f"an entry of the outbox names the table {unknown[0]}", hint="restart stokerd")
    last = max((newest for _, newest, _ in places), default=after)
    more, size = sum(entries for _, _, entries in places) == limit, 0
    if most_bytes is not None:
        sizes = sorted(row for place, _, _ in places for row in connection.execute(of[place].sizes, (after, last)))
        fitting, size = _last_within(sizes, most_bytes, last)
        if fitting < last:
            more, last = True, fitting
            places = connection.execute(PLACES_UP_TO, (after, last)).fetchall()
    put: dict[str, list[Struct]] = {}
    gone: dict[str, list[list[Any]]] = {}
    told = Written() if written is None else written
    for place, _, entries in places:
        table, inserted = of[place], told.inserted.get(place, ())
        if place in told.deleted:
            gone[place] = [list(key) for key in connection.execute(table.keys, (after, last))]
            continue
        if len(inserted) == entries and not more:  # each has an entry, so there are no others
            put[place] = [table.inserted_row(values) for values in inserted]
            continue
        rows = connection.execute(table.images, (after, last)).fetchall()
        if len(rows) < entries and (keys := connection.execute(table.gone, (after, last)).fetchall()):
            gone[place] = [list(key) for key in keys]
        if rows:
            put[place] = [table.row(row) for row in rows]
    return Images(last, more, size, put, gone)


def _last_within(sizes: list[tuple[int, int]], most_bytes: int, last: int) -> tuple[int, int]:
    """The last entry that fits into `most_bytes`, and the bytes up to it. The first entry always fits."""
    total = 0
    for entry, size in sizes:
        if total and total + size > most_bytes:
            return entry - 1, total
        total += ROW_BYTES + size
    return last, total


def rows_within(rows: Iterable[tuple[Any, ...]], most_bytes: int | None) -> tuple[list[tuple[Any, ...]], int]:
    """Rows until they have `most_bytes`, and their bytes; if it is None all rows, not measured."""
    if most_bytes is None:
        return list(rows), 0
    within, size = list[tuple[Any, ...]](), 0
    for values in rows:
        within.append(values)
        size += _row_bytes(values)
        if size >= most_bytes:
            break
    return within, size


def _row_bytes(values: tuple[Any, ...]) -> int:
    return ROW_BYTES + sum(len(value) for value in values if isinstance(value, (str, bytes)))


def all_rows(connection: sqlite3.Connection, table: Table) -> Iterator[list[Struct]]:
    """Every row of a table, in portions of bounded size."""
    rows, size = list[Struct](), 0
    for values in connection.execute(table.rows):
        rows.append(table.row(values))
        size += _row_bytes(values)
        if size >= PORTION_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
