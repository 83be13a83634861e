"""The outcome log: outcomes of runs that ended while no daemon was connected.

Owns the writing side of `outcomes/<launcher>.log`. The file is opened anew for each batch, as a daemon removes it once
its outcomes are committed. Invariant: if `append` did not raise, its outcomes survive a power loss.
"""

from __future__ import annotations

import contextlib
import os

from . import frames
from .logs import FILE_MODE, require_regular

# A worker can put a FIFO there: opening that without O_NONBLOCK waits for a reader.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutcomeLog:
    def __init__(self, directory: str, launcher: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, f"{launcher}.log")

    def append(self, outcomes: list[frames.Message]) -> None:
        """Write all outcomes durably. After an OSError all count as not written, and the caller may try again."""
        lines = b"".join(map(frames.line, outcomes))
        fd = os.open(self._path, APPEND, FILE_MODE)
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
    """Append everything or nothing: half a line, as a full disk takes it, is cut off again."""
    size = os.fstat(fd).st_size
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
