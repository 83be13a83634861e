"""The files through which an attempt reads its secrets: a directory for each run, in a file system in memory.

Owns their place, and their end: the files of a run are gone once it is settled, also if the daemon was killed. They
never touch a disk, but the kernel may move pages of a tmpfs to swap. Invariants: the directory is private from its
first instant, but for the user as whom a run runs; one of another user is not used, nor followed where it leads; where
everybody can make files, its name is random, so no other user can take it first and keep jobs from their secrets.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from stoker.core.job.run_id import RunId
from stoker.files import DIRECTORY, MAKE, remove_tree

MOUNTINFO = Path("/proc/self/mountinfo")  # proc(5)
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
FOR_OTHERS = 0o077
PASSED = 0o711  # where a run of another user got secrets: others may pass, and find no name
# The form of an ACL in its extended attribute (linux/posix_acl_xattr.h).
ACL_VERSION, NO_ID = 2, 0xFFFF_FFFF
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
READ, ENTER = 4, 5


class NoPrivatePlace(Exception):
    """This host has no place for secrets; the text says why."""


def places(environ: Mapping[str, str]) -> list[Path]:
    """Where secrets may lie, the best first: the service's own directory, that of the user's session, that of all."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return [Path(place) for place in (runtime, environ.get("XDG_RUNTIME_DIR"), "/dev/shm") if place]  # noqa: S108


class SecretFiles:
    """`candidates`: directories of the host, of which the first that is in memory is used. `instance`: whose files."""

    def __init__(self, candidates: Iterable[Path], instance: str) -> None:
        self._candidates = list(candidates)
        self._place = next((place for place in self._candidates if _is_fit(place)), None)
        self._name = f"stoker-secrets-{instance}"
        self._root = None if self._place is None else self._own_root(self._place)
        self._given: set[str] = set()

    def check(self) -> None:
        """Raises NoPrivatePlace."""
        if self._place is None:
            where = ", ".join(map(str, self._candidates))
            raise NoPrivatePlace(f"no directory in memory (tmpfs) that this daemon alone can change: looked at {where}")

    def directory(self, run_id: str) -> str:
        """STOKER_SECRETS_DIR of a run that got secrets."""
        return f"{self._root}/{run_id}"

    def put(self, run_id: str, values: Mapping[str, bytes]) -> None:
        """Write the secrets of a run. Raises NoPrivatePlace, or OSError if there is no room."""
        self.check()
        root = self._made_root()
        parent = os.open(root, DIRECTORY)
        try:
            _check_own(root, os.fstat(parent))
            self._given.add(run_id)
            _remove(run_id, parent)  # what a try that failed has left
            os.mkdir(run_id, mode=0o700, dir_fd=parent)
            own = os.open(run_id, DIRECTORY, dir_fd=parent)
            uid = RunId.parse(run_id).uid
            try:
                for name, value in values.items():
                    with os.fdopen(os.open(name, MAKE, 0o400, dir_fd=own), "wb") as file:
                        file.write(value)
                        if uid is not None:
                            _admit(uid, file.fileno(), READ)
                if uid is not None:
                    _admit(uid, own, ENTER)
                    os.fchmod(parent, PASSED)
            finally:
                os.close(own)
        finally:
            os.close(parent)

    def _own_root(self, place: Path) -> Path | None:
        """The directory of all runs, if there is one of ours: that of an earlier daemon, or the one in use."""
        for path in sorted(place.glob(f"{self._name}*")):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    return path
        return None

    def _made_root(self) -> Path:
        """The directory of all runs. Raises OSError."""
        assert self._place is not None, "checked before"
        if self._root is None or not self._root.is_dir():  # it goes with the last run
            shared = self._place.stat().st_mode & stat.S_IWOTH
            name = f"{self._name}-{secrets.token_hex(8)}" if shared else self._name
            root = self._own_root(self._place) or self._place / name
            with contextlib.suppress(FileExistsError):
                root.mkdir(mode=0o700)
            self._root = root
        return self._root

    def prepare(self, open_runs: Container[str]) -> None:
        """At a start: remove the files of runs that have ended, and remember the others."""
        with self._opened() as root:
            if root is not None:
                self._given = set(os.listdir(root))  # noqa: PTH208 - a descriptor
        self.remove([run_id for run_id in self._given if run_id not in open_runs])

    def remove(self, run_ids: Iterable[str]) -> None:
        """Remove the files of runs that have ended, and with the last run the directory."""
        ended = self._given.intersection(run_ids) if self._given else ()
        if not ended or self._root is None:
            return
        with self._opened() as root:
            if root is not None:
                for run_id in ended:
                    _remove(run_id, root)
        self._given.difference_update(ended)
        if not self._given:
            with contextlib.suppress(OSError):  # of a start that was just written, or of another user
                self._root.rmdir()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor of the directory of all runs; None if it is gone, or what is there now is not ours."""
        try:
            root = None if self._root is None else os.open(self._root, DIRECTORY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            root = None
        try:
            yield root if root is not None and os.fstat(root).st_uid == os.geteuid() else None
        finally:
            if root is not None:
                os.close(root)


def _remove(run_id: str, parent: int) -> None:
    """The values go first. What the job itself made there may withstand: it does no harm, and goes at the next boot."""
    with contextlib.suppress(OSError):
        try:
            remove_tree(run_id, parent)
        except NotADirectoryError:  # the job has put a file or a link there
            os.unlink(run_id, dir_fd=parent)


def _admit(uid: int, descriptor: int, rights: int) -> None:
    """Let another user read a file, or enter a directory, as one more entry of its ACL (acl(5)). Raises OSError."""
    own = stat.S_IMODE(os.fstat(descriptor).st_mode) >> 6
    entries = [(USER_OBJ, own, NO_ID), (USER, rights, uid), (GROUP_OBJ, 0, NO_ID), (MASK, rights, NO_ID)]
    entries.append((OTHER, 0, NO_ID))
    acl = ACL_VERSION.to_bytes(4, "little") + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(descriptor, "system.posix_acl_access", acl)


def _check_own(root: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & FOR_OTHERS not in (0, PASSED & FOR_OTHERS):
        raise NoPrivatePlace(f"{root} belongs to another user, or is open to others: remove it")


def _is_fit(place: Path) -> bool:
    """Whether it is in memory, we can write there, and no other user can rename what we make there."""
    try:
        status = place.stat()
        mounts = MOUNTINFO.read_text("utf-8", "surrogateescape").split("\n")[:-1]
    except OSError:
        return False
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    kinds = {fields[fields.index("-") + 1] for line in mounts if (fields := line.split())[2] == device}
    kept = status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid()) and bool(kept)
    return ours and bool(kinds & IN_MEMORY) and os.access(place, os.W_OK | os.X_OK)
