"""The kernel's notices of changes in directories (inotify(7)).

Owns the constants and the parsing of events. It is called through ctypes: three system calls and a struct that never
change, where the libraries around them bring threads, or have not been released for years.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

READ_BYTES: Final = 65_536
HEAD: Final = struct.Struct("iIII")  # wd, mask, cookie, length of the name
IN_ATTRIB: Final = 0x4
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
# A second watch of an inode replaces the mask of the first: all have the same one.
MASK: Final = (
    IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
)

_libc = ctypes.CDLL(None, use_errno=True)


class FileNotice(NamedTuple):
    """Something happened to `name` in the directory of a watch, or (no name) to what is watched itself."""

    watch: int
    name: bytes

    @property
    def lost(self) -> bool:
        """The queue of the kernel was full: anything may have happened."""
        return self.watch < 0


class Inotify:
    """Raises OSError if the user has no instance or descriptor left."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")

    def watch(self, path: bytes) -> int:
        """Watch what is at a path; a link is followed. May block as long as its file system does. Raises OSError."""
        return _checked(_libc.inotify_add_watch(self.fd, path, MASK), os.fsdecode(path))

    def unwatch(self, watch: int) -> None:
        """An error means that the kernel has removed it."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[FileNotice]:
        """The notices that wait, at most as many as READ_BYTES hold."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return []
        notices = []
        at = 0
        while at < len(data):
            watch, _, _, length = HEAD.unpack_from(data, at)
            at += HEAD.size + length
            notices.append(FileNotice(watch, data[at - length : at].rstrip(b"\0")))
        return notices

    def close(self) -> None:
        os.close(self.fd)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
