"""A sample of each process of a worker: CPU, memory, open files.

Only processes that are proven to be of the run are sampled: each is pinned by a pidfd first, as for a stop. It blocks
for SAMPLE_S between two readings of the CPU time, and longer where /proc of a process hangs: call it in a thread.
Memory is resident memory, so memory that processes share is counted in each.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

from stoker.core.job.model import Identity
from stoker.process.identity import PROC, has_ended
from stoker.process.stopping import TreeMember, find_members

if TYPE_CHECKING:
    from stoker.core.views import ProcessView

SAMPLE_S = 0.2


def observe(instance: str, run_id: str, identity: Identity | None) -> list[ProcessView]:
    """Every process of that run, the main process first if it lives."""
    with _pinned(instance, run_id, identity) as members:
        before = {member.pid: _cpu_s(member.pid) for member in members}
        began = time.monotonic()
        time.sleep(SAMPLE_S)
        took_s = time.monotonic() - began
        samples = [_sample(member, before[member.pid], took_s) for member in members]
    main = None if identity is None else identity.pid
    living = [sample for sample in samples if sample is not None]
    return sorted(living, key=lambda sample: (sample["pid"] != main, sample["pid"]))


@contextlib.contextmanager
def _pinned(instance: str, run_id: str, identity: Identity | None) -> Iterator[list[TreeMember]]:
    members = list(find_members(instance, {run_id}, {} if identity is None else {run_id: identity}).values())
    try:
        yield members
    finally:
        for member in members:
            os.close(member.pidfd)


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _sample(member: TreeMember, cpu_before_s: float, took_s: float) -> ProcessView | None:
    """None for a process that has ended: another one may have had its pid meanwhile."""
    try:
        process = psutil.Process(member.pid)
        with process.oneshot():
            cpu_s = _cpu_s(member.pid)
            sample: ProcessView = {
                "pid": member.pid,
                "parent": process.ppid(),
                "name": (PROC / str(member.pid) / "comm").read_text(errors="replace").strip(),
                "state": process.status(),
                "threads": process.num_threads(),
                "cpu_ms": round(cpu_s * 1_000),
                "cpu_percent": round(max(0.0, cpu_s - cpu_before_s) / took_s * 100, 1),
                "memory_bytes": process.memory_info().rss,
                "open_files": _open_files(process),
            }
    except (psutil.Error, OSError):
        return None
    return None if has_ended(member.pidfd) else sample


def _open_files(process: psutil.Process) -> int | None:
    try:
        return int(process.num_fds())
    except psutil.AccessDenied:
        return None
