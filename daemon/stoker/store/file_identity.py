"""The identity of a file across reboots and mounts: its inode number and its birth time.

Owns the system call for it, statx(2), which Python lacks. Device numbers are used only without a birth time: each boot
assigns them again, in the order in which disks are found, and a changed number would make a directory look copied.
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
    """A mark that stays the same for a file and differs for each copy; without a birth time from device and inode."""
    buffer = ctypes.create_string_buffer(STATX_BYTES)
    if _statx is not None and _statx(descriptor, b"", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, buffer) == 0:
        (mask,) = MASK.unpack_from(buffer, 0)
        seconds, nanoseconds = TIME.unpack_from(buffer, BTIME_AT)
        if mask & STATX_BTIME:
            return f"{INODE.unpack_from(buffer, INODE_AT)[0]}@{seconds}.{nanoseconds:09}"
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def is_same_file(path: Path, status: os.stat_result) -> bool:
    """Whether `path` still names the file of this device and inode. Raises OSError if the path cannot be read."""
    try:
        return os.path.samestat(path.lstat(), status)
    except (FileNotFoundError, NotADirectoryError):
        return False
