"""The log file of one attempt: made at the first byte, written by the launcher alone, bounded in size.

Owns creation and the hole in the middle. Head and tail stay and offsets stay valid, so readers see one growing file.
A follower locks what it has yet to read (`process/attempt_logs.py`), and the kernel drops the lock when it dies. The
middle is dropped once each follower has read it, or has been waited for long enough.

Invariants: a log that exists before its run is an error (the disk is ahead of the database) and is never written to;
bytes that the disk does not take stay in the worker's pipe, and a full pipe makes the worker wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from . import kernel
from .command import HOST_LACKS
from .error_log import log_error
from .lean_stdlib import suppress

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CONTINUE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DISCARD = os.O_WRONLY | os.O_CLOEXEC
# The size of a pipe, unless a privileged worker enlarged it.
PORTION_BYTES = 1 << 20
STAT_BLOCK_BYTES = 512
# A follower that reads a quarter of the bound in this time loses nothing. One that is slower, or stopped, makes the
# worker wait for so long once, and again only after it has caught up.
FOLLOWER_WAIT_S = 10.0
# A reader removes a directory that it made if that stays empty, perhaps just before we make the log in it.
OPEN_TRIES = 8
# The umask takes the rights of the group away, unless that is the group of the daemon (main.py).
FILE_MODE, DIRECTORY_MODE = 0o640, 0o770


class LogExistsError(Exception):
    """The log of this attempt exists already."""


class LogFile:
    """`size` is the number of bytes ever written, including those in the hole.

    `awaits_follower`: it is too long, and a follower has yet to read what is to be dropped.
    """

    __slots__ = ("_discarding", "_fd", "_hole_bytes", "_max_bytes", "_wait_until", "awaits_follower", "path", "size")

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.size = 0
        self._max_bytes = max_bytes
        self._fd: int | None = None
        self._hole_bytes = 0
        self._discarding = False
        self._wait_until: float | None = None
        self.awaits_follower = False

    @classmethod
    def new(cls, path: str, max_bytes: int) -> LogFile:
        """The log of a run that is about to start. Raises LogExistsError, or OSError if no log could be made."""
        try:
            os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            _require_writable(path.rsplit("/", 2)[0])
            return cls(path, max_bytes)
        raise LogExistsError(path)

    @classmethod
    def continued(cls, path: str, max_bytes: int) -> LogFile | None:
        """The log of a run whose launcher died. None while another launcher holds its lock, and so writes it."""
        log = cls(path, max_bytes)
        fd = _open_in_its_directory(path, CONTINUE)
        try:
            require_regular(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.size = os.lseek(fd, 0, os.SEEK_END)
            log._hole_bytes = max(0, log.size - os.fstat(fd).st_blocks * STAT_BLOCK_BYTES)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        log._fd = fd
        return log

    def splice(self, pipe: int) -> int:
        """Move a portion from the pipe. Raises OSError if the host cannot take it now but may do so later."""
        if self._fd is None:
            self._fd = self._create()
        try:
            moved = os.splice(pipe, self._fd, PORTION_BYTES, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in HOST_LACKS:
                raise
            self._discard(error)
            return 0
        if not self._discarding:
            self.size += moved
            self.bound(time.monotonic())
        return moved

    def bound(self, now: float) -> None:
        """Drop the middle of a log that is too long, unless a follower is awaited."""
        self.awaits_follower = False
        if self._fd is None or self._discarding or self.size - self._hole_bytes <= self._max_bytes:
            return
        unit = os.fstat(self._fd).st_blksize  # a hole of less than a block frees no space
        start = self._max_bytes // 4 // unit * unit
        end = (self.size - self._max_bytes // 2) // unit * unit
        if start < end:
            self.awaits_follower = self._is_worth_waiting(self._fd, end, now)
            if not self.awaits_follower:
                self._punch(self._fd, start, end)

    def close(self) -> None:
        if self._fd is None:
            return
        if self.size == 0 and not self._discarding:  # a continued log without output
            with suppress(OSError):  # while we hold the lock: after that another launcher may write to it
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = None

    # --- inside

    def _create(self) -> int:
        try:
            return _open_in_its_directory(self.path, CREATE)
        except OSError as error:
            if error.errno in HOST_LACKS or error.errno == errno.ENOENT:
                raise
            return self._discard(error)

    def _discard(self, error: OSError) -> int:
        """After an error that will not pass, discard all further output, so that the worker is not blocked for ever."""
        log_error(f"log {self.path}: {error.strerror}: output behind byte {self.size} is discarded")
        self._discarding = True
        self.close()
        self._fd = os.open(os.devnull, DISCARD)
        return self._fd

    def _is_worth_waiting(self, fd: int, end: int, now: float) -> bool:
        """Whether a follower has yet to read a byte before `end`, and still has time for it."""
        if not kernel.has_lock_before(fd, end):
            self._wait_until = None
            return False
        if self._wait_until is None:
            self._wait_until = now + FOLLOWER_WAIT_S
        return now < self._wait_until

    def _punch(self, fd: int, start: int, end: int) -> None:
        try:
            kernel.punch_hole(fd, start, end)
        except OSError as error:  # a file system without holes keeps the head only
            self._discard(error)
        else:
            self._hole_bytes = end - start


def _open_in_its_directory(path: str, flags: int) -> int:
    """Open a log; make its directory if needed. Raises OSError, ENOENT if the directory was removed each time."""
    for _ in range(OPEN_TRIES - 1):
        with suppress(FileNotFoundError):
            return os.open(path, flags, FILE_MODE)
        _make_directory(os.path.dirname(path))
    return os.open(path, flags, FILE_MODE)


def require_regular(fd: int) -> None:
    """Raises an error if the file is not regular: a worker runs as our user and can replace it."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _require_writable(directory: str) -> None:
    """Check that a log can be made. The log itself is made at the first byte."""
    if not os.access(directory, os.W_OK | os.X_OK):
        _make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _make_directory(path: str) -> None:
    """With our umask at every level, which os.makedirs does not use."""
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        with suppress(FileExistsError):  # a reader that waits for the log has made it meanwhile
            os.mkdir(path, DIRECTORY_MODE)
