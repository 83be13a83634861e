"""Needs of jobs: when one is met, and the reason of a job that is skipped because one cannot be met.

Owns the meaning of `ok`, `failed` and `any`, and of the conditions over all needs of a step. A job that a person
skipped counts as ok, so that its dependents go on; a job that was skipped because of its own needs does not. Of a step
it counts as failed if a failure was the cause. A failure decides about a job at once; all else, as a need that can no
longer be met without harm, or a condition over all needs, once each of them has ended: so no order of ends matters.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from stoker.core.job.events import NeedFailed
from stoker.core.job.model import FINAL, Job, NeedOn, Reason, State, When

_FAILED = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
UNMET = frozenset({Reason.DEPENDENCY, Reason.NOT_NEEDED})
OVER_ALL = frozenset({When.ANY_OK, When.ANY_FAILED})


class NeedStanding(Struct, frozen=True):
    """The part of a needed job that decides."""

    state: State
    reason: Reason | None = None


def need_met(on: NeedOn, needed: Job | NeedStanding, when: When | None = None) -> bool | None:
    """True: met. False: it can no longer be met. None: still open. `when`: of the job that needs it."""
    if needed.state not in FINAL:
        return None
    if on is NeedOn.ANY:
        return True
    if on is NeedOn.FAILED:
        return _is_failed(needed) if when is not None else needed.state in _FAILED
    return _is_ok(needed)


def all_met(when: When | None, needed: Iterable[NeedStanding]) -> bool:
    """Whether the ends of all needs together let the job start; each of its needs is met by itself."""
    match when:
        case When.ANY_OK:
            return any(map(_is_ok, needed))
        case When.ANY_FAILED:
            return any(map(_is_failed, needed))
    return True


def _is_ok(needed: Job | NeedStanding) -> bool:
    by_hand = needed.state is State.SKIPPED and not skipped_for_need(needed.state, needed.reason)
    return needed.state is State.SUCCEEDED or by_hand


def _is_failed(needed: Job | NeedStanding) -> bool:
    return needed.state in _FAILED or (needed.state is State.SKIPPED and needed.reason is Reason.DEPENDENCY)


def watches_failure(on: NeedOn, when: When | None) -> bool:
    """Whether a failure of the needed job can be what lets the job start."""
    return when is When.ANY_FAILED or (when is not When.ANY_OK and on is not NeedOn.OK)


def skipped_for_need(state: State, reason: Reason | None) -> bool:
    """Whether a job was skipped because a need of its own could not be met."""
    return state is State.SKIPPED and reason in UNMET


def need_failed(on: NeedOn, needed: Job) -> NeedFailed:
    """The event for a job whose need of `needed` can never be met.

    A job that needs another one to fail is `not_needed` if that one succeeds; so is every job that needs this job.
    """
    harmless = on is NeedOn.FAILED or needed.reason is Reason.NOT_NEEDED
    return NeedFailed(needed=needed.id, on=on, reason=Reason.NOT_NEEDED if harmless else Reason.DEPENDENCY)


def graver(one: NeedFailed | None, other: NeedFailed) -> NeedFailed:
    """The event for a job of which both needs can never be met: a failure counts, whichever came first."""
    return other if one is None or (one.reason, other.reason) == (Reason.NOT_NEEDED, Reason.DEPENDENCY) else one


def all_failed(when: When | None, last: int, needed: Iterable[NeedStanding]) -> NeedFailed:
    """The event for a job that the ends of all its needs together do not let start; `last` is one of them."""
    harmless = when is When.ANY_FAILED or all(one.reason is Reason.NOT_NEEDED for one in needed)
    return NeedFailed(needed=last, on=NeedOn.ANY, reason=Reason.NOT_NEEDED if harmless else Reason.DEPENDENCY)
