"""Brings a database to this daemon's schema, forward only.

Owns the list of migrations, their checksums and `user_version`. Refuses a newer schema and a migration that
was edited after it ran. Each file runs in one transaction together with the row that remembers it; an
existing database is copied to `backups/` first, and the copy is verified.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

from msgspec import Struct

from stoker.core.clock import wall_ms
from stoker.core.errors import StateRefused
from stoker.files import sync
from stoker.store.database import APPLICATION_ID

_NAME = re.compile(r"(\d{4})_[a-z]+(_[a-z0-9]+)+\.sql")

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
"""
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
APPLIED = "SELECT number, checksum FROM migrations ORDER BY number"
REMEMBER = "INSERT INTO migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)"


class Migration(Struct, frozen=True):
    """One file of `migrations/`."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known() -> list[Migration]:
    """Every migration that this daemon ships, in order."""
    found = [entry for entry in resources.files("stoker.migrations").iterdir() if _NAME.fullmatch(entry.name)]
    return sorted(
        (Migration(int(entry.name[:4]), entry.name, entry.read_text()) for entry in found),
        key=lambda migration: migration.number,
    )


def schema_of(connection: sqlite3.Connection) -> int:
    """The schema that a database has; 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, backups: Path) -> int:
    """Run what is missing; returns the schema number. Raises StateRefused and changes nothing then."""
    migrations = known()
    refuse_unknown(connection)
    version = schema_of(connection)
    missing = [migration for migration in migrations if migration.number > version]
    if missing and version:
        _copy(connection, backups / f"before-{missing[0].number:04d}-{wall_ms()}.db")
    for migration in missing:
        _apply(connection, migration)
    return migrations[-1].number


def refuse_unknown(connection: sqlite3.Connection) -> None:
    """Raises StateRefused for a schema that is newer than ours, or was made by other migrations."""
    migrations, version = known(), schema_of(connection)
    if version > migrations[-1].number:
        raise StateRefused(
            f"the database has schema {version}, this daemon knows up to {migrations[-1].number}",
            hint="start the newer stokerd that wrote it",
        )
    if version == 0:
        return
    shipped = {migration.number: migration for migration in migrations}
    for number, checksum in connection.execute(APPLIED):
        if shipped[number].checksum != checksum:
            raise StateRefused(f"migration {shipped[number].name} is not the one that made this database")


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    remember = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {migration.number};"
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(CREATE_MIGRATIONS)
        for statement in _statements(migration.sql + remember):
            connection.execute(statement)
        connection.execute(REMEMBER, (migration.number, migration.name, migration.checksum, wall_ms()))
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def _statements(sql: str) -> list[str]:
    """Split a file into statements; `executescript` would commit behind our back."""
    statements: list[str] = []
    pending = ""
    for piece in sql.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    """A verified copy that survives a power loss, or none and a StateRefused."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        _copy_whole(connection, target)
        for path in (target, target.parent):
            sync(path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy_whole(connection: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
        wrong = difference(connection, copy)
    if wrong is not None:
        raise StateRefused(
            f"the copy of the database before its migration is not sound: {wrong}",
            hint="look at the disk, then start again; nothing was migrated",
        )


def difference(connection: sqlite3.Connection, copy: sqlite3.Connection) -> str | None:
    """What is wrong with a copy: damage, another schema, or rows that are missing."""
    (check,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if check != "ok":
        return str(check)
    if schema_of(copy) != schema_of(connection):
        return f"schema {schema_of(copy)} instead of {schema_of(connection)}"
    for (table,) in connection.execute(TABLES).fetchall():
        counted = [one.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for one in (connection, copy)]  # noqa: S608 - a name of our own schema
        if counted[0] != counted[1]:
            return f"{counted[1]} of {counted[0]} rows of {table}"
    return None
