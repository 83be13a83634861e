"""Empty logs of acknowledged runs: handed to the next run instead of being deleted and made anew.

Owns them from the acknowledgement until they are removed, a second later at the latest. ext4 searches past every
inode that was freed within the last minute, so a thousand short jobs a second that each make and remove a log and
its directory come to spend most of their time there; a rename allocates nothing.

Invariants: a log is handed on only if it is empty, alone in its directory, and provably open nowhere else (a write
lease is granted to nobody but a sole opener, fcntl(2)), so that no late writer or reader of one job meets another;
nothing is handed on after a pause, for another launcher may have come to use that directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

REOPEN = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
KEEP_S = 1.0
KEEP_MANY = 256


class Shelf:
    def __init__(self) -> None:
        self.due: float | None = None
        self._paths: list[str] = []

    def put(self, path: str) -> None:
        """The run of this empty log is settled."""
        now = time.monotonic()
        if self.due is not None and now >= self.due:
            self.clear()
        self._paths.append(path)
        self.due = now + KEEP_S
        if len(self._paths) > KEEP_MANY:
            _remove(self._paths.pop(0))

    def take(self, path: str) -> int | None:
        """A descriptor of an empty log that is at `path` from now on; None when there is none to be had."""
        if self.due is None or time.monotonic() >= self.due:
            return None
        # Most are a first attempt's and so have one name; any other is made the ordinary way.
        if not self._paths or _name(self._paths[-1]) != _name(path):
            return None
        old = self._paths.pop()
        fd = _claim(old, path)
        if fd is None:
            _remove(old)
        return fd

    def clear(self) -> None:
        """Remove all that was not needed."""
        self.due = None
        for path in self._paths:
            _remove(path)
        self._paths.clear()


def _claim(old: str, path: str) -> int | None:
    """Move the directory of `old` to that of `path`. The rename fails where that one has anything in it."""
    source, target = os.path.dirname(old), os.path.dirname(path)  # noqa: PTH120
    try:
        fd = os.open(old, REOPEN)
    except OSError:
        return None
    try:
        # Held across the rename: whoever opens it by its old name waits, and then finds that it has another.
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        if os.fstat(fd).st_size == 0 and os.listdir(source) == [_name(old)]:  # noqa: PTH208
            os.rename(source, target)  # noqa: PTH104
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return fd
    except OSError:
        pass  # the ordinary way says what is wrong, if anything is
    os.close(fd)
    return None


def _name(path: str) -> str:
    return os.path.basename(path)  # noqa: PTH119


def _remove(path: str) -> None:
    """The log if it is still empty, and its directory if that is then empty too."""
    with contextlib.suppress(OSError):
        if os.stat(path, follow_symlinks=False).st_size == 0:  # noqa: PTH116
            os.unlink(path)  # noqa: PTH108
            os.rmdir(os.path.dirname(path))  # noqa: PTH106, PTH120
