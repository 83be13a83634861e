"""The state directory: its layout, its lock, and `state.json` beside the database.

Owns paths and modes (0700 and 0600 from their creation). The lock is an flock for life: the kernel drops it with the
process, so it cannot be stale like a pidfile. Invariants: the database always contains the last change that
`state.json` names, so a database that lacks it has lost commits; after `sync` new names survive a power loss.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from stoker.core.errors import AlreadyRunning, CannotCreate, DiskFull, StateRefused, StorageFailed
from stoker.files import free_bytes, open_regular, read_regular, replace_file, sync, take_lock, user_name
from stoker.store.file_identity import is_same_file, mark_of

PRIVATE = 0o077
HOLDER_BYTES = 4_096
ANOTHER = "name another with --state-dir"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
ROOM_TO_START = 1024 * 1024  # for the index of the WAL, the new epoch, and the outcomes that recovery commits


def is_disk_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def storage_error(what: object, error: OSError) -> DiskFull | StorageFailed:
    """DiskFull, for which the daemon waits, or StorageFailed, which stops it."""
    message = f"{what}: {error.strerror}"
    return DiskFull(message, hint="free some space") if is_disk_full(error) else StorageFailed(message)


class Aside(Struct, frozen=True):
    """The contents of `state.json`."""

    instance: str
    schema: int
    last_seq: int


class StateDirectory:
    """The paths of one instance, and its lock. `credentials`: where the service manager puts those of the daemon."""

    def __init__(self, root: Path, credentials: str | None = None) -> None:
        self.root = root
        self.credentials = credentials
        self.database = root / "stoker.db"
        self.aside = root / "state.json"
        self.high_water = root / "high-water.json"
        self.reserve = root / "reserve"
        self.backups = root / "backups"
        self.journal = root / "journal"
        self.logs = root / "logs"
        self.outcomes = root / "outcomes"
        self._lock: int | None = None
        self._entries: int | None = None
        self._in_use: dict[Path, os.stat_result] = {}

    def prepare(self) -> None:
        """Create the directory, or check it. Raises CannotCreate or StateRefused."""
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in reversed(missing):
                sync(path.parent)
        except FileExistsError as error:
            raise CannotCreate(f"state directory {self.root} exists and is not a directory", hint=ANOTHER) from error
        except OSError as error:
            raise CannotCreate(f"state directory {self.root}: {error.strerror}", hint=ANOTHER) from error
        self.check()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise self._not_writable()

    def _not_writable(self) -> StateRefused:
        """The kernel makes a disk read-only after an error of it: then the mode of the directory is no help."""
        if os.statvfs(self.root).f_flag & os.ST_RDONLY:
            hint = "look for errors of the disk (dmesg), then mount it writable"
            return StateRefused(f"state directory {self.root} is on a read-only file system", hint=hint)
        return StateRefused(
            f"state directory {self.root} is not writable", hint=f"chmod 700 {shlex.quote(str(self.root))}"
        )

    def check(self, *, reading: bool = False) -> None:
        """Raises StateRefused; changes nothing. `reading`: for a command that only reads; root may use it, too."""
        try:
            status = self.root.stat()
        except OSError as error:
            raise StateRefused(f"state directory {self.root}: {error.strerror}", hint=ANOTHER) from error
        if status.st_uid != os.geteuid() and not (reading and os.geteuid() == 0):
            owner = user_name(status.st_uid)
            raise StateRefused(
                f"state directory {self.root} belongs to {owner}, not to {user_name(os.geteuid())}",
                hint=f"run this as {owner}, or {ANOTHER}",
            )
        if status.st_mode & PRIVATE:
            raise StateRefused(
                f"state directory {self.root} is open to others (mode {status.st_mode & 0o777:o})",
                hint=f"chmod 700 {shlex.quote(str(self.root))}",
            )

    def lock(self) -> str:
        """Take the lock for life; returns the mark of its file. Raises AlreadyRunning, StateRefused or DiskFull."""
        path = self.root / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno in FULL:
                raise storage_error(path, error) from error
            raise StateRefused(f"{path}: {error.strerror}") from error
        try:
            take_lock(descriptor)
        except BlockingIOError:
            holder, socket = _holder(descriptor)
            os.close(descriptor)
            hint = f"{_ask(socket)}, or choose another --state-dir"
            raise AlreadyRunning(f"another stokerd (pid {holder}) holds {self.root}", hint=hint) from None
        self._lock = descriptor
        self._entries = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fstat(descriptor).st_size == 0:  # if a power loss removed the new lock, the directory would look copied
            try:
                self.sync()
            except OSError as error:
                raise storage_error(self.root, error) from error
        with contextlib.suppress(OSError):  # the pid is only for people; the flock is what counts
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return mark_of(descriptor)

    def name_socket(self, socket: Path) -> None:
        """Write the socket of this daemon to the lock file, for the error message of a second daemon."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            os.pwrite(self._lock, f"{os.getpid()}\n{socket}\n".encode("utf-8", "surrogateescape"), 0)

    def remember(self) -> None:
        """Remember the files in use, for `in_place`. To be called when the database is open."""
        self._in_use = {path: path.lstat() for path in (self.root, self.root / "lock", self.database)}

    @property
    def in_place(self) -> bool:
        """Whether the directory, its lock and its database are still at their paths. Opens nothing."""
        return all(is_same_file(path, status) for path, status in self._in_use.items())

    @contextlib.contextmanager
    def shared(self) -> Iterator[str]:
        """Keep daemons out; gives the mark of the lock file. Raises AlreadyRunning or StateRefused."""
        self.share()
        try:
            assert self._lock is not None
            yield mark_of(self._lock)
        finally:
            self.unlock()

    def share(self) -> None:
        """Keep daemons out until `unlock`. Raises AlreadyRunning or StateRefused."""
        path = self.root / "lock"
        try:
            descriptor = open_regular(path)
        except OSError as error:
            raise StateRefused(
                f"{path}: {error.strerror}: no daemon has used this state directory yet", hint=ANOTHER
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, socket = _holder(descriptor)
            os.close(descriptor)
            message = f"stokerd (pid {holder}) runs on {self.root}"
            raise AlreadyRunning(message, hint=_ask(socket), socket=socket) from None
        self._lock = descriptor

    def make_room(self) -> None:
        """If the disk is too full for a start, delete the reserve, so that running jobs can be settled."""
        if free_bytes(self.root) < ROOM_TO_START:
            self.reserve.unlink(missing_ok=True)

    def unlock(self) -> None:
        for descriptor in (self._entries, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._entries = self._lock = None

    def make_places(self) -> None:
        """Create `outcomes`; launchers sync their files in it and the directory itself, but not its parent."""
        self.outcomes.mkdir(mode=0o700, exist_ok=True)

    def sync(self) -> None:
        """Make the names in the directory durable. Raises OSError.

        SQLite syncs it once after it made its WAL and passes over an error (unixSync in os_unix.c). The descriptor
        is older than the WAL, so the kernel reports that error to us, too.
        """
        if self._entries is None:
            sync(self.root)
        else:
            os.fsync(self._entries)

    def read_aside(self) -> Aside | None:
        """The contents of `state.json`, if it exists. Raises StateRefused if it cannot be read."""
        try:
            return msgspec.json.decode(read_regular(self.aside), type=Aside)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateRefused(f"{self.aside}: {error}", hint=f"look at it, then move it away: {self.aside}") from error

    def write_aside(self, aside: Aside) -> None:
        """Replace `state.json` durably. Raises OSError."""
        replace_file(self.aside, msgspec.json.encode(aside) + b"\n")


def _holder(lock: int) -> tuple[str, str | None]:
    """The pid in a lock file, and the socket of that daemon, once it listens."""
    pid, _, rest = os.pread(lock, HOLDER_BYTES, 0).decode(errors="replace").partition("\n")
    return pid or "unknown", rest.partition("\n")[0] or None


def _ask(socket: str | None) -> str:
    """The command that shows the status of the daemon that listens there."""
    return f"stoker --socket {shlex.quote(socket)} status" if socket else "stoker status"
