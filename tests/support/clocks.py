"""Clocks that a test can set: of a part, or of a stokerd whose wall clock jumps, or whose host seems to have slept.

For a daemon it owns a library that is preloaded into it, and the file with the seconds that it adds. The clocks of the
machine, the test and the workers stay right. Invariant: a jump happens between two readings of a clock.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

from stoker.core.clock import Now

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess


class SetClock:
    """The clock of a part in the process of the test. Its wall clock is equal to steady time, or stays at `wall`."""

    def __init__(self, steady: int = 1_000, *, wall: int | None = None) -> None:
        self.steady = steady
        self._wall = wall

    def now(self) -> Now:
        return Now(self.steady if self._wall is None else self._wall, self.steady)


# CLOCK_OFFSETS holds two numbers of seconds. The first is added to the wall clock. The second is added to
# CLOCK_BOOTTIME alone, as on a host that was suspended. The file is mapped, as clocks are read all the time.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile long *offsets(void) {
    static const long none[2];
    static const volatile long *mapped;
    if (!mapped) {
        const char *path = getenv("CLOCK_OFFSETS");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *memory = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        mapped = memory == MAP_FAILED ? none : memory;
    }
    return mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += offsets()[0];
    if (clock == CLOCK_BOOTTIME) now->tv_sec += offsets()[1];
    return result;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
"""
WALL, BOOT = 0, 1  # places in CLOCK_OFFSETS
SECONDS = struct.Struct("l")


def why_no_compiler() -> str | None:
    return None if shutil.which("cc") else "there is no C compiler"


class Shift:
    """The offset of one clock of all later starts of a daemon; the other clocks stay true."""

    def __init__(self, daemon: DaemonProcess, place: int) -> None:
        source, library = daemon.home / "clocks.c", daemon.home / "clocks.so"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        self._file = daemon.home / "clock-offsets"
        self._file.write_bytes(bytes(2 * SECONDS.size))
        self._place = place
        daemon.environ |= {"LD_PRELOAD": str(library), "CLOCK_OFFSETS": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Set the offset, from now on."""
        file = os.open(self._file, os.O_WRONLY)
        os.pwrite(file, SECONDS.pack(seconds), self._place * SECONDS.size)
        os.close(file)


def set_wall_clock(daemon: DaemonProcess) -> Shift:
    """Set the wall clock of this daemon; durations stay true."""
    return Shift(daemon, WALL)


def set_sleep(daemon: DaemonProcess) -> Shift:
    """Set how long the host of this daemon has slept: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC does not."""
    return Shift(daemon, BOOT)
