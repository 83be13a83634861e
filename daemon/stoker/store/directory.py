"""The state directory: its layout, its lock, and the note about the database that lies beside it.

Owns paths and modes (0700 and 0600 from the first instant). Refuses a directory that is not ours. The lock
is an flock for life: the kernel drops it with the process, so there is no pidfile to be wrong. Invariants:
`state.json` never says more than the database holds, so a database that knows less has lost something; what
`sync` returned from is found again after a power loss.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
from pathlib import Path

import msgspec
from msgspec import Struct

from stoker.core.errors import AlreadyRunning, CannotCreate, DiskFull, StateRefused, StorageFailed
from stoker.files import sync
from stoker.store.file_identity import is_same_file, mark_of

PRIVATE = 0o077
HOLDER_BYTES = 4_096
ANOTHER = "name another with --state-dir"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
ROOM_TO_START = 1024 * 1024  # the index of the WAL, the new epoch, the settling of what was found


def storage_error(what: object, error: OSError) -> DiskFull | StorageFailed:
    """The one distinction that matters: a full disk is waited out, any other failure of storage stops the daemon."""
    told = f"{what}: {error.strerror}"
    return DiskFull(told, hint="free some space") if error.errno in FULL else StorageFailed(told)


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
        self.outcomes = root / "outcomes"
        self._lock: int | None = None
        self._entries: int | None = None
        self._in_use: dict[Path, os.stat_result] = {}

    def prepare(self) -> None:
        """Make the directory, or check that it is ours. Raises CannotCreate or StateRefused."""
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in reversed(missing):
                sync(path.parent)
        except FileExistsError as error:
            raise CannotCreate(f"state directory {self.root} is there and is no directory", hint=ANOTHER) from error
        except OSError as error:
            raise CannotCreate(f"state directory {self.root}: {error.strerror}", hint=ANOTHER) from error
        self.check()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StateRefused(f"state directory {self.root} is not writable", hint=f"chmod 700 {self.root}")

    def check(self) -> None:
        """Touches nothing. Raises StateRefused."""
        try:
            found = self.root.stat()
        except OSError as error:
            raise StateRefused(f"state directory {self.root}: {error.strerror}", hint=ANOTHER) from error
        if found.st_uid != os.geteuid():
            raise StateRefused(
                f"state directory {self.root} belongs to uid {found.st_uid}, not to uid {os.geteuid()}",
                hint=ANOTHER,
            )
        if found.st_mode & PRIVATE:
            raise StateRefused(
                f"state directory {self.root} is open to others (mode {found.st_mode & 0o777:o})",
                hint=f"chmod 700 {self.root}",
            )

    def lock(self) -> str:
        """Take the lock for life; returns which file it is. Raises AlreadyRunning, StateRefused or DiskFull."""
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno in FULL:
                raise storage_error(path, error) from error
            raise StateRefused(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, ask = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(
                f"another stokerd (pid {holder}) holds {self.root}", hint=f"{ask}, or choose another --state-dir"
            ) from None
        self._lock = descriptor
        self._entries = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(descriptor).st_size == 0:  # a lock that a power loss takes back would leave what looks like a copy
            try:
                self.sync()
            except OSError as error:
                raise storage_error(self.root, error) from error
        with contextlib.suppress(OSError):  # who holds it is for eyes; the lock itself is what counts
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return mark_of(descriptor)

    def name_socket(self, socket: Path) -> None:
        """Say in the lock file where the holder listens, for whoever finds the directory in use."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            os.pwrite(self._lock, f"{os.getpid()}\n{socket}\n".encode("utf-8", "surrogateescape"), 0)

    def remember(self) -> None:
        """Note which files are in use, for `in_place`. Call it once the database is open."""
        self._in_use = {path: path.lstat() for path in (self.root, self.root / "lock", self.database)}

    @property
    def in_place(self) -> bool:
        """Whether the directory, its lock and its database are still at their paths. Opens nothing."""
        return all(is_same_file(path, known) for path, known in self._in_use.items())

    def share(self) -> str:
        """Keep daemons out for as long as somebody only looks; opens nothing for writing. Raises AlreadyRunning."""
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise StateRefused(f"{path}: {error.strerror}: no daemon ever had this directory", hint=ANOTHER) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, ask = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(f"stokerd (pid {holder}) runs on {self.root}", hint=ask) from None
        self._lock = descriptor
        return mark_of(descriptor)

    def make_room(self) -> None:
        """On a disk too full for a start, give up the reserve for it: what runs must still be settled."""
        found = os.statvfs(self.root)
        if found.f_bavail * found.f_frsize < ROOM_TO_START:
            self.reserve.unlink(missing_ok=True)

    def unlock(self) -> None:
        for descriptor in (self._entries, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._entries = self._lock = None

    def make_places(self) -> None:
        """What launchers find there: they sync their outcomes and the directory of those, not what leads to it."""
        self.outcomes.mkdir(mode=0o700, exist_ok=True)

    def sync(self) -> None:
        """Make the names in the directory durable. Raises OSError.

        SQLite syncs it once after it made its WAL and passes over an error (unixSync in os_unix.c). The descriptor
        is older than the WAL, so the kernel tells us of that error too.
        """
        if self._entries is None:
            sync(self.root)
        else:
            os.fsync(self._entries)

    def read_aside(self) -> Aside | None:
        """What was written aside, if anything. Raises StateRefused when it cannot be read."""
        try:
            return msgspec.json.decode(self.aside.read_bytes(), type=Aside)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateRefused(f"{self.aside}: {error}", hint=f"look at it, then move it away: {self.aside}") from error

    def write_aside(self, aside: Aside) -> None:
        """Replace `state.json` durably: write, fsync, rename, fsync of the directory. Raises OSError."""
        fresh = self.aside.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(aside) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self.aside)
        self.sync()


def _holder(lock: int) -> tuple[str, str]:
    """The pid in a lock file, and the command that asks its holder how it is."""
    pid, _, rest = os.pread(lock, HOLDER_BYTES, 0).decode(errors="replace").partition("\n")
    socket = rest.partition("\n")[0]
    return pid or "unknown", f"stoker --socket {shlex.quote(socket)} status" if socket else "stoker status"
