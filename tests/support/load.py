"""The load of the host as a daemon sees it: every CPU kept busy, or at rest whatever the neighbours do.

Owns also how slowly this machine computes now, for limits of CPU time: neighbours take caches and half a core.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


# CPU time of the reference work on the machine for which the limits were set: 2 cores of 2025, with busy neighbours.
REFERENCE_MS = 20.0
MEASURED = 5


def slowness() -> float:
    """How many times longer than there the same work takes here now; at least 1."""
    return max(1.0, *(_reference_ms() / REFERENCE_MS for _ in range(MEASURED)))


def _reference_ms() -> float:
    value = {"id": 1, "state": "queued", "needs": [1, 2, 3], "name": "a step"}
    began = time.thread_time()
    for _ in range(2_000):
        json.loads(json.dumps(value))
    return (time.thread_time() - began) * 1_000


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """Keep every CPU busy."""
    count = "while True: pass"
    burners = [subprocess.Popen([sys.executable, "-I", "-S", "-c", count]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


class ShownProc:
    """The /proc that the daemon reads: idle CPUs, until `real` shows the true ones."""

    def __init__(self, home: Path) -> None:
        self._proc = home / "proc"
        self._proc.mkdir()
        for name in ("meminfo", "vmstat", "zoneinfo"):
            (self._proc / name).symlink_to(f"/proc/{name}")
        self.at_rest()

    def real(self) -> None:
        self._show(Path("/proc/stat"))

    def at_rest(self) -> None:
        copy = self._proc / "stat.copy"
        copy.write_text(Path("/proc/stat").read_text())
        self._show(copy)

    def _show(self, file: Path) -> None:
        link = self._proc / "stat.new"
        link.symlink_to(file)
        link.rename(self._proc / "stat")

    def programs(self) -> Path:
        """A directory with a `stokerd` that reads it."""
        program = self._proc.parent / "stokerd"
        shown = f"import sys, psutil; psutil.PROCFS_PATH = {str(self._proc)!r}"
        program.write_text(f"#!{sys.executable}\n{shown}\nfrom stoker.daemon import main\nsys.exit(main())\n")
        program.chmod(0o755)
        return program.parent
