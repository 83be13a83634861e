"""The socket's path: its lock, the socket bound to it, and the watch that binds it again.

Owns three promises: the socket of a live server is never taken over; a socket has its mode from its first instant; a
path that is removed while the daemon runs (logind empties a runtime directory at logout) is bound again. server.py
listens and accepts. The lock is `<path>.lock`, held by an open descriptor for the life of the daemon; only its holder
may unlink a socket that no server answers on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import NoReturn

from stoker.core.access import AccessRules
from stoker.core.errors import AlreadyRunning, CannotCreate, StokerError
from stoker.files import take_lock
from stoker.paths import check_length
from stoker.rpc.server import Server
from stoker.store.file_identity import is_same_file
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

LOOK_EVERY_S = 1.0
ANOTHER = "choose another --socket or STOKER_SOCKET"


OWNER_MODE, GROUP_MODE, EVERYONE_MODE = 0o600, 0o660, 0o666
OWN_DIRECTORY, OPEN_DIRECTORY = 0o700, 0o711


class Address:
    """The socket path of one daemon, from lock to release. `access` says who may reach it."""

    def __init__(self, path: Path, access: AccessRules) -> None:
        self.path = path
        self.access = access
        self._lock: int | None = None
        self._bound: os.stat_result | None = None

    def lock(self) -> None:
        """Raises AlreadyRunning or CannotCreate."""
        self._lock = lock_socket(self.path, self.access)

    def bind(self) -> socket.socket:
        """A socket at the path, which must be locked. Raises AlreadyRunning or CannotCreate."""
        bound = bind_socket(self.path, self.access)
        self._bound = self.path.lstat()
        return bound

    def use(self, access: AccessRules) -> None:
        """Let others reach the socket from now on. Raises CannotCreate."""
        self.access = access
        if self._bound is not None and not self.removed:
            _open_to(self.path, access)

    @property
    def removed(self) -> bool:
        """Whether the bound socket is missing from its path."""
        return self._bound is not None and not is_same_file(self.path, self._bound)

    def bind_again(self) -> socket.socket:
        """Bind a new socket after the old one was removed, perhaps together with its lock and directory.

        Raises AlreadyRunning when another daemon has taken the path, CannotCreate when the bind fails.
        """
        if self._lock is not None and not is_same_file(_lock_of(self.path), os.fstat(self._lock)):
            fresh = lock_socket(self.path, self.access)
            os.close(self._lock)
            self._lock = fresh
        return self.bind()

    def release(self) -> None:
        """Remove the socket if it is still ours, and release the lock. Does nothing without a lock."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):  # a socket that stays does no harm
            if self._bound is not None and not self.removed:
                self.path.unlink()
        unlock_socket(self.path, self._lock)
        self._lock = None


def lock_socket(path: Path, access: AccessRules | None = None) -> int:
    """Take `<path>.lock` and return its descriptor. Its holder may bind `path`, until `unlock_socket`.

    Raises AlreadyRunning, naming the holder, and CannotCreate. Makes the parent directory if it is missing: 0700, or
    0711 if others may use the daemon.
    """
    check_address(path)
    lock = _lock_of(path)
    # The former holder may have unlinked the file between our open and our flock: take the lock of the new file.
    while not is_same_file(lock, os.fstat(fd := _take_lock(path, lock, access))):
        os.close(fd)
    with contextlib.suppress(OSError):  # the pid is for people: on a full disk the lock itself still holds
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def unlock_socket(path: Path, fd: int) -> None:
    """Release the lock and remove its file, unless another daemon has made a new one."""
    lock = _lock_of(path)
    with contextlib.suppress(OSError):  # a file that stays does no harm
        if is_same_file(lock, os.fstat(fd)):
            lock.unlink()
    os.close(fd)


