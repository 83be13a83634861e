"""The place where the daemon listens: a path in the file system, its lock and the socket bound to it.

Owns the promise that no live server's socket is ever taken over, that a socket has its mode from its first instant on,
and that a path which somebody removes under a living daemon (logind empties a runtime directory at logout) is bound
again. Refuses to listen or accept (server.py). The lock is `<path>.lock`, held for life by its open descriptor: only
its holder may unlink a socket that nobody answers on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.errors import AlreadyRunning, CannotCreate
from stoker.paths import check_length
from stoker.store.file_identity import is_same_file

if TYPE_CHECKING:
    from typing import NoReturn


ANOTHER = "choose another --socket or STOKER_SOCKET"


class Address:
    """The path of one daemon, from lock to release."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._bound: os.stat_result | None = None

    def lock(self) -> None:
        """Raises AlreadyRunning or CannotCreate."""
        self._lock = lock_socket(self.path)

    def bind(self) -> socket.socket:
        """A socket at the path, which must be locked. Raises AlreadyRunning or CannotCreate."""
        bound = bind_socket(self.path)
        self._bound = self.path.lstat()
        return bound

    @property
    def removed(self) -> bool:
        """Whether the socket that was bound is not at its path any more."""
        return self._bound is not None and not is_same_file(self.path, self._bound)

    def bind_again(self) -> socket.socket:
        """A new socket after the old one was removed, perhaps with its lock and directory.

        Raises AlreadyRunning when another daemon has taken the path, CannotCreate when it cannot be made now.
        """
        if self._lock is not None and not is_same_file(_lock_of(self.path), os.fstat(self._lock)):
            fresh = lock_socket(self.path)
            os.close(self._lock)
            self._lock = fresh
        return self.bind()

    def release(self) -> None:
        """Remove the socket, if it is still ours, and give the lock back. Harmless without either."""
        if self._lock is None:
            return
        if self._bound is not None and not self.removed:
            self.path.unlink(missing_ok=True)
        unlock_socket(self.path, self._lock)
        self._lock = None


def lock_socket(path: Path) -> int:
    """Take `<path>.lock` and give its descriptor: whoever keeps it open may bind `path`, until `unlock_socket`.

    Raises AlreadyRunning, naming the holder, and CannotCreate. Makes the parent directory (0700) if it is missing.
    """
    check_address(path)
    lock = _lock_of(path)
    # Whoever held it may have removed it before we got it: then it is nobody's lock any more.
    while not is_same_file(lock, os.fstat(fd := _take_lock(path, lock))):
        os.close(fd)
    with contextlib.suppress(OSError):  # who holds it is for eyes; on a full disk the lock itself still counts
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def unlock_socket(path: Path, fd: int) -> None:
    """Give the lock back and remove its file, unless the file is another daemon's by now."""
    lock = _lock_of(path)
    with contextlib.suppress(OSError):  # a file that stays is no harm
        if is_same_file(lock, os.fstat(fd)):
            lock.unlink()
    os.close(fd)


def check_address(path: Path) -> None:
    """Refuse what no socket could ever be bound to, before anything is made. Raises ConfigInvalid or CannotCreate."""
    check_length(os.fspath(path))
    with contextlib.suppress(OSError):  # what cannot be looked at says so when it is bound
        if path.parent.exists() and not path.parent.is_dir():
            raise CannotCreate(f"{path.parent} is no directory", hint=ANOTHER)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotCreate(f"{path} exists and is no socket", hint="move it away, or choose another --socket")


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _take_lock(path: Path, lock: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _cannot_create(lock, error)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise _in_use(path, f"pid {holder}" if holder else "another daemon") from None
    return fd


def bind_socket(path: Path, mode: int = 0o600) -> socket.socket:
    """A stream socket bound to `path`. Call it with the lock held: a socket that nobody answers on is replaced."""
    check_address(path)
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(bound.fileno(), mode)
        bound.bind(os.fspath(path))
    except OSError as error:
        bound.close()
        _cannot_create(path, error)
    return bound


def _remove_stale(path: Path) -> None:
    try:
        path.lstat()
        if _answers(path):
            raise _in_use(path, "a server without its lock")
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        _cannot_create(path, error)


def _answers(path: Path) -> bool:
    """Somebody listens there; in doubt (no permission, a full backlog) yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) not in {errno.ECONNREFUSED, errno.ENOENT}


def _in_use(path: Path, holder: str) -> AlreadyRunning:
    return AlreadyRunning(f"{path} is in use by {holder}", hint="stop that daemon, or choose another --socket")


def _cannot_create(path: Path, error: OSError) -> NoReturn:
    why = error.strerror or str(error)
    raise CannotCreate(f"{path}: {why}", hint=ANOTHER) from error
