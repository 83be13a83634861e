"""The file in which a failed workflow is kept whole: one JSON document, packed, put in its place in one step.

Owns the layout of the directory and the way onto the disk: written aside, fsynced, renamed. Refuses to gather: it is
given pieces. Invariants: a file under its final name is whole; it is written once; nobody but the daemon's user reads
it, as what it holds may be confidential.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from stoker.files import make_regular, sync

DIRECTORY = "archive"


def path_of(state_dir: Path, workflow_id: int, finished_at: int) -> Path:
    """Where the archive of one end of a workflow lies."""
    return state_dir / DIRECTORY / f"workflow-{workflow_id}-{finished_at}.json.gz"


class ArchiveFile:
    """A file that comes to be; `keep` puts it in its place, `discard` leaves nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fresh = path.with_name(path.name + ".new")
        self._raw: IO[bytes]
        self._packed: gzip.GzipFile

    def open(self) -> bool:
        """Begin; False if it is there already. Raises OSError."""
        if self._path.exists():
            return False
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._raw = os.fdopen(make_regular(str(self._fresh)), "wb")
        self._packed = gzip.GzipFile(filename="", fileobj=self._raw, mode="wb", compresslevel=6, mtime=0)
        return True

    def add(self, pieces: Iterable[bytes]) -> None:
        """Raises OSError."""
        for piece in pieces:
            self._packed.write(piece)

    def keep(self) -> None:
        """Whole and durable from here on. Raises OSError."""
        self._packed.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._fresh.replace(self._path)
        sync(self._path.parent)

    def discard(self) -> None:
        self._raw.close()
        self._fresh.unlink(missing_ok=True)
