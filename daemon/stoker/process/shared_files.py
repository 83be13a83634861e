"""Read-only files that many runs get with the same content: one file, of which each run has a name of its own.

A file of its own for each run would cost up to a millisecond: ext4 passes over all inodes that were freed in the last
seconds before it finds one. Invariant: a file that a worker has changed by mistake is given to no other run.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from stoker.files import make_regular

MOST = 64  # contents that are kept for runs to come


class _Kept(NamedTuple):
    path: str
    changed: tuple[int, int]  # its size and the time of its last change


class SharedFiles:
    """For one thread. `prefix`: that of the names for what is kept, which differ from all other names there."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._kept: dict[bytes, _Kept] = {}  # by the hash of the content, the oldest first
        self._made = 0

    def put(self, path: str, content: bytes) -> None:
        """Make a file with this content, or name the one that is there. Raises OSError."""
        key = hashlib.blake2b(content, digest_size=32).digest()
        if (kept := self._kept.get(key)) is not None:
            try:
                if _changed(kept.path) == kept.changed:
                    os.link(kept.path, path)
                    return
            except OSError:  # it is gone, has too many names, or an older file is there
                pass
            del self._kept[key]
        with open(make_regular(path), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
        os.chmod(path, 0o400)  # noqa: PTH101 - against workers that write to it by mistake
        self._keep(key, path)

    def _keep(self, key: bytes, path: str) -> None:
        """In place of the oldest."""
        name = f"{self._prefix}.{self._made % MOST}"
        self._made += 1
        for old in [old for old, kept in self._kept.items() if kept.path == name]:
            del self._kept[old]
        try:
            if os.path.lexists(name):
                os.unlink(name)  # noqa: PTH108 - Path costs more than the call
            os.link(path, name)
            self._kept[key] = _Kept(name, _changed(name))
        except OSError:  # a file system without links: each run gets a file of its own
            pass


def _changed(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - Path costs more than the call
    return found.st_size, found.st_mtime_ns
