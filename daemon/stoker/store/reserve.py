"""Room on the disk: whether there is any, and the emergency reserve for when there is none.

Owns the file `reserve` and the reading of SQLite's errors as "full" or "failed". Refuses to wait and to decide what is
done without room. Invariant: only what the system itself calls full counts as full (ENOSPC, EDQUOT); any other
failure stays one, for it leaves a commit in doubt.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from stoker.store.directory import FULL

PROBE_BYTES = 64 * 1024
# SQLite says FULL for ENOSPC alone. Where the index of the WAL cannot grow it says SHMSIZE, and nothing rests on that
# index: a start makes it anew. For EDQUOT, or where a file cannot be made, it says no more than that I/O failed.
_CERTAIN = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_POSSIBLE = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN})


def is_full(error: sqlite3.Error, directory: Path) -> bool:
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
        probe.unlink(missing_ok=True)
    return False


class Reserve:
    """The emergency reserve of `size` bytes at `path`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size

    def keep(self) -> None:
        """Set the reserve aside (again). Raises OSError, and has taken nothing then."""
        try:
            _set_aside(self.path, self._size)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def give_up(self) -> None:
        self.path.unlink(missing_ok=True)


def _set_aside(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