def check_address(path: Path) -> None:
    """Refuse a path that no socket can be bound to. Raises ConfigInvalid or CannotCreate."""
    check_length(os.fspath(path))
    with contextlib.suppress(OSError):  # a path that cannot be read fails in bind, with its reason
        if path.parent.exists() and not path.parent.is_dir():
            raise CannotCreate(f"{path.parent} is not a directory", hint=ANOTHER)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotCreate(f"{path} exists and is not a socket", hint="move it away, or choose another --socket")


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _take_lock(path: Path, lock: Path, access: AccessRules | None) -> int:
    try:
        _make_directory(path.parent, OPEN_DIRECTORY if access is not None and access.shared else OWN_DIRECTORY)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _cannot_create(lock, error)
    try:
        take_lock(fd)
    except OSError as error:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        if not isinstance(error, BlockingIOError):
            _cannot_create(lock, error)
        raise _in_use(path, f"pid {holder}" if holder else "another daemon") from None
    return fd


def _make_directory(directory: Path, mode: int) -> None:
    """One that is there keeps its mode. What is made here belongs to the daemon: others cannot replace it."""
    if not directory.is_dir():
        directory.mkdir(mode=OWN_DIRECTORY, parents=True, exist_ok=True)
        directory.chmod(mode)


def bind_socket(path: Path, access: AccessRules | None = None) -> socket.socket:
    """A stream socket bound to `path`. Needs the lock: a socket that no server answers on is replaced.

    It is the owner's alone until its group is set, and no client can connect before the server listens.
    """
    check_address(path)
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(bound.fileno(), OWNER_MODE)
        bound.bind(os.fspath(path))
        if access is not None:
            _open_to(path, access)
    except OSError as error:
        bound.close()
        _cannot_create(path, error)
    except StokerError:
        bound.close()
        raise
    return bound


def groups_of(access: AccessRules) -> set[int]:
    """The groups whose members may use the daemon."""
    return {group for group in (access.group, access.operators, access.admins) if group is not None}


def _open_to(path: Path, access: AccessRules) -> None:
    """The mode of the socket: several groups cannot own it, so with more than one everybody reaches it.

    The server refuses users who may not use the daemon.
    """
    groups = groups_of(access)
    wide = access.everyone or len(groups) > 1
    mode = EVERYONE_MODE if wide else GROUP_MODE if groups else OWNER_MODE
    try:
        for group in groups if mode == GROUP_MODE else ():
            os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(mode)
    except OSError as error:
        raise CannotCreate(
            f"{path}: [access] wants mode {mode:o} for it: {error.strerror}",
            hint="the daemon's user must be a member of the group, or root",
        ) from error


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
    """Whether a server listens there. True in doubt: no permission, a full backlog."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) not in {errno.ECONNREFUSED, errno.ENOENT}


def _in_use(path: Path, holder: str) -> AlreadyRunning:
    return AlreadyRunning(f"{path} is in use by {holder}", hint="stop that daemon, or choose another --socket")


def _cannot_create(path: Path, error: OSError) -> NoReturn:
    why = error.strerror or str(error)
    raise CannotCreate(f"{path}: {why}", hint=ANOTHER) from error


class AddressWatch:
    """Binds the socket again when it is removed while the daemon runs.

    It polls once a second because inotify on the directory ends with the directory, and its parents are not ours to
    watch. A socket that systemd holds has no lock here and is not watched.
    """

    def __init__(self, address: Address, server: Server) -> None:
        self._address = address
        self._server = server
        self._failed = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        """A failure is logged once, and tried again at the next look; a directory may be closed to the daemon."""
        try:
            if self._address.removed:
                await self._server.move(self._address.bind_again())
            elif not self._failed:
                return
        except (StokerError, OSError) as error:
            if not self._failed:
                log(LogEvent.SOCKET_LOST, socket=self._address.path, error=error)
            self._failed = True
            return
        self._failed = False
        log(LogEvent.SOCKET_RESTORED, socket=self._address.path)
