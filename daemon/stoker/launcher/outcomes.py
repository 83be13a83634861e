"""The outcome log: outcomes of runs that ended while no daemon was connected.

Owns the writing side of `outcomes/<launcher>.log`. The file is opened anew for each batch, as a daemon removes it once
its outcomes are committed. Invariant: if `append` did not raise, its outcomes survive a power loss.
"""

from __future__ import annotations

import contextlib
import os

from . import frames
from .logs import require_regular

# A worker can put a FIFO there: opening that without O_NONBLOCK waits for a reader.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutcomeLog:
    def __init__(self, directory: str, launcher: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, f"{launcher}.log")

    def append(self, outcomes: list[frames.Message]) -> None:
        """Write all of them durably. After an OSError none of them counts as written, and it may be tried again."""
        lines = b"".join(map(frames.line, outcomes))
        fd = os.open(self._path, APPEND, 0o600)
        try:
            require_regular(fd)
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
    """A full disk may take half a line, which must not stay in front of a later line."""
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
