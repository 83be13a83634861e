"""The cost of an idle daemon: memory (PSS, so that shared pages count once) and CPU, daemon and launcher together.

Measured after it has run jobs, when everything that is loaded late has been loaded. CPU time is read in nanoseconds:
clock ticks of 10 ms are too coarse for a process that should do nothing.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import TRUE, RawConnection, Scale, daemon
from benchmarks.table import Row

SCHEDULED = 2  # the kernel's CPUCLOCK_SCHED: in nanoseconds, not in ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.daemon import DaemonProcess


def rows(scale: Scale) -> Iterator[Row]:
    with daemon() as process, RawConnection(process.socket) as connection:
        connection.wait(connection.submit(scale.jobs, TRUE))
        cpu = idle_cpu_percent(process, scale.idle_s)
        memory = pss_mib(process)
    yield Row("memory, idle (daemon + launcher, PSS)", [memory], 90, 60, "", unit=" MiB")
    yield Row("CPU, idle, of one core", [cpu], 0.5, 0.2, f"over {scale.idle_s:g} s", unit=" %")


def pss_mib(process: DaemonProcess) -> float:
    """Proportional set size of every process of the instance, in MiB (proc(5), smaps_rollup)."""
    total_kib = 0
    for pid in process.processes():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total_kib += sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE))
    return total_kib / 1024


def idle_cpu_percent(process: DaemonProcess, seconds: float) -> float:
    begin_ns, begin = cpu_ns(process.processes()), time.perf_counter()
    time.sleep(seconds)
    return (cpu_ns(process.processes()) - begin_ns) / 1e7 / (time.perf_counter() - begin)


def cpu_ns(pids: Iterable[int]) -> int:
    """Nanoseconds on a CPU of these processes, also of their threads that have ended: clock_getcpuclockid(3)."""
    return sum(time.clock_gettime_ns(~pid << 3 | SCHEDULED) for pid in pids)
