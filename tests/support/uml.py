"""Another kernel, for tests that the kernel of this machine cannot run: User-Mode Linux over the files of this machine.

Owns the boot: hostfs as a read-only root, a tmpfs at /run for everything that is written, cgroup v2 with all
controllers, pytest as the only program, power off. Returns the exit code of pytest and its output.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "linux.uml"
ROOT = Path(__file__).parents[2]
MEMORY = "768M"
BOOT_S = 30.0
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs run /run
mkdir /run/tmp
export HOME=/run TMPDIR=/run/tmp PATH={path} PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
cd {root}
timeout -s KILL {timeout_s:.0f} {python} -m pytest -p no:cacheprovider {tests}
echo "pytest ended with $?"
echo o > /proc/sysrq-trigger
read _ < /dev/console
"""


class Booted(NamedTuple):
    """`status`: the exit code of pytest; None if it never ran."""

    status: int | None
    console: str


def missing() -> str | None:
    """Why no other kernel can be booted here; None if one can."""
    return None if shutil.which(PROGRAM) else f"no {PROGRAM} here (Debian's user-mode-linux)"


def run_tests(tests: Sequence[str], scratch: Path, timeout_s: float) -> Booted:
    """Boot, run these tests, power off. `scratch` gets the init, and must be visible in the root file system."""
    init = scratch / "init"
    words = {"root": shlex.quote(str(ROOT)), "python": shlex.quote(sys.executable), "tests": shlex.join(tests)}
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    init.write_text(INIT.format(path=path, timeout_s=timeout_s, **words))
    init.chmod(0o755)
    kernel = [PROGRAM, f"mem={MEMORY}", "root=none", "rootfstype=hostfs", "hostfs=/", "rootflags=/", "ro"]
    options = [f"init={init}", f"uml_dir={scratch}", "con0=fd:0,fd:1", "con=null", "quiet"]
    # It has a time limit inside, and ends with the process that ran it: a kernel left behind would use up a processor.
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *kernel, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s + BOOT_S,
        check=False,
    )
    console = done.stdout.decode(errors="replace")
    ended = re.search(r"pytest ended with (\d+)", console)
    return Booted(None if ended is None else int(ended[1]), console)
