"""Clocks that a test can set: a stokerd whose wall clock jumps (libfaketime), or whose host seems to have slept.

Owns the library that is preloaded into the daemon, and the file with the offset of its clock. The clocks of the
machine, the test and the workers stay right. Invariant: a jump happens between two readings of the clock.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

# Adds the seconds in the file SLEPT_FILE to CLOCK_BOOTTIME, as on a host that was suspended. No other clock shows them.
SLEPT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    long slept = 0;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_BOOTTIME && getenv("SLEPT_FILE")) {
        FILE *file = fopen(getenv("SLEPT_FILE"), "r");
        if (file && fscanf(file, "%ld", &slept) == 1) now->tv_sec += slept;
        if (file) fclose(file);
    }
    return result;
}
"""


def libfaketime() -> Path | None:
    """The path of Debian's library; None if it is not installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def why_no_faketime() -> str | None:
    return None if libfaketime() else "libfaketime is not installed"


def why_no_compiler() -> str | None:
    return None if shutil.which("cc") else "there is no C compiler"


class Shift:
    """The file with the offset, which the preloaded library reads whenever the clock is read."""

    def __init__(self, daemon: DaemonProcess, name: str) -> None:
        self.file = daemon.home / name
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Set the offset of the clock."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.file)


def set_wall_clock(daemon: DaemonProcess) -> Shift:
    """Set the wall clock of all later starts of this daemon; durations stay true."""
    shift = Shift(daemon, "wall")
    daemon.environ |= {
        "LD_PRELOAD": str(libfaketime()),
        "FAKETIME_TIMESTAMP_FILE": str(shift.file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    return shift


def set_sleep(daemon: DaemonProcess) -> Shift:
    """Set how long the host of this daemon has slept: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC does not."""
    source, library = daemon.home / "slept.c", daemon.home / "slept.so"
    source.write_text(SLEPT)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    shift = Shift(daemon, "slept")
    daemon.environ |= {"LD_PRELOAD": str(library), "SLEPT_FILE": str(shift.file)}
    return shift
