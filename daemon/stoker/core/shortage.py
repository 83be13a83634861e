"""When the host lacks something that every start needs: processes, memory, descriptors, room for a log.

Owns how long dispatch waits after starts that failed for that, and how many it then tries. One failure alone changes
nothing, as it may be about a file of that one job. Invariant: a start that succeeds ends the shortage.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from stoker.core.clock import Now

# The host lacks something now, and the same call may succeed later. The launcher has a list of its own for the start of
# a program (launcher/command.py), as it imports nothing of ours.
SHORTAGES = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO}
)  # EAGAIN: processes of a user, or cgroups (cgroup.max.descendants)
BASE_PAUSE_MS = 1_000
MAX_PAUSE_MS = 30_000
# A job that failed for it is passed over for a while, as another one may find what it needs.
MAX_DELAY_MS = 60_000


class Shortage(Struct, frozen=True):
    """Rounds of failed starts without a good one between: since when (UTC ms), when to try again (steady ms)."""

    rounds: int = 0
    since: int | None = None
    error: str | None = None
    try_at: int = 0

    @property
    def lasts(self) -> bool:
        """Whether dispatch backs off."""
        return self.rounds > 1


NO_SHORTAGE = Shortage()


def start_failed(before: Shortage, error: str | None, now: Now) -> Shortage:
    """What was started before the pause began fails within it, and does not lengthen it."""
    if before.lasts and now.steady < before.try_at:
        return replace(before, error=error)
    return _paused(replace(before, rounds=before.rounds + 1, since=before.since or now.wall, error=error), now)


def tried(before: Shortage, now: Now) -> Shortage:
    """One start is under way to find out; should it never be heard of, another follows after the pause."""
    return _paused(before, now)


def startable(shortage: Shortage, free: int, now: Now) -> int:
    """How many of the free slots may be used now."""
    if not shortage.lasts:
        return free
    return min(free, 1) if now.steady >= shortage.try_at else 0


def delay_ms(attempts: int, failures: int) -> int:
    """How long a job waits whose start failed, by the attempts that it was not charged for."""
    return int(min(BASE_PAUSE_MS * 2 ** min(max(0, attempts - failures - 1), 16), MAX_DELAY_MS))


def _paused(shortage: Shortage, now: Now) -> Shortage:
    pause_ms = min(BASE_PAUSE_MS * 2 ** min(max(0, shortage.rounds - 2), 16), MAX_PAUSE_MS) if shortage.lasts else 0
    return replace(shortage, try_at=now.steady + pause_ms)
