"""Which file a file is, across reboots and mounts: its inode number and the moment it was made.

Owns the one call for it that Python lacks (statx(2)), and the question whether a path still names a file. Refuses
device numbers where a birth time is to be had: they are dealt anew at each boot, in the order in which disks were
found, so a disk that came up as another one would make everything on it look like a copy.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

AT_EMPTY_PATH = 0x1000
STATX_INO, STATX_BTIME = 0x100, 0x800
STATX_BYTES = 256
MASK = struct.Struct("=I")
INODE = struct.Struct("=Q")
TIME = struct.Struct("=qI")  # seconds, nanoseconds
INODE_AT, BTIME_AT = 32, 80

_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def mark_of(descriptor: int) -> str:
    """No copy has the same mark, the file itself always has; by device and inode where nothing better is known."""
    found = ctypes.create_string_buffer(STATX_BYTES)
    if _statx is not None and _statx(descriptor, b"", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, found) == 0:
        (mask,) = MASK.unpack_from(found, 0)
        seconds, nanoseconds = TIME.unpack_from(found, BTIME_AT)
        if mask & STATX_BTIME:
            return f"{INODE.unpack_from(found, INODE_AT)[0]}@{seconds}.{nanoseconds:09}"
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def is_same_file(path: Path, known: os.stat_result) -> bool:
    """Whether `path` still names the file of this device and inode. Raises OSError where the path cannot be read."""
    try:
        return os.path.samestat(path.lstat(), known)
    except (FileNotFoundError, NotADirectoryError):
        return False
