"""How much of the daemon each user may use at once. Pure.

Owns the limits of a user and the refusal of what would exceed one. Root and the daemon's own user have only those that
the settings give them by name: what Stoker does by itself, as for hooks, is never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from stoker.core.errors import QuotaReached
from stoker.core.quota_words import COUNTED

RETRY_HINT_MS = 1_000
HINTS = {
    "max_queued": "stoker ls --state queued; stoker limits shows all",
    "max_running": "stoker ls --state running; stoker limits shows all",
    "max_workflows": "stoker workflow ls; stoker limits shows all",
    "max_schedules": "stoker schedule rm; stoker limits shows all",
}


class Quota(Struct, frozen=True, kw_only=True):
    """The limits of one user; None: no limit."""

    max_queued: int | None = None
    max_running: int | None = None
    max_workflows: int | None = None
    max_schedules: int | None = None

    def check(self, name: str, uid: int, used: int, more: int = 1) -> None:
        """Raises QuotaReached if `more` of what this limit counts do not fit."""
        most = getattr(self, name)
        if most is None or used + more <= most:
            return
        asked = "" if more == 1 else f", and {more} more were asked for"
        message = f"uid {uid} has {used} of at most {most} {COUNTED[name]} ({name} in [quotas]){asked}"
        ends = {} if name == "max_schedules" else {"retry_after_ms": RETRY_HINT_MS}  # a schedule stays until removed
        raise QuotaReached(message, hint=HINTS[name], **ends, quota=name, limit=most, used=used, asked=more)


NO_QUOTA = Quota()


class Quotas(Struct, frozen=True, kw_only=True):
    """`usual`: of each user but the `spared`; `of_user`: of those that the settings name, by their number."""

    usual: Quota = NO_QUOTA
    of_user: Mapping[int, Quota] = {}
    spared: Collection[int] = ()

    @property
    def bound_running(self) -> bool:
        """Whether any user may run only so many jobs."""
        return any(quota.max_running is not None for quota in (self.usual, *self.of_user.values()))

    def of(self, uid: int) -> Quota:
        own = self.of_user.get(uid)
        if own is not None:
            return own
        return NO_QUOTA if uid in self.spared else self.usual


NO_QUOTAS = Quotas()
