"""The pauses of dispatch while the host lacks something that every start needs: processes, memory, room for a log.

Owns how long dispatch waits after such failed starts, and how many it tries then. A single failure changes nothing, as
its cause may be a file of that one job. Invariant: a start that succeeds ends the shortage.
"""

from __future__ import annotations

import errno

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now

# The host lacks something now, and the same call may succeed later. The launcher has a list of its own for the start of
# a program (launcher/command.py), as it imports nothing of ours. EAGAIN: processes of a user, or cgroups
# (cgroup.max.descendants).
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO})
# The daemon itself lacks a descriptor or memory: no fault of a disk, nor of a job.
OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
BASE_PAUSE_MS = 1_000
MAX_PAUSE_MS = 30_000
# A job whose start failed waits for a while, as another job may start meanwhile.
MAX_DELAY_MS = 60_000


class Shortage(Struct, frozen=True):
    """Rounds of failed starts without a success. `since` is UTC ms, `try_at` steady ms."""

    rounds: int = 0
    since: int | None = None
    error: str | None = None
    try_at: int = 0

    @property
    def lasts(self) -> bool:
        return self.rounds > 1


NO_SHORTAGE = Shortage()


def start_failed(before: Shortage, error: str | None, now: Now) -> Shortage:
    """A start that was ordered before the pause may fail during it; that does not lengthen the pause."""
    if before.lasts and now.steady < before.try_at:
        return replace(before, error=error)
    return _paused(replace(before, rounds=before.rounds + 1, since=before.since or now.wall, error=error), now)


def tried(before: Shortage, now: Now) -> Shortage:
    """The shortage while one start is tried as a probe. If its result never comes, the next try follows a pause."""
    return _paused(before, now)


def startable(shortage: Shortage, free: int, now: Now) -> int:
    if not shortage.lasts:
        return free
    return min(free, 1) if now.steady >= shortage.try_at else 0


def delay_ms(failed_starts: int) -> int:
    """How long a job waits after so many failed starts in a row."""
    return int(min(BASE_PAUSE_MS * 2 ** min(max(0, failed_starts - 1), 16), MAX_DELAY_MS))


def _paused(shortage: Shortage, now: Now) -> Shortage:
    pause_ms = min(BASE_PAUSE_MS * 2 ** min(max(0, shortage.rounds - 2), 16), MAX_PAUSE_MS) if shortage.lasts else 0
    return replace(shortage, try_at=now.steady + pause_ms)
