"""Whether a needed job ended as it was needed to, and what a job is that can never run for want of it.

Owns the meaning of `ok`, `failed` and `any`. Refuses to look jobs up. A job that a person skipped counts as
ok, so that what depends on it goes on; one skipped because of its own needs does not.
"""

from __future__ import annotations

from stoker.core.job.model import Job, NeedOn, Reason, State

_FAILED = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
UNMET = frozenset({Reason.DEPENDENCY, Reason.NOT_NEEDED})


def need_met(on: NeedOn, needed: Job) -> bool | None:
    """True: met. False: can never be met. None: still open."""
    if not needed.final:
        return None
    if on is NeedOn.ANY:
        return True
    if on is NeedOn.FAILED:
        return needed.state in _FAILED
    by_hand = needed.state is State.SKIPPED and not skipped_for_need(needed.state, needed.reason)
    return needed.state is State.SUCCEEDED or by_hand


def skipped_for_need(state: State, reason: Reason | None) -> bool:
    """Whether a job was skipped because a need of its own could not be met."""
    return state is State.SKIPPED and reason in UNMET


def unmet_reason(on: NeedOn, needed: Job) -> Reason:
    """Why a job is skipped whose need `on` cannot be met any more.

    A job that waits for a failure which did not come is not needed, nor is one that waits for such a job.
    """
    if on is NeedOn.FAILED or needed.reason is Reason.NOT_NEEDED:
        return Reason.NOT_NEEDED
    return Reason.DEPENDENCY
