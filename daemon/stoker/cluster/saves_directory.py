"""The directory where a run on a node saves its checkpoints: files, complete when they have their names, and a text
beside each.

Owns what counts as one. A worker can put anything in their place, or in place of the directory. Invariants: no link is
followed; what a worker does raises no error, so it keeps neither the end of its run nor other runs waiting.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from stoker.core.workflow.checkpoint import MAX_BYTES
from stoker.files import DIRECTORY, READ, NotRegular, causes_of_workers_pass

STATUS = ".status"
MOST_STATUS_BYTES = 4_096
RIGHTS = 0o700


class SavedFile(Struct, frozen=True):
    """A checkpoint that a run saved."""

    name: str
    data: bytes
    status: str


class SavesDirectory:
    """All methods raise OSError if the storage fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __bool__(self) -> bool:
        """Whether the run saved a checkpoint that was not taken up yet."""
        names: list[str] = []
        with causes_of_workers_pass(), self._open() as directory:
            names = _saved(directory)
        return bool(names)

    def newest(self, most: int) -> list[str]:
        """The newest checkpoints that were not taken up yet, oldest first. All older ones are removed."""
        names: list[str] = []
        with causes_of_workers_pass(), self._open() as directory:
            os.fchmod(directory, RIGHTS)  # without the right to remove files, each would be stored at every look
            names = [name for _, name in sorted((_time_of(name, directory), name) for name in _saved(directory))]
            for name in names[:-most]:
                _remove(name, directory)
        return names[-most:]

    def read(self, name: str) -> SavedFile | None:
        """None if that is no file which can be read. Of a file that is too large, one byte too many is read."""
        found: list[SavedFile] = []
        with causes_of_workers_pass(), self._open() as directory:
            data, status = _content(name, directory, MAX_BYTES + 1), b""
            with causes_of_workers_pass():
                status = _content(name + STATUS, directory, MOST_STATUS_BYTES)
            found.append(SavedFile(name, data, status.decode(errors="replace") or "saved"))
        return found[0] if found else None

    def remove(self, name: str) -> None:
        with causes_of_workers_pass(), self._open() as directory:
            _remove(name, directory)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        descriptor = os.open(self._path, DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _saved(directory: int) -> list[str]:
    """Files that are being written have names that begin with a dot."""
    with os.scandir(directory) as entries:
        regular = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return [name for name in regular if not name.startswith(".") and not name.endswith(STATUS)]


def _time_of(name: str, directory: int) -> int:
    with contextlib.suppress(FileNotFoundError):  # the run has removed it
        return os.lstat(name, dir_fd=directory).st_mtime_ns
    return 0


def _content(name: str, directory: int, most: int) -> bytes:
    descriptor = os.open(name, READ, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegular(name)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def _remove(name: str, directory: int) -> None:
    for one in (name, name + STATUS):
        with causes_of_workers_pass():
            os.unlink(one, dir_fd=directory)
