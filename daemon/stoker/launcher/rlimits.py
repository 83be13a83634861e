"""The rlimits of a worker: the table of limits, how far each can go here, and which are in force.

A process without CAP_SYS_RESOURCE cannot go beyond its hard limit, so a limit above ours is lowered to ours. Limits of
a cgroup are set by the daemon and only repeated here. Invariant: a limit is reported only if the kernel will enforce
it; RLIMIT_NPROC does not bind the superuser.
"""

from __future__ import annotations

import os
import resource

from . import kernel
from .command import SpawnFailedError

TYPE_CHECKING = False

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
# CAP_SYS_ADMIN and CAP_SYS_RESOURCE: in the first user namespace either of them lifts RLIMIT_NPROC.
BEYOND_NPROC = 1 << 21 | 1 << 24


def lower(name: str, wanted: int) -> None:
    """Set a limit for this process and its children, as far as allowed. Raises SpawnFailedError."""
    soft = _granted(name, wanted)
    hard = _granted(name, wanted + GRACES.get(name, 0))
    try:
        kernel.set_limit(KINDS[name], soft, hard)
    except OSError as error:
        raise SpawnFailedError.about(f"limit {name} {wanted}", error) from error


def in_force(setup: Message) -> Message | None:
    """The `bounds` of the protocol for a worker with that set-up; None if no limit was asked for."""
    limits = _limits_set(setup.get("limits"))
    of_leaf = _limits_set(setup.get("leaf_limits"))
    if not (limits or of_leaf):
        return None
    rlimits = {name: _granted(name, wanted) for name, wanted in limits.items()}
    if "processes" in rlimits and _is_beyond_nproc():
        del rlimits["processes"]
    return {"cgroup": of_leaf, "rlimit": rlimits}


def _limits_set(limits: dict[str, int | None] | None) -> dict[str, int]:
    return {name: wanted for name, wanted in (limits or {}).items() if wanted is not None}


def _granted(name: str, wanted: int) -> int:
    _, ceiling = resource.getrlimit(KINDS[name])
    return wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)


def _is_beyond_nproc() -> bool:
    """Whether RLIMIT_NPROC does not bind it. Root of a container's user namespace is bound like any user."""
    if kernel.read_file("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]:
        return False
    return os.getuid() == 0 or bool(_capabilities() & BEYOND_NPROC)


def _capabilities() -> int:
    status = kernel.read_file("/proc/self/status")
    line = next(line for line in status.split(b"\n") if line.startswith(b"CapAmb:"))
    return int(line.split()[1], 16)  # the capabilities that an ordinary user keeps through an exec
