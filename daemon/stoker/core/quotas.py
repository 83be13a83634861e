"""How much of the daemon each user may use at once. Pure.

Owns the limits of a user, the refusal of what would exceed one, and the arithmetic of the pace of submits. A pace is
one number, the time at which all that was submitted is paid for: each job moves it on by its share of a second. Root
and the daemon's own user have only the limits that the settings give them by name: what Stoker does by itself, as for
hooks, is never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from msgspec import Struct

from stoker.core.errors import QuotaReached
from stoker.core.quota_words import COUNTED
from stoker.core.units import counted

RETRY_HINT_MS = 1_000
FREED_BY_ENDS = ("max_queued", "max_running", "max_workflows")  # what counts for the others stays until it is removed
SECOND = 1_000_000_000  # in nanoseconds, in which paces count
MILLISECOND = 1_000_000
HINTS = {
    "max_queued": "stoker ls --state queued; stoker limits shows all",
    "max_running": "stoker ls --state running; stoker limits shows all",
    "max_workflows": "stoker workflow ls; stoker limits shows all",
    "max_schedules": "stoker schedule rm; stoker limits shows all",
    "max_stored_bytes": "jobs free it once retention has removed them; stoker limits shows all",
    "max_log_bytes": "jobs free it once retention has removed them; stoker limits shows all",
    "max_submits_per_s": "submit again later, or wait with --block; stoker limits shows all",
}


class Quota(Struct, frozen=True, kw_only=True):
    """The limits of one user; None: no limit."""

    max_queued: int | None = None
    max_running: int | None = None
    max_workflows: int | None = None
    max_schedules: int | None = None
    max_submits_per_s: int | None = None
    max_stored_bytes: int | None = None
    max_log_bytes: int | None = None

    def check(self, name: str, uid: int, used: int, **about: object) -> None:
        """Raises QuotaReached, with these details, if one more of what this limit counts does not fit."""
        most = getattr(self, name)
        if most is None or used < most:
            return
        message = f"uid {uid} has {used} of at most {most} {COUNTED[name]} ({name} in [quotas])"
        ends = {"retry_after_ms": RETRY_HINT_MS} if name in FREED_BY_ENDS else {}
        raise QuotaReached(message, hint=HINTS[name], **ends, **about, quota=name, limit=most, used=used)

    def check_pace(self, uid: int, paid_at: int, now_ms: int) -> None:
        """Raises QuotaReached if the jobs of a second are not paid for. `paid_at`: nanoseconds of steady time."""
        most, lag = self.max_submits_per_s, paid_at - now_ms * MILLISECOND
        if most is None or lag < SECOND:
            return
        message = f"uid {uid} submits faster than {counted(most, 'job')} a second (max_submits_per_s in [quotas])"
        wait_ms = -(-(lag - SECOND + 1) // MILLISECOND)
        about = {"quota": "max_submits_per_s", "limit": most, "used": self.unpaid(paid_at, now_ms)}
        raise QuotaReached(message, hint=HINTS["max_submits_per_s"], retry_after_ms=wait_ms, **about)

    def paid_at(self, before: int, now_ms: int, jobs: int) -> int:
        """The time at which these jobs are paid for, too. They may be more than those of a second."""
        if self.max_submits_per_s is None:
            return 0
        return max(before, now_ms * MILLISECOND) + jobs * SECOND // self.max_submits_per_s

    def unpaid(self, paid_at: int, now_ms: int) -> int:
        """How many of the submitted jobs are not paid for yet."""
        most, lag = self.max_submits_per_s, paid_at - now_ms * MILLISECOND
        return 0 if most is None or lag <= 0 else -(-lag * most // SECOND)


NO_QUOTA = Quota()


class Quotas(Struct, frozen=True, kw_only=True, dict=True):
    """`usual`: of each user but the `spared`; `of_user`: of those that the settings name, by their number."""

    usual: Quota = NO_QUOTA
    of_user: Mapping[int, Quota] = {}
    spared: Collection[int] = ()

    @cached_property
    def bound_running(self) -> bool:
        """Whether any user may run only so many jobs."""
        return any(quota.max_running is not None for quota in (self.usual, *self.of_user.values()))

    @cached_property
    def bound_bytes(self) -> bool:
        """Whether any user may store only so many bytes."""
        quotas = (self.usual, *self.of_user.values())
        return any(quota.max_stored_bytes is not None or quota.max_log_bytes is not None for quota in quotas)

    def of(self, uid: int) -> Quota:
        own = self.of_user.get(uid)
        if own is not None:
            return own
        return NO_QUOTA if uid in self.spared else self.usual


NO_QUOTAS = Quotas()
