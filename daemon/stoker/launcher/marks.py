"""The mark of a run, which its processes keep when they empty their environment or become another user.

It is the soft limit RLIMIT_RTTIME: every child inherits it, an exec keeps it, and every user may read it in
/proc/PID/limits. It bounds how long a program with real-time scheduling may run without a pause; the values here, of
70 000 years and more, bound nothing. A process that sets that limit anew (`sudo` with pam_limits does) loses the mark,
and is found by its session. The daemon reads the mark by the same rule (process/identity.py).
"""

from __future__ import annotations

import resource

from . import kernel
from .command import prepare
from .error_log import undo

LOWEST = 1 << 61
LIMIT = b"Max realtime timeout"


def mark_of(run_id: str) -> int:
    """The mark of a run, from the random part of its id. Raises ValueError for any other text."""
    return LOWEST | int(run_id.split(".")[2], 16) & (LOWEST - 1)


def read_mark(pid: int) -> int:
    """The mark of a process; 0 if it has none that we may read. Raises OSError if that cannot be known now."""
    try:
        limits = kernel.read_proc(pid, "limits")
    except kernel.GONE_OR_HIDDEN:
        return 0
    line = next((line for line in limits.split(b"\n") if line.startswith(LIMIT)), b"")
    soft = line.removeprefix(LIMIT).split()[:1]
    return int(soft[0]) if soft and soft[0].isdigit() and int(soft[0]) >= LOWEST else 0


def can_be_set() -> bool:
    """Whether the hard limit leaves room for marks."""
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    return hard == resource.RLIM_INFINITY or hard >= 2 * LOWEST


class Marker:
    """Gives this process the mark of a run for a while, for the children that it starts meanwhile."""

    def __init__(self) -> None:
        self._ours, self._hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        self._may = can_be_set()

    def lend(self, run_id: str) -> None:
        """Take the mark of a run; `take_back` must follow. Raises SpawnFailedError, and then has changed nothing."""
        if self._may:
            prepare("the mark of the run", kernel.set_limit, resource.RLIMIT_RTTIME, mark_of(run_id), self._hard)

    def take_back(self) -> None:
        if self._may:
            undo(kernel.set_limit, resource.RLIMIT_RTTIME, self._ours, self._hard)
