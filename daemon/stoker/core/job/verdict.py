"""What the end of an attempt says about its job: `judge(job, attempt, outcome, wall, luck)`.

Owns the reading of outcomes: success, failure, stop by us, unseen end. Refuses to change anything; the
lifecycle applies the verdict. Invariants: success needs an exit that was seen and no stop of ours that came
first; an unsafe job gets no way back to `queued` from an unseen end; a stop that was not delivered before
the exit did not happen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.job.model import OnOrphan, OutcomeKind, Reason, State, StopReason
from stoker.core.job.retry import RetryPolicy
from stoker.core.shortage import delay_ms

if TYPE_CHECKING:
    from stoker.core.job.model import Attempt, Job, Outcome, Spec


class Verdict(Struct, frozen=True):
    """Where the job goes, why, what it is charged, and how long it waits for the next try (None: at once)."""

    state: State
    reason: Reason | None = None
    failure: int = 0
    orphaning: int = 0
    delay_ms: int | None = None


AGAIN = Verdict(State.QUEUED)
CANCELLED = Verdict(State.CANCELLED, Reason.USER)

# A stop that a person or a rule asked for decides the end, however the process went.
_STOPPED: dict[StopReason, Verdict] = {
    StopReason.CANCEL: CANCELLED,
    StopReason.SUPERSEDED: Verdict(State.SUPERSEDED, Reason.SUPERSEDED),
    StopReason.DEADLINE: Verdict(State.FAILED, Reason.DEADLINE, failure=1),
    StopReason.RESTART: AGAIN,
}

_FAILED_BY_STOP = {StopReason.TIMEOUT: Reason.TIMEOUT, StopReason.UNRESPONSIVE: Reason.UNRESPONSIVE}

# Where a child was killed for want of memory, its parent still says how the job went.
_OWN_WORD = (OutcomeKind.EXIT, OutcomeKind.OOM)

_FAILED_BY_KIND = {
    OutcomeKind.EXIT: Reason.EXIT,
    OutcomeKind.EXCEPTION: Reason.EXIT,
    OutcomeKind.SIGNAL: Reason.SIGNAL,
    OutcomeKind.OOM: Reason.OOM,
    OutcomeKind.SPAWN_ERROR: Reason.SPAWN_ERROR,
}


def judge(job: Job, attempt: Attempt, outcome: Outcome, wall: int, luck: float) -> Verdict:
    """The verdict on an ended attempt. `wall` is UTC ms, `luck` uniform in [0, 1)."""
    seen = outcome.kind not in (OutcomeKind.UNSEEN, OutcomeKind.NEVER_STARTED) and not outcome.shutdown
    stop = attempt.stop_reason if outcome.stopped or not seen else None
    if stop in _STOPPED:
        return _STOPPED[stop]
    if outcome.kind is OutcomeKind.NEVER_STARTED:
        return replace(AGAIN, delay_ms=delay_ms(job.attempts, job.failures)) if outcome.transient else AGAIN
    if _saved(job, outcome) and stop not in _FAILED_BY_STOP:
        # Also where the service stopped it: it went as it was asked to, and said that it can go on.
        return _next_run(Verdict(State.QUEUED, delay_ms=_rest_of_base_delay(job, attempt, outcome, wall)), attempt)
    if not seen or stop in (StopReason.SHUTDOWN, StopReason.ORPHANED):
        return _unseen(job, Reason.SHUTDOWN if outcome.shutdown else _unseen_reason(attempt, stop))
    succeeded = stop is None and outcome.kind in _OWN_WORD and outcome.exit_code in job.spec.success_exit_codes
    if succeeded and not outcome.output_refused:
        return Verdict(State.SUCCEEDED, Reason.EXIT)
    if succeeded:
        reason = Reason.OUTPUT  # the steps behind it would go on without what they were to be given
    else:
        reason = _FAILED_BY_STOP[stop] if stop is not None else _FAILED_BY_KIND[outcome.kind]
    return _next_run(_failure(job, outcome, reason, wall, luck), attempt)


def failed_by_itself(spec: Spec, outcome: Outcome) -> bool:
    """Whether its own log may tell why: it ended without success, and nobody stopped it."""
    if outcome.stopped or outcome.kind not in (OutcomeKind.EXIT, OutcomeKind.SIGNAL, OutcomeKind.OOM):
        return False
    code = outcome.exit_code
    return code is None or code not in (*spec.success_exit_codes, spec.checkpoint_exit_code)


def _next_run(verdict: Verdict, attempt: Attempt) -> Verdict:
    """A stop that came too late for this attempt, whose end stands, did not for the one that would follow."""
    if verdict.state is State.FAILED or attempt.stop_reason not in _STOPPED:
        return verdict
    return replace(_STOPPED[attempt.stop_reason], failure=verdict.failure)


def _saved(job: Job, outcome: Outcome) -> bool:
    """It said, in its own words, that it left a checkpoint and is to be run again."""
    code = job.spec.checkpoint_exit_code
    return code is not None and outcome.kind in _OWN_WORD and outcome.exit_code == code


def _rest_of_base_delay(job: Job, attempt: Attempt, outcome: Outcome, wall: int) -> int:
    """A run that saves and goes at once must not spin: runs begin no closer together than `base_delay_ms`."""
    began = attempt.started_at or attempt.created_at
    ran_ms = (outcome.ended_at or wall) - began
    return job.spec.base_delay_ms - max(0, min(ran_ms, job.spec.base_delay_ms))


def _failure(job: Job, outcome: Outcome, reason: Reason, wall: int, luck: float) -> Verdict:
    """A seen failure: another try while the budget lasts and the deadline leaves room for it."""
    decision = RetryPolicy.of(job.spec).decide(job.failures + 1, outcome, luck)
    late = (
        decision.delay_ms is not None
        and job.spec.deadline is not None
        and wall + decision.delay_ms >= job.spec.deadline
    )
    if decision.delay_ms is None or late:
        return Verdict(State.FAILED, reason, failure=1)
    return Verdict(State.WAITING, failure=1, delay_ms=decision.delay_ms)


def reason_of_stuck(outcome: Outcome) -> Reason:
    """What there is to say of a job that was held as stuck, now that its attempt is over."""
    return _FAILED_BY_KIND.get(outcome.kind, Reason.LOST)


def _unseen_reason(attempt: Attempt, stop: StopReason | None) -> Reason:
    if stop is StopReason.SHUTDOWN:
        return Reason.SHUTDOWN
    return Reason.LOST if attempt.adopted else Reason.ORPHANED


def _unseen(job: Job, reason: Reason) -> Verdict:
    """Nobody saw how it ended: the job's own `on_orphan` decides; a stop of the service is not charged."""
    charge = 0 if reason is Reason.SHUTDOWN else 1
    if job.spec.on_orphan is OnOrphan.FAIL:
        return Verdict(State.FAILED, reason, orphaning=charge)
    if job.spec.on_orphan is OnOrphan.HOLD:
        return Verdict(State.HELD, reason, orphaning=charge)
    if charge and job.orphanings + charge >= job.spec.max_orphanings:
        return Verdict(State.HELD, Reason.POISON, orphaning=charge)
    return Verdict(State.QUEUED, orphaning=charge)
