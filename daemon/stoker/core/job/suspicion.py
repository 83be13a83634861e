"""Which limit an unsuccessful end may be due to: `suspicion(bounds, outcome)`.

Owns the sentence. Refuses to call anything a cause that was not seen: it says "likely" only for a signal that the
kernel sends at that limit, and "may" for everything that happens inside the program. What was seen (out of memory,
a time limit) is a reason of its own and needs no suspicion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.core.job.model import OutcomeKind

if TYPE_CHECKING:
    from stoker.core.job.limits import Bounds
    from stoker.core.job.model import Outcome

SIGXCPU, SIGXFSZ = 24, 25  # of Linux; this package stands apart from the host's own list
_SENT_BY_THE_KERNEL = {SIGXCPU: "cpu_seconds", SIGXFSZ: "file_size_bytes"}
# What fails inside the program, by an rlimit (an error or no memory) and by a cgroup (fork: EAGAIN). A cgroup's memory
# is not among them: the kernel kills there, and says so.
_FELT_INSIDE = {"rlimit": ("memory_bytes", "processes", "open_files", "file_size_bytes"), "cgroup": ("processes",)}
_NAMES = {
    "memory_bytes": "memory",
    "cpu_seconds": "CPU time",
    "processes": "processes",
    "open_files": "open files",
    "file_size_bytes": "file size",
}


def suspicion(bounds: Bounds | None, outcome: Outcome | None) -> str | None:
    """Which limit an unsuccessful end may be due to, as a clause; None where there is nothing to suspect."""
    if bounds is None or outcome is None or outcome.stopped or outcome.exit_code == 0:
        return None
    if outcome.kind not in (OutcomeKind.EXIT, OutcomeKind.SIGNAL):
        return None
    name = _SENT_BY_THE_KERNEL.get(outcome.signal or 0)
    if name is not None and getattr(bounds.rlimit, name) is not None:
        return f"its limit of {_NAMES[name]} is the likely cause: the kernel sends that signal there"
    felt = [
        _NAMES[name]
        for by, names in _FELT_INSIDE.items()
        for name in names
        if getattr(getattr(bounds, by), name) is not None
    ]
    if _used_up(bounds.rlimit.cpu_seconds, outcome):
        felt.insert(0, _NAMES["cpu_seconds"])
    return f"a limit may be the cause, and its log may tell: {', '.join(felt)}" if felt else None


def _used_up(cpu_seconds: int | None, outcome: Outcome) -> bool:
    """Whether the tree used that much: who catches SIGXCPU and goes on gets SIGKILL."""
    used_ms = (outcome.user_ms or 0) + (outcome.system_ms or 0)
    return cpu_seconds is not None and outcome.signal is not None and used_ms >= cpu_seconds * 1_000
