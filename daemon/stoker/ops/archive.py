"""The archive file of a failed workflow: one JSON document, compressed.

Owns the layout of the directory and the durable write: a new file, fsync, rename. The caller gives the pieces.
Invariants: a file under its final name is complete and never written again; only the daemon's user can read it, as its
content may be confidential.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from stoker.files import make_regular, sync

DIRECTORY = "archive"
_NAME = re.compile(r"workflow-(\d+)-(\d+)\.json\.gz(\.new)?")


def path_of(state_dir: Path, workflow_id: int, finished_at: int) -> Path:
    """The archive of the workflow that finished at that time; a workflow that is retried can fail more than once."""
    return state_dir / DIRECTORY / f"workflow-{workflow_id}-{finished_at}.json.gz"


class Archive(NamedTuple):
    """A file of the directory, complete or cut off: the workflow, and when that ended."""

    path: Path
    workflow: int
    finished_at: int
    size: int


def listed(state_dir: Path) -> list[Archive]:
    """All archives. Raises OSError."""
    archives = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(state_dir / DIRECTORY):
            if match := _NAME.fullmatch(entry.name):
                size = entry.stat(follow_symlinks=False).st_size
                archives.append(Archive(Path(entry.path), int(match[1]), int(match[2]), size))
    return archives


class ArchiveFile:
    """A file that is being written. `keep` gives it its final name, `discard` removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fresh = path.with_name(path.name + ".new")
        self._raw: IO[bytes]
        self._packed: gzip.GzipFile

    def open(self) -> bool:
        """Begin to write. Returns False if the archive already exists. Raises OSError."""
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
        """Make it complete and durable. Raises OSError."""
        self._packed.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._fresh.replace(self._path)
        sync(self._path.parent)

    def discard(self) -> None:
        self._raw.close()
        self._fresh.unlink(missing_ok=True)
