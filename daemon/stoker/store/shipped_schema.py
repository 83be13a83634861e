"""The schema of a database compared with the one that the shipped migrations make.

A missing index makes the daemon slow; a missing trigger or unique index permits rows that must not be stored. SQLite's
own check notices neither. Invariant: tables are only compared; indexes and triggers, which hold no data, can be made
again.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import NamedTuple

from stoker.store.migrate import apply_all

# Without the triggers of the outbox, which each start makes from the tables.
OBJECTS = """
SELECT name, type, sql FROM sqlite_schema
WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND NOT (type = 'trigger' AND name LIKE 'outbox!_%' ESCAPE '!')
ORDER BY rowid
"""
WITHOUT_DATA = ("index", "trigger")


class SchemaObject(NamedTuple):
    """A table, index or trigger; `sql` is None if the database lacks it, `shipped` if we do not know it."""

    name: str
    kind: str
    sql: str | None
    shipped: str | None

    @property
    def remakable(self) -> bool:
        return self.kind in WITHOUT_DATA and self.shipped is not None

    def __str__(self) -> str:
        if self.shipped is None:
            return f"{self.kind} {self.name} does not belong to Stoker"
        return f"{self.kind} {self.name} {'is missing' if self.sql is None else 'differs from the shipped one'}"


def differences(connection: sqlite3.Connection) -> list[SchemaObject]:
    """The objects that are not as shipped, in a database of the current schema."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        apply_all(fresh)
        shipped = _objects(fresh)
    present = _objects(connection)
    both = [SchemaObject(name, kind, present.get(name, (None, None))[1], sql) for name, (kind, sql) in shipped.items()]
    foreign = [SchemaObject(name, kind, sql, None) for name, (kind, sql) in present.items() if name not in shipped]
    return [one for one in both if one.sql != one.shipped] + foreign


def remake(connection: sqlite3.Connection) -> list[str]:
    """Make indexes and triggers as shipped, inside a transaction. Says what was made. Raises sqlite3.Error."""
    remade = [one for one in differences(connection) if one.remakable]
    for one in remade:
        connection.execute(f"DROP {one.kind} IF EXISTS {one.name}")
        connection.execute(str(one.shipped))
    return [f"{one.kind} {one.name}" for one in remade]


def _objects(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    return {name: (kind, sql) for name, kind, sql in connection.execute(OBJECTS)}
