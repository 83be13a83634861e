"""The rlimits of a worker: which limit becomes which, how far it goes here, and what is told of it.

Owns the table and the clamping: nobody without CAP_SYS_RESOURCE may go beyond a hard limit of ours, so a limit above
it is lowered to it. Refuses cgroups: what a leaf bounds is written by the daemon and only passed on here.

Invariant: only what the kernel will enforce is told to be in force; RLIMIT_NPROC does not bind the superuser.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from . import kernel

if TYPE_CHECKING:
    from .frames import Message

# SIGXCPU comes at the soft limit; a worker that catches it has this long until SIGKILL.
CPU_GRACE_S = 5
KINDS = {
    "cpu_seconds": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "file_size_bytes": resource.RLIMIT_FSIZE,
    "memory_bytes": resource.RLIMIT_AS,
}
GRACES = {"cpu_seconds": CPU_GRACE_S}
# Either of them, held in the first user namespace, goes beyond RLIMIT_NPROC: CAP_SYS_ADMIN, CAP_SYS_RESOURCE.
BEYOND_NPROC = 1 << 21 | 1 << 24


def lower(name: str, wanted: int) -> None:
    """In this process and its children, as far as may be."""
    soft = _granted(name, wanted)
    hard = _granted(name, wanted + GRACES.get(name, 0))
    resource.setrlimit(KINDS[name], (soft, hard))


def in_force(setup: Message) -> Message | None:
    """What will bound a worker with that set-up, in the words of the contract; None where no limit was asked for."""
    limits = _said(setup.get("limits"))
    of_leaf = _said(setup.get("leaf_limits"))
    if not (limits or of_leaf):
        return None
    rlimits = {name: _granted(name, wanted) for name, wanted in limits.items()}
    if "processes" in rlimits and _is_beyond_nproc(setup.get("user")):
        del rlimits["processes"]
    return {"cgroup": of_leaf, "rlimit": rlimits}


def _said(limits: dict[str, int | None] | None) -> dict[str, int]:
    return {name: wanted for name, wanted in (limits or {}).items() if wanted is not None}


def _granted(name: str, wanted: int) -> int:
    _, ceiling = resource.getrlimit(KINDS[name])
    return wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)


def _is_beyond_nproc(user: Message | None) -> bool:
    """Whoever is root of a container's own user namespace is a plain user to the kernel."""
    if kernel.read_file("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]:
        return False
    if user is not None:  # with another uid the capabilities go
        return bool(user["uid"] == 0)
    return os.getuid() == 0 or bool(_capabilities() & BEYOND_NPROC)


def _capabilities() -> int:
    status = kernel.read_file("/proc/self/status")
    line = next(line for line in status.split(b"\n") if line.startswith(b"CapAmb:"))
    return int(line.split()[1], 16)  # what an exec keeps of an ordinary user's
