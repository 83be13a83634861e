"""A backup of the state of a daemon that does not run, and the list of its backups.

It keeps daemons out while it works, makes the checks that a daemon would make at its start, and changes no byte of the
state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.errors import StateRefused
from stoker.store.backup import Progress, back_up, target
from stoker.store.backup_files import BackupFile, listed
from stoker.store.database import examine, open_unchanged
from stoker.store.directory import StateDirectory
from stoker.store.open import doubt

if TYPE_CHECKING:
    from stoker.core.daemon_views import BackupList, BackupView


def make(root: str, to: str | None, progress: Progress) -> BackupView:
    """Make a backup in the state directory, or as the file `to`.

    Raises AlreadyRunning while a daemon runs there, StateRefused, CannotCreate, DiskFull or BackupFailed.
    """
    directory = StateDirectory(Path(root))
    directory.check()
    directory.share()
    try:
        return _make(directory, None if to is None else Path(to), progress).view()
    finally:
        directory.unlock()


def _make(directory: StateDirectory, to: Path | None, progress: Progress) -> BackupFile:
    aside = directory.read_aside()
    if not examine(directory.database, directory.aside):
        raise StateRefused(f"{directory.database} does not exist yet", hint="start stokerd: it creates it")
    path_of = target(directory, to)
    with open_unchanged(directory.database) as source:
        doubt(source, aside)
        return back_up(source, path_of, progress)


def listing(root: str) -> BackupList:
    """The backups in a state directory, newest first. Raises StateRefused."""
    directory = StateDirectory(Path(root))
    directory.check(reading=True)
    return {"directory": str(directory.backups), "backups": [file.view() for file in listed(directory.backups)]}
