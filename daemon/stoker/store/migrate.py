"""Migrating a database to this daemon's schema, forward only.

Owns the list of migrations, their checksums and `user_version`. A newer schema, and a migration that was edited after
it ran, are refused. Each file runs in one transaction together with its row in `migrations`. An existing database is
first backed up to `backups/`, once for all that are missing: between two of them nothing runs, so a copy from there
would hold nothing that the first one does not. These backups are kept.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from functools import partial
from importlib import resources
from pathlib import Path

from msgspec import Struct

from stoker.core.clock import wall_ms
from stoker.core.errors import BackupFailed, StateRefused
from stoker.store.backup import back_up
from stoker.store.backup_files import make_directory, path_in
from stoker.store.database import APPLICATION_ID, transaction

_NAME = re.compile(r"(\d{4})_[a-z]+(_[a-z0-9]+)+\.sql")

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
"""
APPLIED = "SELECT number, checksum FROM migrations ORDER BY number"
REMEMBER = "INSERT INTO migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)"


class Migration(Struct, frozen=True):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped_migrations() -> list[Migration]:
    """Every migration that this daemon ships, in order."""
    files = [entry for entry in resources.files("stoker.migrations").iterdir() if _NAME.fullmatch(entry.name)]
    return sorted(
        (Migration(int(entry.name[:4]), entry.name, entry.read_text()) for entry in files),
        key=lambda migration: migration.number,
    )


def schema_of(connection: sqlite3.Connection) -> int:
    """The schema number of a database; 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, backups: Path) -> int:
    """Run the missing migrations; returns the schema number. Raises StateRefused and changes nothing then."""
    migrations = shipped_migrations()
    refuse_unknown(connection)
    version = schema_of(connection)
    missing = [migration for migration in migrations if migration.number > version]
    if missing and version:
        _keep_copy(connection, backups, missing[0].number)
    for migration in missing:
        _apply(connection, migration)
    return migrations[-1].number


def apply_all(connection: sqlite3.Connection, schema: int | None = None) -> None:
    """Make the current schema, or an earlier one, in a new database. Raises StateRefused for a newer one."""
    migrations = shipped_migrations()
    schema = migrations[-1].number if schema is None else schema
    if schema > migrations[-1].number:
        raise StateRefused(
            f"it has schema {schema}, this program knows up to {migrations[-1].number}",
            hint="use the newer stokerd that wrote it",
        )
    for migration in migrations[:schema]:
        _apply(connection, migration)


def _keep_copy(connection: sqlite3.Connection, backups: Path, number: int) -> None:
    """The backup before a migration. Raises StateRefused if the database is not sound, DiskFull, or CannotCreate."""
    make_directory(backups)
    try:
        back_up(connection, partial(path_in, backups, before=number))
    except BackupFailed as error:
        raise StateRefused(f"nothing was migrated: {error.message}", hint=error.hint) from error


def refuse_unknown(connection: sqlite3.Connection) -> None:
    """Raises StateRefused if the schema is newer than ours, or was made by other migrations."""
    migrations, version = shipped_migrations(), schema_of(connection)
    if version > migrations[-1].number:
        raise StateRefused(
            f"the database has schema {version}, this daemon knows up to {migrations[-1].number}",
            hint="start the newer stokerd that wrote it",
        )
    if version == 0:
        return
    shipped = {migration.number: migration.checksum for migration in migrations[:version]}
    applied = dict(connection.execute(APPLIED).fetchall())
    for number in sorted(shipped.keys() | applied.keys()):
        if shipped.get(number) != applied.get(number):
            raise StateRefused(f"migration {number} is not the one that made this database")


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    remember = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {migration.number};"
    with transaction(connection):
        connection.execute(CREATE_MIGRATIONS)
        for statement in _statements(migration.sql + remember):
            connection.execute(statement)
        connection.execute(REMEMBER, (migration.number, migration.name, migration.checksum, wall_ms()))


def _statements(sql: str) -> list[str]:
    """Split a file into statements, because `executescript` would commit."""
    statements: list[str] = []
    pending = ""
    for piece in sql.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
