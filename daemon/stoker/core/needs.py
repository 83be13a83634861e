"""Whether a needed job ended as it was needed to.

Owns the meaning of `ok`, `failed` and `any`. Refuses to look jobs up. A job that a person skipped counts as
ok, so that what depends on it goes on; one skipped because its own needs failed does not.
"""

from __future__ import annotations

from stoker.core.model import Job, NeedOn, Reason, State

_FAILED = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})


def need_met(on: NeedOn, needed: Job) -> bool | None:
    """True: met. False: can never be met. None: still open."""
    if not needed.final:
        return None
    if on is NeedOn.ANY:
        return True
    if on is NeedOn.FAILED:
        return needed.state in _FAILED
    by_hand = needed.state is State.SKIPPED and needed.reason is not Reason.DEPENDENCY
    return needed.state is State.SUCCEEDED or by_hand
