"""The rows of a restore: raising of ids in a copy of a backup, and the note that the next start finds in it.

Works for each schema since the first: a backup of an earlier release is migrated by the daemon, afterwards.
Invariants: the note and the ids are one transaction; the note stays until every job that it concerns is settled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from stoker.core.errors import BackupRefused
from stoker.store import given_ids, history_id
from stoker.store.backup_files import NAME, BackupFile, listed
from stoker.store.database import UNREADABLE, open_immutable, transaction
from stoker.store.high_water import Mark
from stoker.store.outbox import FORGET_CHAIN, LEFT_CHAIN
from stoker.store.queues import SET_META, meta
from stoker.store.strict import strict

LATEST = "latest"
NOTE = "restored"
NOT_STARTED = """
SELECT id FROM jobs WHERE state IN ('waiting', 'queued') AND (? OR on_orphan <> 'requeue') AND id > ?
ORDER BY id LIMIT ?
"""
OPEN_JOBS = "SELECT id, attempts FROM jobs WHERE finished_at IS NULL"
EPOCH = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'epoch'"
NUMBERS = """
SELECT count(*) FILTER (WHERE state IN ('waiting', 'queued') AND on_orphan <> 'requeue'),
    count(*) FILTER (WHERE state IN ('waiting', 'queued') AND on_orphan = 'requeue'),
    count(*) FILTER (WHERE state = 'running'), count(*)
FROM jobs
"""


class Restored(Struct, frozen=True):
    """A restore at `at` (UTC ms), from a backup that ends with change `last_seq`."""

    at: int
    backup: str
    last_seq: int


class JobNumbers(Struct, frozen=True):
    """Jobs of a backup: those that wait, by whether they are safe, those that ran, and all."""

    unsafe: int
    safe: int
    running: int
    all: int


def numbers(connection: sqlite3.Connection) -> JobNumbers:
    return JobNumbers(*connection.execute(NUMBERS).fetchone())


def open_jobs(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """The jobs that have not ended, and the number of attempts of each."""
    return connection.execute(OPEN_JOBS).fetchall()


def named(directory: Path, source: str) -> Path:
    """The file of a backup: `latest`, the name of one in `directory`, or a path. Raises BackupRefused."""
    if source == LATEST:
        backups = listed(directory)
        if not backups:
            raise BackupRefused(f"there is no backup in {directory}", hint="name a file: --from-backup FILE")
        return newest(backups).path
    shown = directory / source  # as `stoker backup ls` shows it
    return shown if NAME.fullmatch(source) and shown.exists() else Path(source).resolve()


def newest(backups: Sequence[BackupFile]) -> BackupFile:
    """The backup with the newest state, among some in the order of their names.

    Names do not decide, as the clock may have been wrong. The higher epoch is newer: each start raises it, also one
    after a restore, which goes back to earlier changes. Within an epoch the number of changes only grows. If the newest
    by name cannot be read it is returned, so that no older one is taken for the latest.
    """
    ranks: dict[BackupFile, tuple[int, int]] = {}
    for backup in backups:
        with suppress(*UNREADABLE), open_immutable(backup.path) as connection:
            epoch = connection.execute(EPOCH).fetchone()
            ranks[backup] = (0 if epoch is None else epoch[0], backup.last_seq)
    return max(ranks, key=ranks.__getitem__) if backups[0] in ranks else backups[0]


def given_out(connection: sqlite3.Connection) -> Mark:
    """The epoch and the ids that this database has given out."""
    return given_ids.given_out(connection, meta(connection).get("epoch", 0))


def prepare(path: Path, above: Mark, note: Restored, left_chain: str | None) -> None:
    """Raise the ids of this copy above a mark, and store the note. Raises sqlite3.Error.

    `left_chain`: the newest chain of the journal, which this state does not continue.

    The WAL mode is left, so that a crash cannot leave a part of the database in another file.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = DELETE")
        raised = given_out(connection).joined(above)
        with transaction(connection):
            given_ids.remember(connection, raised)
            # Runs of the backup may have ended since, and their files with them: what is not there proves nothing.
            for name in ("epoch", "earlier_epochs"):
                connection.execute(SET_META, (name, raised.epoch))
            history_id.begin_another(connection, note.last_seq)
            connection.execute(FORGET_CHAIN)  # the journal goes on from another state: the next start begins a new one
            connection.execute(SET_META, (LEFT_CHAIN, left_chain or ""))
            connection.execute(SET_META, (NOTE, msgspec.json.encode(note).decode()))


@strict("meta")
def pending(connection: sqlite3.Connection) -> Restored | None:
    """The note of a restore after which jobs are still to be settled."""
    text = meta(connection).get(NOTE)
    return msgspec.json.decode(text, type=Restored) if text else None


def not_started(connection: sqlite3.Connection, after: int, limit: int, *, safe_too: bool) -> list[int]:
    """Some jobs after an id that wait and may have run since the backup: only unsafe ones, or all."""
    return [row[0] for row in connection.execute(NOT_STARTED, (safe_too, after, limit))]
