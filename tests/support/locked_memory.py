"""A process that locks its own memory for as long as a file system is frozen: `python -I -S locked_memory.py FILE`.

Stands alone, because it runs as a worker. FILE is in that file system and is made before the freeze. The process says
`mapped` on stdout and waits for the end of its stdin. Then one thread writes to the mapped
file and waits for the file system, and the other unmaps it: until the first one goes on, that one holds the lock that a
reader of /proc/PID/environ needs.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

SIZE = 65_536
PROT_READ_WRITE, MAP_SHARED = 3, 1


def main(file: str) -> None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, SIZE)
    mapped = libc.mmap(None, SIZE, PROT_READ_WRITE, MAP_SHARED, descriptor, 0)
    os.write(1, b"mapped\n")
    os.read(0, 1)
    writer = threading.Thread(target=libc.memset, args=(mapped, 1, 1))
    writer.start()
    while b" D " not in Path(f"/proc/self/task/{writer.native_id}/stat").read_bytes():
        os.sched_yield()
    libc.munmap(mapped, SIZE)
    writer.join()


if __name__ == "__main__":
    main(sys.argv[1])
