"""Measures the host: CPU, memory and the kernel's pressure stall information.

`sample` costs a few small reads of /proc and never sleeps, but belongs on a timer, not on the dispatch path. A value
that the kernel or a container does not provide is None, not zero.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

import psutil

from stoker.core.throttle import Sample

PRESSURE: Final = Path("/proc/pressure")
# In a shorter time too few clock ticks pass to compute a percentage from them.
SHORTEST_S: Final = 0.05
_AVERAGE: Final = re.compile(r"^(some|full) avg10=([0-9.]+)", re.MULTILINE)


class Probe:
    """Samples the host. CPU use is measured from one sample to the next: keep one Probe, and one thread for it.

    `pressure` is the directory of the kernel's PSI files (https://docs.kernel.org/accounting/psi.html).
    """

    def __init__(self, pressure: Path = PRESSURE) -> None:
        self._pressure = pressure
        self._cpu: float | None = None
        self._measured_at = time.monotonic()
        psutil.cpu_percent(None)  # psutil measures from the call before, so its first answer means nothing

    def sample(self) -> Sample:
        """The host right now."""
        memory = psutil.virtual_memory()
        return Sample(
            cpu=self._cpu_percent(),
            memory=memory.percent,
            memory_free_bytes=memory.available,
            cpu_some=self._stalled("cpu", "some"),
            io_full=self._stalled("io", "full"),
            memory_full=self._stalled("memory", "full"),
        )

    def _cpu_percent(self) -> float | None:
        now = time.monotonic()
        if now - self._measured_at >= SHORTEST_S:
            self._cpu = psutil.cpu_percent(None)
            self._measured_at = now
        return self._cpu

    def _stalled(self, what: str, who: str) -> float | None:
        """Percent of the last 10 s in which `who` waited for `what`; None where PSI is off or not compiled in."""
        try:
            text = (self._pressure / what).read_text("ascii")
        except OSError:
            return None
        return next((float(average) for kind, average in _AVERAGE.findall(text) if kind == who), None)
