"""Logs of attempts: made exclusively, written by workers alone, kept within their bound.

Owns creation and the hole in the middle. Refuses to write or to shorten: head and tail stay, offsets stay
valid, the writer feels nothing. What took the path of the file made here is left alone.

Invariants: a log that exists already is an error of its own (the disk is ahead of the database), never reused;
a worker that deletes its log or moves it away does not write without bound.
"""

from __future__ import annotations

import contextlib
import math
import os

from . import kernel
from .complaints import complain

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
REOPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REACH = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
STAT_BLOCK_BYTES = 512
# A writer can fill gigabytes in a second and nothing wakes us when it does, so all logs of running
# workers are looked at together: soon after a start, every second while calm, faster the faster one fills.
FIRST_LOOK_S = 0.05
SLOWEST_S = 1.0
FASTEST_S = 0.02


class LogExistsError(Exception):
    """Somebody made this attempt's log before us."""


def create(path: str) -> int:
    """A descriptor to hand to the worker. LogExistsError, or OSError where the disk says no."""
    _make_directory(os.path.dirname(path))  # noqa: PTH120
    try:
        return os.open(path, CREATE, 0o600)
    except FileExistsError as error:
        raise LogExistsError(path) from error


def _make_directory(path: str) -> None:
    """Private at every level, which os.makedirs is not."""
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))  # noqa: PTH120
        os.mkdir(path, 0o700)  # noqa: PTH102


class Log:
    """One attempt's log once its worker has it: a path, and the file that path must still lead to.

    `main` is the pid of the process that was given the file as its fd 1 and 2. Only while it is unreaped may it
    be asked for the file, so its end must be told.
    """

    __slots__ = ("_device", "_fd", "_inode", "_main", "_max_bytes", "_size", "_unit", "_used", "path")

    def __init__(self, path: str, fd: int, max_bytes: int, main: int) -> None:
        made = os.fstat(fd)
        self.path = path
        self._device = made.st_dev
        self._inode = made.st_ino
        self._unit = made.st_blksize  # a hole of less than a block would be filled with zeros, not given back
        self._max_bytes = max_bytes
        self._main: int | None = main
        self._fd: int | None = None
        self._size = 0
        self._used = 0

    def size(self) -> int:
        """Its length now, or when it was last seen."""
        self._look()
        return self._size

    def bound(self, elapsed_s: float) -> float:
        """Punches the hole if it is due. Returns how many seconds may pass until the next look."""
        before = self._used
        self._look()
        growth = self._used - before
        if self._used > self._max_bytes:
            self._punch()
            self._look()
        if growth <= 0:
            return math.inf
        return (self._max_bytes - self._used) * elapsed_s / growth / 2

    def main_ended(self) -> None:
        """Its number may be another's from now on."""
        self._main = None

    def close(self) -> None:
        """Nobody writes any more."""
        self._main = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _look(self) -> None:
        found = self._find()
        if found is not None:
            self._size = found.st_size
            self._used = found.st_blocks * STAT_BLOCK_BYTES

    def _find(self) -> os.stat_result | None:
        if self._fd is None:
            with contextlib.suppress(OSError):
                found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116
                if self._is_ours(found):
                    return found
            self._fd = self._reach()
        return None if self._fd is None else os.fstat(self._fd)

    def _reach(self) -> int | None:
        """The file without its name: the worker took that away, and may still write."""
        for number in (1, 2) if self._main is not None else ():
            name = f"/proc/{self._main}/fd/{number}"
            with contextlib.suppress(OSError):
                if self._is_ours(os.stat(name)):  # noqa: PTH116  (before it is opened: by now it may be any device)
                    return os.open(name, REACH)
        return None

    def _is_ours(self, found: os.stat_result) -> bool:
        return found.st_ino == self._inode and found.st_dev == self._device

    def _punch(self) -> None:
        unit = self._unit
        start = self._max_bytes // 4 // unit * unit
        end = (self._size - self._max_bytes // 2) // unit * unit
        if start >= end:
            return
        fd = os.open(self.path, REOPEN) if self._fd is None else os.dup(self._fd)
        try:
            if self._is_ours(os.fstat(fd)):
                kernel.punch_hole(fd, start, end)
        finally:
            os.close(fd)


class Bounds:
    """The logs that may still grow, and when to look at them next (`due`, monotonic seconds, or None)."""

    def __init__(self) -> None:
        self.due: float | None = None
        self._logs: dict[str, Log] = {}
        self._looked_at = 0.0

    def watch(self, run_id: str, log: Log, now: float) -> None:
        self._logs[run_id] = log
        if self.due is None:
            self._looked_at = now
            self.due = now + FIRST_LOOK_S
        else:
            self.due = min(self.due, now + FIRST_LOOK_S)

    def forget(self, run_id: str) -> None:
        """For a run that is over: one last look, as a short job can flood as well."""
        if log := self._logs.pop(run_id, None):
            self._bound(run_id, log, SLOWEST_S)
            log.close()
        if not self._logs:
            self.due = None

    def look(self, now: float) -> None:
        elapsed_s = max(now - self._looked_at, FASTEST_S)
        pauses = [self._bound(run_id, log, elapsed_s) for run_id, log in tuple(self._logs.items())]
        self._looked_at = now
        pause = min(pauses, default=SLOWEST_S)
        self.due = now + min(max(pause, FASTEST_S), SLOWEST_S) if self._logs else None

    def _bound(self, run_id: str, log: Log, elapsed_s: float) -> float:
        try:
            return log.bound(elapsed_s)
        except OSError as error:  # a filesystem without holes, or one that fails: the log grows, the worker goes on
            self._logs.pop(run_id, None)
            log.close()
            complain(f"the log of {run_id} is not bounded any more: {error}")
            return math.inf
