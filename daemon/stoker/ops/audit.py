"""`stoker audit verify`: the log of changes of a state, or of a backup, is verified record by record, then the journal.

Works beside a running daemon: through a connection that only reads, in portions, so that the WAL does not grow.
Invariant: it changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.errors import AlreadyRunning, BackupRefused
from stoker.ops import journal_audit
from stoker.store import audit, changes, restore
from stoker.store.database import open_immutable, reading, refusal
from stoker.store.directory import StateDirectory
from stoker.store.open import open_existing

if TYPE_CHECKING:
    from stoker.core.daemon_views import AuditView

Progress = Callable[[int, int], None]
"""Changes that are verified, and all of them."""


def verify_state(root: str, progress: Progress) -> AuditView:
    """Verify the log of a state, whose daemon may run. Raises StateRefused."""
    directory = StateDirectory(Path(root))
    directory.check(reading=True)
    with _opened(directory) as connection:
        verdict = _verify(connection, directory.database, progress)
        verdict["journal"] = journal = journal_audit.verify(connection, directory.journal)
        verdict["ok"] = verdict["ok"] and (journal is None or journal["broken"] is None)
        return verdict


def verify_backup(root: str, file: str, progress: Progress) -> AuditView:
    """Verify the log in a backup: `latest` or a name, of those in the state, or a file. Raises BackupRefused."""
    path = restore.named(StateDirectory(Path(root)).backups, file)
    if not path.is_file():
        raise BackupRefused(f"{path} is not a file", hint="stoker backup ls")
    try:
        with open_immutable(path) as connection:
            return _verify(connection, path, progress)
    except sqlite3.Error as error:
        raise BackupRefused(f"{path} cannot be read: {error}", hint="take another one: stoker backup ls") from error


@contextmanager
def _opened(directory: StateDirectory) -> Iterator[sqlite3.Connection]:
    """Without a daemon it is opened as immutable: an ordinary connection would move the WAL into the database."""
    with ExitStack() as stack:
        try:
            stack.enter_context(directory.shared())
            connection = stack.enter_context(open_existing(directory))
        except AlreadyRunning:
            connection = stack.enter_context(_beside_daemon(directory.database))
        yield connection


@contextmanager
def _beside_daemon(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with reading(database) as connection:
            yield connection
    except sqlite3.Error as error:
        raise refusal(error, database, "stoker backup ls") from error


def _verify(connection: sqlite3.Connection, path: Path, progress: Progress) -> AuditView:
    removed = audit.beginning(connection).last
    all_of_it = changes.last(connection)[0] - removed
    chain = audit.verify(connection, lambda count: progress(count, all_of_it))
    return {
        "ok": chain.broken is None,
        "path": str(path),
        "first": removed + 1,
        "last": chain.last,
        "changes": chain.count,
        "head": chain.head.hex(),
        "broken": chain.broken,
        "journal": None,
    }
