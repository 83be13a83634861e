"""The outcome log: what ended while no daemon was connected, on disk before anything else happens.

Owns the writing side of `outcomes/<launcher>.log`. The file is opened anew for each batch, because a
daemon that has committed what it says removes it.

Invariant: what `append` was given and did not raise for survives a power loss.
"""

from __future__ import annotations

import contextlib
import os

from . import frames

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class OutcomeLog:
    def __init__(self, directory: str, launcher: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, f"{launcher}.log")  # noqa: PTH118

    def append(self, outcomes: list[frames.Message]) -> None:
        """All of them durably; on an OSError none of them counts as said, and it may be tried again."""
        lines = b"".join(map(frames.line, outcomes))
        fd = os.open(self._path, APPEND, 0o600)
        try:
            _append_whole(fd, lines)
        finally:
            os.close(fd)
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _append_whole(fd: int, data: bytes) -> None:
    """A full disk may take half a line; that half must not stay in front of a later one."""
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
