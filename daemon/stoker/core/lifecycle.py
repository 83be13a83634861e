"""The life of a job: `step(job, attempt, event, now)` and the table behind it.

Owns every change of state there is. The table is the documentation, the oracle of the tests and the source
of the state diagram. Refuses to await, read a clock or draw a number. Invariants: an event without a row
raises and changes nothing; a job never gets a second attempt while one is open; an unsafe job never leaves
an unseen end for `queued` unless a person says so; the first stop reason wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core import events as ev
from stoker.core.clock import Now
from stoker.core.errors import (
    AlreadyFinished,
    AttemptMayLive,
    ConfirmationNeeded,
    IllegalTransition,
    InvalidParams,
    NotAllowed,
)
from stoker.core.model import FINAL, Attempt, Job, Outcome, OutcomeKind, Reason, State, StopReason
from stoker.core.verdict import Verdict, judge


class Step(Struct, frozen=True):
    """What one event makes of a job: the new values and what to do after they are committed."""

    job: Job
    attempt: Attempt | None = None
    effects: tuple[ev.Effect, ...] = ()


Rule = Callable[[Job, Attempt | None, Any, Now], Step]


def step(job: Job, attempt: Attempt | None, event: ev.Event, now: Now) -> Step:
    """Apply `event` to `job` and its open `attempt` (None if none is open).

    Raises NotAllowed (a verb that does not apply) or IllegalTransition (a bug of ours); both change nothing.
    """
    rule = TABLE.get((job.state, type(event)))
    if rule is None:
        raise refusal(job, event)
    return rule(job, attempt, event, now)


# --- leaving and entering states --------------------------------------------------------------------------


def blocked(job: Job, now: Now) -> bool:
    """Whether something must still happen before the job may start."""
    return (
        job.needs_open > 0
        or (job.wake_at is not None and job.wake_at > now.steady)
        or (job.spec.run_at is not None and job.spec.run_at > now.wall)
    )


def expiry(job: Job, now: Now) -> int | None:
    """Steady time at which the ttl ends: counted from submission, `run_at` or needs met, whichever is last."""
    if job.spec.ttl_ms is None or job.needs_open > 0 or job.attempts > 0:
        return None
    wait = max(0, (job.spec.run_at or 0) - now.wall)
    return now.steady + wait + job.spec.ttl_ms


def submitted(job: Job, now: Now) -> Job:
    """The first state of a job that was just accepted."""
    state = State.WAITING if blocked(job, now) else State.QUEUED
    return replace(job, state=state, expires_at=expiry(job, now))


def _ready(job: Job, now: Now, **changes: Any) -> Job:
    """The job in the state in which it may start again: queued, or waiting for what still blocks it."""
    free = replace(job, state=State.QUEUED, reason=None, finished_at=None, pid=None, **changes)
    return replace(free, state=State.WAITING) if blocked(free, now) else free


def _end(job: Job, state: State, reason: Reason, now: Now, **changes: Any) -> Step:
    """A final state: dependents are told."""
    ended = replace(
        job, state=state, reason=reason, finished_at=now.wall, pid=None, wake_at=None, expires_at=None, **changes
    )
    return Step(ended, effects=(ev.TellDependents(job.id),))


# --- rules ------------------------------------------------------------------------------------------------


def _wake(job: Job, _attempt: Attempt | None, _event: ev.Woke, now: Now) -> Step:
    return Step(job if blocked(job, now) else replace(job, state=State.QUEUED, wake_at=None))


def _need_met(job: Job, _attempt: Attempt | None, _event: ev.NeedMet, now: Now) -> Step:
    met = replace(job, needs_open=job.needs_open - 1)
    if met.needs_open == 0:
        met = replace(met, expires_at=expiry(met, now))
    return Step(met if blocked(met, now) or job.state is not State.WAITING else replace(met, state=State.QUEUED))


def _need_failed(job: Job, _attempt: Attempt | None, _event: ev.NeedFailed, now: Now) -> Step:
    return _end(job, State.SKIPPED, Reason.DEPENDENCY, now)


def _dispatch(job: Job, _attempt: Attempt | None, event: ev.Dispatched, _now: Now) -> Step:
    started = replace(job, state=State.RUNNING, attempts=event.attempt.ordinal, wake_at=None, expires_at=None)
    return Step(started, event.attempt, (ev.Launch(event.attempt),))


def _stop(job: Job, attempt: Attempt | None, event: ev.StopWanted, _now: Now) -> Step:
    return _stop_for(job, attempt, event.reason)


def _stop_for(job: Job, attempt: Attempt | None, reason: StopReason) -> Step:
    assert attempt is not None, "a running job has an open attempt"
    if attempt.stop_reason is not None:
        return Step(job)
    return Step(job, replace(attempt, stop_reason=reason), (ev.Stop(attempt.run_id, job.spec.grace_ms),))


def _ended(job: Job, attempt: Attempt | None, event: ev.Ended, now: Now) -> Step:
    """The one rule with branches: what the end of an attempt means for its job."""
    assert attempt is not None, "a running job has an open attempt"
    closed = _close(attempt, event, now)
    verdict = judge(job, attempt, event.outcome, now.wall, event.luck)
    after = _apply(job, verdict, event, now)
    return Step(after.job, closed, (ev.Settled(attempt.run_id), *after.effects))


def _apply(job: Job, verdict: Verdict, event: ev.Ended, now: Now) -> Step:
    charged = replace(
        job,
        failures=job.failures + verdict.failure,
        orphanings=job.orphanings + verdict.orphaning,
        exit_code=event.outcome.exit_code,
        signal=event.outcome.signal,
        pid=None,
    )
    if verdict.state in FINAL:
        assert verdict.reason is not None
        return _end(charged, verdict.state, verdict.reason, now)
    if verdict.state is State.HELD:
        return Step(replace(charged, state=State.HELD, reason=verdict.reason))
    wake_at = None if verdict.delay_ms is None else now.steady + verdict.delay_ms
    return Step(_ready(charged, now, wake_at=wake_at))


def _close(attempt: Attempt, event: ev.Ended, now: Now) -> Attempt:
    return replace(attempt, outcome=event.outcome, ended_at=event.outcome.ended_at or now.wall)


def _ended_while_held(job: Job, attempt: Attempt | None, event: ev.Ended, now: Now) -> Step:
    """A stuck attempt turned out to be over: a person still decides, but nothing is in their way now."""
    assert attempt is not None, "only a held job with an open attempt gets an end"
    known = replace(job, pid=None, exit_code=event.outcome.exit_code, signal=event.outcome.signal)
    return Step(known, _close(attempt, event, now), (ev.Settled(attempt.run_id),))


def _refused(job: Job, attempt: Attempt | None, event: ev.Refused, now: Now) -> Step:
    """Nothing was started, and nothing may be until a person has looked."""
    assert attempt is not None, "a running job has an open attempt"
    outcome = Outcome(kind=OutcomeKind.NEVER_STARTED, error=event.why, ended_at=now.wall)
    closed = replace(attempt, outcome=outcome, ended_at=now.wall)
    return Step(replace(job, state=State.HELD, reason=Reason.LOST), closed, (ev.Settled(attempt.run_id),))


def _adopt(job: Job, attempt: Attempt | None, _event: ev.Adopted, _now: Now) -> Step:
    assert attempt is not None, "a running job has an open attempt"
    return Step(job, replace(attempt, adopted=attempt.adopted + 1))


def _stuck(job: Job, attempt: Attempt | None, _event: ev.Stuck, _now: Now) -> Step:
    return Step(replace(job, state=State.HELD, reason=Reason.STUCK), attempt)


def _expire_ttl(job: Job, _attempt: Attempt | None, _event: ev.TtlPassed, now: Now) -> Step:
    return _end(job, State.EXPIRED, Reason.TTL, now)


def _expire_deadline(job: Job, _attempt: Attempt | None, _event: ev.DeadlinePassed, now: Now) -> Step:
    state = State.FAILED if job.attempts else State.EXPIRED
    return _end(job, state, Reason.DEADLINE, now)


def _stop_at_deadline(job: Job, attempt: Attempt | None, _event: ev.DeadlinePassed, _now: Now) -> Step:
    return _stop_for(job, attempt, StopReason.DEADLINE)


# --- verbs ------------------------------------------------------------------------------------------------


def _no_attempt(job: Job, attempt: Attempt | None) -> None:
    if attempt is not None:
        raise AttemptMayLive(
            f"job {job.id}: attempt {attempt.ordinal} may still be alive, so nothing may replace it",
            hint=f"stoker why {job.id}",
        )


def _cancel(job: Job, attempt: Attempt | None, _event: ev.Cancel, now: Now) -> Step:
    _no_attempt(job, attempt)
    return _end(job, State.CANCELLED, Reason.USER, now)


def _cancel_running(job: Job, attempt: Attempt | None, _event: ev.Cancel, _now: Now) -> Step:
    return _stop_for(job, attempt, StopReason.CANCEL)


def _retry(job: Job, attempt: Attempt | None, event: ev.Retry, now: Now) -> Step:
    _no_attempt(job, attempt)
    spec = replace(
        job.spec,
        deadline=event.deadline if event.deadline is not None else job.spec.deadline,
        timeout_ms=event.timeout_ms if event.timeout_ms is not None else job.spec.timeout_ms,
    )
    if spec.deadline is not None and spec.deadline <= now.wall:
        raise InvalidParams(
            f"deadline: the deadline of job {job.id} has passed, so a retry needs a new one",
            hint=f"stoker retry {job.id} --deadline +1h",
            path="deadline",
        )
    fresh = replace(job, spec=spec, failures=0, orphanings=0, needs_open=0, wake_at=None, exit_code=None, signal=None)
    expires_at = None if spec.ttl_ms is None else now.steady + spec.ttl_ms
    return Step(_ready(fresh, now, expires_at=expires_at))


def _skip(job: Job, attempt: Attempt | None, _event: ev.Skip, now: Now) -> Step:
    _no_attempt(job, attempt)
    return _end(job, State.SKIPPED, Reason.USER, now)


def _hold(job: Job, _attempt: Attempt | None, _event: ev.Hold, _now: Now) -> Step:
    return Step(replace(job, state=State.HELD, reason=Reason.USER))


def _release(job: Job, attempt: Attempt | None, _event: ev.Release, now: Now) -> Step:
    _no_attempt(job, attempt)
    return Step(_ready(job, now))


def _restart(job: Job, attempt: Attempt | None, event: ev.Restart, now: Now) -> Step:
    _confirmed(job, event)
    return _retry(job, attempt, ev.Retry(actor=event.actor), now)


def _restart_running(job: Job, attempt: Attempt | None, event: ev.Restart, _now: Now) -> Step:
    _confirmed(job, event)
    return _stop_for(job, attempt, StopReason.RESTART)


def _confirmed(job: Job, event: ev.Restart) -> None:
    if not (job.spec.safe or event.yes):
        raise ConfirmationNeeded(
            f"job {job.id} is unsafe (on_orphan = {job.spec.on_orphan.value!r}): a restart runs it a second time",
            hint=f"stoker restart {job.id} --yes",
        )


# --- the table --------------------------------------------------------------------------------------------

_PENDING = (State.WAITING, State.QUEUED)


def _rows(states: Any, rules: dict[type[ev.Event], Rule]) -> dict[tuple[State, type[ev.Event]], Rule]:
    return {(state, event): rule for state in states for event, rule in rules.items()}


TABLE: dict[tuple[State, type[ev.Event]], Rule] = {
    **_rows(
        _PENDING,
        {
            ev.TtlPassed: _expire_ttl,
            ev.DeadlinePassed: _expire_deadline,
            ev.NeedFailed: _need_failed,
            ev.Cancel: _cancel,
            ev.Skip: _skip,
            ev.Hold: _hold,
        },
    ),
    **_rows([State.WAITING], {ev.Woke: _wake, ev.NeedMet: _need_met}),
    **_rows([State.QUEUED], {ev.Dispatched: _dispatch}),
    **_rows(
        [State.RUNNING],
        {
            ev.StopWanted: _stop,
            ev.Ended: _ended,
            ev.Refused: _refused,
            ev.Adopted: _adopt,
            ev.Stuck: _stuck,
            ev.DeadlinePassed: _stop_at_deadline,
            ev.Cancel: _cancel_running,
            ev.Restart: _restart_running,
        },
    ),
    **_rows(
        [State.HELD],
        {
            ev.Ended: _ended_while_held,
            ev.NeedMet: _need_met,
            ev.NeedFailed: _need_failed,
            ev.Cancel: _cancel,
            ev.Retry: _retry,
            ev.Skip: _skip,
            ev.Release: _release,
            ev.Restart: _restart,
        },
    ),
    **_rows(FINAL, {ev.Retry: _retry, ev.Restart: _restart}),
    **_rows([State.FAILED, State.CANCELLED, State.EXPIRED], {ev.Skip: _skip}),
}

_HINTS: dict[type[ev.Event], str] = {
    ev.Retry: "stoker why {id}",
    ev.Restart: "stoker why {id}",
    ev.Skip: "stoker cancel {id}",
    ev.Hold: "stoker cancel {id}",
    ev.Release: "stoker show {id}",
}


def refusal(job: Job, event: ev.Event) -> NotAllowed | IllegalTransition:
    """The error for an event that has no row: a clear no for a verb, a bug for anything else."""
    verb = type(event).__name__.lower()
    if type(event) not in ev.VERBS.values():
        return IllegalTransition(f"job {job.id}: no row for {type(event).__name__} in state {job.state.value}")
    if job.final:
        return AlreadyFinished(
            f"job {job.id} has already finished ({job.state.value}), so {verb} does not apply",
            hint=f"stoker show {job.id}",
            state=job.state.value,
        )
    return NotAllowed(
        f"job {job.id} is {job.state.value}, so {verb} does not apply",
        hint=_HINTS.get(type(event), "stoker show {id}").format(id=job.id),
        state=job.state.value,
    )
