"""A backup of the state of a daemon that does not run, and the list of its backups.

It keeps daemons out while it works, makes the checks that a daemon would make at its start, and changes no byte of the
state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stoker.store.backup import Progress, back_up, target
from stoker.store.backup_files import listed
from stoker.store.directory import StateDirectory
from stoker.store.open import open_existing

if TYPE_CHECKING:
    from stoker.core.daemon_views import BackupList, BackupView


def make(root: str, to: str | None, progress: Progress) -> BackupView:
    """Make a backup in the state directory, or as the file `to`.

    Raises AlreadyRunning while a daemon runs there, StateRefused, CannotCreate, DiskFull or BackupFailed.
    """
    directory = StateDirectory(Path(root))
    directory.check()
    with directory.shared(), open_existing(directory) as source:
        return back_up(source, target(directory, None if to is None else Path(to)), progress).view()


def listing(root: str) -> BackupList:
    """The backups in a state directory, newest first. Raises StateRefused."""
    directory = StateDirectory(Path(root))
    directory.check(reading=True)
    return {"directory": str(directory.backups), "backups": [file.view() for file in listed(directory.backups)]}
