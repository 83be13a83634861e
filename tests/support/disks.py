"""File systems that fail: without power, frozen and thawed, dead from the beginning, or small.

Owns image, mount and loop device. A guard process beside every mount thaws and unmounts it when its pipe closes, which
happens however the test ends; a loop device disappears with its last mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.facts import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number. The flags: whether the log is written before.
SHUTDOWN = 0x8004587D
LOG_KEPT, LOG_LOST = 1, 2  # in both cases data that was not synced is gone

# `commit=`: the kernel writes nothing by itself during a test. XFS writes its log every 30 s.
KINDS = {
    "ext4": (256, ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard"], "loop,commit=300"),
    "xfs": (320, ["mkfs.xfs", "-q", "-K"], "loop"),
}
GUARD = 'cat; fsfreeze --unfreeze "$0"; umount --lazy "$0" "$@"'
# A process that sleeps in a page fault on a frozen file system keeps the lock of its memory: a process that reads its
# environ or cmdline in /proc sleeps, too (this test, its daemon, `ps`). Without a bound the whole machine would hang.
THAW = f'sleep {2 * DEADLINE_S:g}; exec fsfreeze --unfreeze "$0"'


class Disk:
    """One file system, mounted at `where` unless it is away."""

    def __init__(self, image: Path, kind: str, where: Path) -> None:
        size_mb, make, self._options = KINDS[kind]
        self.where = where
        self._image = image
        self._guard: subprocess.Popen[bytes] | None = None
        self._thawing: subprocess.Popen[bytes] | None = None
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        subprocess.run([*make, str(image)], check=True, capture_output=True)
        where.mkdir(mode=0o700, exist_ok=True)

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def mount(self) -> None:
        """Raises CalledProcessError if mounts are not permitted."""
        self._guard = _guard(self.where)
        command = ["mount", "-t", "auto", "-o", self._options, str(self._image), str(self.where)]
        subprocess.run(command, check=True, capture_output=True)
        self.where.chmod(0o700)

    def unmount(self) -> None:
        """Thaw it and return once no process uses it any more. May be called twice."""
        self._end_thawing()
        if self._guard is not None:
            self._guard.communicate()
            self._guard = None
        until(lambda: not self._devices(), why=f"the end of the loop device of {self._image}")

    def _devices(self) -> str:
        return subprocess.check_output(["losetup", "--associated", str(self._image)], text=True)

    def lose_power(self, flag: int) -> None:
        """From now on no write reaches the disk; mounted again, it shows what it held by now."""
        directory = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(directory)

    def freeze(self) -> None:
        """Writers sleep uninterruptibly until `thaw`, or for two minutes."""
        self._thawing = subprocess.Popen(["sh", "-c", THAW, str(self.where)], start_new_session=True)
        subprocess.run(["fsfreeze", "--freeze", str(self.where)], check=True)

    def thaw(self) -> None:
        self._end_thawing()
        subprocess.run(["fsfreeze", "--unfreeze", str(self.where)], check=True)

    def _end_thawing(self) -> None:
        if self._thawing is not None:
            os.killpg(self._thawing.pid, signal.SIGKILL)
            self._thawing.wait()
            self._thawing = None


class DeadDirectory:
    """A FUSE file system whose server never answers: access hangs until `close`, then fails. `also`: further mounts."""

    def __init__(self, where: Path, also: Sequence[Path] = ()) -> None:
        self.where = where
        self._server: int | None = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._guard = _guard(where, *also)
        where.mkdir()
        options = f"fd={self._server},rootmode=40000,user_id=0,group_id=0"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"dead", os.fsencode(where), b"fuse", 0, options.encode()):
            why = ctypes.get_errno()
            self.__exit__()
            raise OSError(why, os.strerror(why))
        for place in also:
            place.mkdir()
            subprocess.run(["mount", "--bind", where, place], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._guard.communicate()

    def close(self) -> None:
        """Every access fails with ENOTCONN from now on, also those that hang."""
        if self._server is not None:
            os.close(self._server)
            self._server = None


def _guard(*places: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", GUARD, *map(str, places)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def why_not(kind: str, scratch: Path) -> str | None:
    """Why such a file system cannot be used here; None if it can."""
    if shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is not installed"
    try:
        with Disk(scratch / "image", kind, scratch / "mounted"):
            return None
    except subprocess.CalledProcessError as error:
        return f"no {kind} can be mounted here: {error.stderr.decode(errors='replace').strip()}"


def fill(filler: Path) -> Path:
    """Fill the file system to the last byte with this file."""
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A file system of that size in memory, at a directory that is made if it is not there."""
    at.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(at)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)
