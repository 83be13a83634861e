"""The emergency reserve on the disk, and whether an error of SQLite means that the disk is full.

Owns the file `reserve`. Invariant: only ENOSPC and EDQUOT count as full; after any other error a commit is in doubt.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from stoker.store.directory import FULL

PROBE_BYTES = 64 * 1024
# A worker can put a FIFO or a link there: to open the one could wait for ever, the other leads to another file.
SET_ASIDE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# SQLite reports FULL only for ENOSPC. It reports SHMSIZE if the index of the WAL cannot grow; that index is built again
# at each start. For EDQUOT, or a file that cannot be created, it reports only an I/O error.
_CERTAIN = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_POSSIBLE = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN})


def is_full(error: sqlite3.Error | UnicodeDecodeError, directory: Path) -> bool:
    """Whether a statement failed because the disk, or the owner's share of it, is full."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in _CERTAIN or (code in _POSSIBLE and _takes_nothing(directory))


def _takes_nothing(directory: Path) -> bool:
    probe = directory / "probe"
    try:
        _set_aside(probe, PROBE_BYTES)
    except OSError as error:
        return error.errno in FULL
    finally:
        with contextlib.suppress(OSError):  # a read-only or missing disk: SQLite reports it
            probe.unlink()
    return False


class Reserve:
    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size

    def keep(self) -> None:
        """Allocate the reserve (again). Raises OSError, and leaves no file then."""
        try:
            _set_aside(self.path, self._size)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def give_up(self) -> None:
        self.path.unlink(missing_ok=True)


def _set_aside(path: Path, size: int) -> None:
    descriptor = os.open(path, SET_ASIDE, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
