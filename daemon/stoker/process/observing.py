"""What the processes of a worker are doing: CPU, memory, open files, one row a process.

Owns the look. Refuses processes that are not proven to be of the run: each is pinned by a pidfd first, as for a stop.
It blocks (a moment passes between two looks at the CPU time, and /proc of a sick process may hang): call it in a thread
that can be spared. Memory is resident memory, so what processes share is counted in each.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import psutil
from msgspec import Struct

from stoker.process.identity import PROC, has_ended
from stoker.process.tree import TreeMember, find_members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.core.job.model import Identity

SAMPLE_S = 0.2


class ProcessSample(Struct, frozen=True, kw_only=True):
    """One process. `cpu_percent` is of one core, over the moment of the look; None: it may not be read."""

    pid: int
    parent: int
    name: str
    state: str
    threads: int
    cpu_ms: int
    cpu_percent: float
    memory_bytes: int
    open_files: int | None


def observe(instance: str, run_id: str, identity: Identity | None) -> list[ProcessSample]:
    """Every process of that run, the main process first where it is left."""
    with _pinned(instance, run_id, identity) as members:
        before = {member.pid: _cpu_s(member.pid) for member in members}
        began = time.monotonic()
        time.sleep(SAMPLE_S)
        took_s = time.monotonic() - began
        seen = [one for member in members if (one := _look(member, before[member.pid], took_s)) is not None]
    main = None if identity is None else identity.pid
    return sorted(seen, key=lambda one: (one.pid != main, one.pid))


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


def _look(member: TreeMember, cpu_before_s: float, took_s: float) -> ProcessSample | None:
    """None for one that has ended: what was read may be of another by then."""
    try:
        process = psutil.Process(member.pid)
        with process.oneshot():
            cpu_s = _cpu_s(member.pid)
            seen = ProcessSample(
                pid=member.pid,
                parent=process.ppid(),
                name=(PROC / str(member.pid) / "comm").read_text(errors="replace").strip(),
                state=process.status(),
                threads=process.num_threads(),
                cpu_ms=round(cpu_s * 1_000),
                cpu_percent=round(max(0.0, cpu_s - cpu_before_s) / took_s * 100, 1),
                memory_bytes=process.memory_info().rss,
                open_files=_open_files(process),
            )
    except (psutil.Error, OSError):
        return None
    return None if has_ended(member.pidfd) else seen


def _open_files(process: psutil.Process) -> int | None:
    try:
        return int(process.num_fds())
    except psutil.AccessDenied:
        return None
