"""Files in the directories of other users, which these can replace at any moment by whatever they like.

Owns the one place of such directories (`[run_as] directory`) and the ways into it. A path below it is opened
beneath it, through no link and on its own file system, so a user leads the daemon to nothing but own files. Who owns a
directory follows from its name alone, a uid, as its parent belongs to root.

Owns also the rule for files that users name while jobs run as them: the daemon looks at what everybody may read, as it
could read files of others that the one who asks cannot.

Linux 5.6 or newer, for openat2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

SYS_OPENAT2 = 437  # the same number on every architecture
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x01, 0x02, 0x04, 0x08
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MAX_BYTES = 16 << 20  # of a file that is read as a whole

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class ForeignPlace:
    """The directory above those of the users; until `begin` there is none, and every path is our own."""

    def __init__(self) -> None:
        self._prefix: str | None = None

    def begin(self, directory: str) -> None:
        self._prefix = f"{directory}/"

    @property
    def begun(self) -> bool:
        return self._prefix is not None

    def owner_of(self, path: str) -> int | None:
        """The uid of the user to whom a path belongs; None if it is one of our own."""
        if self._prefix is None or not path.startswith(self._prefix):
            return None
        return int(path[len(self._prefix) :].split("/", 1)[0])

    def open(self, path: str, flags: int) -> int:
        """A descriptor of a path below it. Raises OSError: ELOOP for a link, EXDEV for another file system."""
        assert self._prefix is not None
        assert path.startswith(self._prefix)
        root = os.open(self._prefix, ROOT)
        try:
            how = OpenHow(flags | os.O_CLOEXEC, 0, NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH)
            below = os.fsencode(path[len(self._prefix) :])
            opened = _libc.syscall(SYS_OPENAT2, root, below, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
            if opened < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
            return int(opened)
        finally:
            os.close(root)


PLACE = ForeignPlace()


def fault_of(directory: Path) -> str | None:
    """Why a directory cannot hold those of users: another user than root could replace them. None if it can.

    One that is not there yet has no fault: the spawner makes it.
    """
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if status.st_uid != 0:
        return f"it belongs to uid {status.st_uid}, and must belong to root: chown root {directory}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"it has mode {stat.S_IMODE(status.st_mode):o}, so others can write to it: chmod go-w {directory}"
    return None


@contextlib.contextmanager
def reached(path: str) -> Iterator[str]:
    """A name for `path` that no link in its directories leads elsewhere; our own paths stay as they are.

    The last part of the name is not resolved: use it with calls that follow no link there.
    """
    if PLACE.owner_of(path) is None:
        yield path
        return
    directory, _, name = path.rpartition("/")
    descriptor = PLACE.open(directory, DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def check_open_to_all(descriptor: int) -> None:
    """Raises PermissionError if jobs run as other users, and the file of a descriptor is not open to all of them.

    Its name is the one that the kernel knows, so a link to it leads past no closed directory.
    """
    if not PLACE.begun:
        return
    name = Path(f"/proc/self/fd/{descriptor}").readlink()
    may_pass = all(parent.stat().st_mode & stat.S_IXOTH for parent in name.parents)
    if not (may_pass and os.fstat(descriptor).st_mode & stat.S_IROTH):
        raise PermissionError(errno.EACCES, "not everybody may read it", str(name))


def check_passable(directory: Path, status: os.stat_result) -> None:
    """Raises PermissionError if jobs run as other users, and not all of them may enter a directory."""
    if PLACE.begun and not status.st_mode & stat.S_IXOTH:
        raise PermissionError(errno.EACCES, "not everybody may enter it", str(directory))
