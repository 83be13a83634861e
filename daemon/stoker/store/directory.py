"""The state directory: its layout, its lock, and the note about the database that lies beside it.

Owns paths and modes (0700 and 0600 from the first instant). Refuses a directory that is not ours. The lock
is an flock for life: the kernel drops it with the process, so there is no pidfile to be wrong. Invariant:
`state.json` never says more than the database holds, so a database that knows less has lost something.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from stoker.core.errors import AlreadyRunning, CannotCreate, StateRefused
from stoker.store.birth import mark_of

PRIVATE = 0o077
ROOM_TO_START = 1024 * 1024  # the index of the WAL, the new epoch, the settling of what was found


class Aside(Struct, frozen=True):
    """What `state.json` says of the database."""

    instance: str
    schema: int
    last_seq: int


class StateDirectory:
    """Paths of one instance, and the lock that makes it ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "stoker.db"
        self.aside = root / "state.json"
        self.reserve = root / "reserve"
        self.backups = root / "backups"
        self.logs = root / "logs"
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the directory, or check that it is ours. Raises CannotCreate or StateRefused."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CannotCreate(f"state directory {self.root}: {error.strerror}") from error
        self.check()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StateRefused(f"state directory {self.root} is not writable", hint=f"chmod 700 {self.root}")

    def check(self) -> None:
        """Touches nothing. Raises StateRefused."""
        try:
            found = self.root.stat()
        except OSError as error:
            raise StateRefused(
                f"state directory {self.root}: {error.strerror}", hint="name another with --state-dir"
            ) from error
        if found.st_uid != os.geteuid():
            raise StateRefused(
                f"state directory {self.root} belongs to uid {found.st_uid}, not to uid {os.geteuid()}",
                hint="choose another with --state-dir",
            )
        if found.st_mode & PRIVATE:
            raise StateRefused(
                f"state directory {self.root} is open to others (mode {found.st_mode & 0o777:o})",
                hint=f"chmod 700 {self.root}",
            )

    def lock(self) -> str:
        """Take the lock for life; returns which file it is. Raises AlreadyRunning."""
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateRefused(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(
                f"another stokerd (pid {holder}) holds {self.root}", hint="stoker status, or choose another --state-dir"
            ) from None
        if os.fstat(descriptor).st_size == 0:
            self._sync()  # a lock that a power loss takes back would leave a database that looks copied
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        return mark_of(descriptor)

    def share(self) -> str:
        """Keep daemons out for as long as somebody only looks; opens nothing for writing. Raises AlreadyRunning."""
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise StateRefused(
                f"{path}: {error.strerror}: no daemon ever had this directory", hint="name another with --state-dir"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(f"stokerd (pid {holder}) runs on {self.root}", hint="stoker status") from None
        self._lock = descriptor
        return mark_of(descriptor)

    def make_room(self) -> None:
        """On a disk too full for a start, give up the reserve for it: what runs must still be settled."""
        found = os.statvfs(self.root)
        if found.f_bavail * found.f_frsize < ROOM_TO_START:
            self.reserve.unlink(missing_ok=True)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_aside(self) -> Aside | None:
        """What was written aside, if anything. Raises StateRefused when it cannot be read."""
        try:
            return msgspec.json.decode(self.aside.read_bytes(), type=Aside)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateRefused(f"{self.aside}: {error}", hint=f"look at it, then move it away: {self.aside}") from error

    def write_aside(self, aside: Aside) -> None:
        """Replace `state.json` durably: write, fsync, rename, fsync of the directory."""
        fresh = self.aside.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(aside) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self.aside)
        self._sync()

    def _sync(self) -> None:
        """What was made or renamed in the directory is there after a power loss."""
        directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _holder(lock: int) -> str:
    return os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
