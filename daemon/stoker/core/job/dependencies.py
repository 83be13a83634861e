"""Needs of jobs: when one is met, and the reason of a job that is skipped because one cannot be met.

Owns the meaning of `ok`, `failed` and `any`. A job that a person skipped counts as ok, so that its dependents go on;
a job that was skipped because of its own needs does not.
"""

from __future__ import annotations

from stoker.core.job.events import NeedFailed
from stoker.core.job.model import Job, NeedOn, Reason, State

_FAILED = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
UNMET = frozenset({Reason.DEPENDENCY, Reason.NOT_NEEDED})


def need_met(on: NeedOn, needed: Job) -> bool | None:
    """True: met. False: it can no longer be met. None: still open."""
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


def need_failed(on: NeedOn, needed: Job) -> NeedFailed:
    """The event for a job whose need of `needed` can never be met."""
    return NeedFailed(needed=needed.id, on=on, reason=_unmet_reason(on, needed))


def _unmet_reason(on: NeedOn, needed: Job) -> Reason:
    """The reason of a job that is skipped because its need `on` can no longer be met.

    A job that needs another one to fail is `not_needed` if that one succeeds; so is every job that needs this job.
    """
    if on is NeedOn.FAILED or needed.reason is Reason.NOT_NEEDED:
        return Reason.NOT_NEEDED
    return Reason.DEPENDENCY
