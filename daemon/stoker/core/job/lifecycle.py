"""The life of a job: `step(job, attempt, event, now)` and the table behind it.

Owns every change of state. The table is the documentation, the oracle of the tests and the source of the state
diagram. Invariants: an event without a row raises and changes nothing; a job never gets a second attempt while one is
open; after an unseen end an unsafe job is not queued again unless a person asks for it; the first stop reason wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.errors import AlreadyFinished, IllegalTransition, NotAllowed
from stoker.core.job import events as ev
from stoker.core.job import verbs
from stoker.core.job.conditions import open_after
from stoker.core.job.model import FINAL, Attempt, Job, Outcome, OutcomeKind, Reason, State, StopReason
from stoker.core.job.run_if import Decision
from stoker.core.job.transition import Transitioned, blocked, end, expiry, expiry_by_now, ready, stop_for, superseded
from stoker.core.job.verdict import Verdict, judge, reason_of_stuck

Rule = Callable[[Job, Attempt | None, Any, Now], Transitioned]


def step(job: Job, attempt: Attempt | None, event: ev.Event, now: Now) -> Transitioned:
    """Apply `event` to `job` and its open `attempt` (None if none is open).

    Raises NotAllowed (the verb does not apply in this state) or IllegalTransition (a bug of ours).
    """
    rule = TABLE.get((job.state, type(event)))
    if rule is None:
        raise refusal(job, event)
    return rule(job, attempt, event, now)


# --- rules ------------------------------------------------------------------------------------------------


def _wake(job: Job, _attempt: Attempt | None, _event: ev.Woke, now: Now) -> Transitioned:
    """At its `run_at` the ttl begins to count, also while it still waits for a condition."""
    woken = replace(job, expires_at=expiry_by_now(job, now))
    return Transitioned(woken if blocked(job, now) else replace(woken, state=State.QUEUED, wake_at=None))


def _need_met(job: Job, _attempt: Attempt | None, _event: ev.NeedMet, now: Now) -> Transitioned:
    met = replace(job, needs_open=job.needs_open - 1)
    if met.needs_open == 0:
        met = replace(met, expires_at=expiry(met, now))
    return Transitioned(
        met if blocked(met, now) or job.state is not State.WAITING else replace(met, state=State.QUEUED)
    )


def _condition_met(job: Job, _attempt: Attempt | None, event: ev.ConditionMet, now: Now) -> Transitioned:
    """Conditions that were met stay met: a retry of an ended job does not wait for them again."""
    assert job.spec.wait_for is not None, "a job with an open condition has a tree of conditions"
    met = replace(job, conditions_open=open_after(job.spec.wait_for, job.conditions_open, event.number))
    if job.state is not State.WAITING or blocked(met, now):
        return Transitioned(met)
    return Transitioned(replace(met, state=State.QUEUED, wake_at=None, expires_at=expiry_by_now(met, now)))


def _decided(job: Job, _attempt: Attempt | None, event: ev.Decided, now: Now) -> Transitioned:
    decided = replace(job, undecided=False)
    match event.decision:
        case Decision.SKIP:
            return end(decided, State.SKIPPED, Reason.NOT_NEEDED, now)
        case Decision.FAIL:
            return end(decided, State.FAILED, Reason.CONDITION, now)
    if job.state is not State.WAITING or blocked(decided, now):
        return Transitioned(decided)
    return Transitioned(replace(decided, state=State.QUEUED, wake_at=None, expires_at=expiry_by_now(decided, now)))


def _need_failed(job: Job, _attempt: Attempt | None, event: ev.NeedFailed, now: Now) -> Transitioned:
    return end(job, State.SKIPPED, event.reason, now)


def _unneeded(job: Job, _attempt: Attempt | None, _event: ev.Unneeded, _now: Now) -> Transitioned:
    """It goes on waiting: if another need fails, that is why it is skipped, in whichever order they end."""
    assert job.needs_open > 1, "with its last need a job is skipped"
    return Transitioned(replace(job, needs_open=job.needs_open - 1, not_needed=True))


def _dispatch(job: Job, _attempt: Attempt | None, event: ev.Dispatched, _now: Now) -> Transitioned:
    started = replace(job, state=State.RUNNING, attempts=event.attempt.ordinal, wake_at=None)
    return Transitioned(started, event.attempt, (ev.Launch(event.attempt),))


def _stop(job: Job, attempt: Attempt | None, event: ev.StopWanted, _now: Now) -> Transitioned:
    return stop_for(job, attempt, event.reason)


def _ended(job: Job, attempt: Attempt | None, event: ev.Ended, now: Now) -> Transitioned:
    assert attempt is not None, "a running job has an open attempt"
    closed = _close(attempt, event, now)
    verdict = judge(job, attempt, event, now.wall)
    after = _apply(job, verdict, event, now)
    return Transitioned(after.job, closed, (ev.Settled(attempt.run_id), *after.effects))


def _apply(job: Job, verdict: Verdict, event: ev.Ended, now: Now) -> Transitioned:
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
        ended = end(charged, verdict.state, verdict.reason, now)
        # The attempt may have ended while no daemon was running.
        return replace(ended, job=replace(ended.job, finished_at=event.outcome.ended_at or now.wall))
    if job.superseded_by is not None:
        return superseded(charged, now)
    if verdict.state is State.HELD:
        return Transitioned(replace(charged, state=State.HELD, reason=verdict.reason))
    wake_at = None if verdict.delay_ms is None else now.steady + verdict.delay_ms
    # The ttl limits the wait for the first start; an attempt that never started does not end that wait.
    expires_at = job.expires_at if event.outcome.kind is OutcomeKind.NEVER_STARTED else None
    return Transitioned(ready(charged, now, wake_at=wake_at, expires_at=expires_at))


def _close(attempt: Attempt, event: ev.Ended, now: Now) -> Attempt:
    return replace(attempt, outcome=event.outcome, ended_at=event.outcome.ended_at or now.wall)


def _ended_while_held(job: Job, attempt: Attempt | None, event: ev.Ended, now: Now) -> Transitioned:
    """A stuck attempt has ended: the job stays held for a person to decide, unless it had been cancelled."""
    assert attempt is not None, "only a held job with an open attempt gets an end"
    end = event.outcome
    held = replace(job, reason=reason_of_stuck(end), pid=None, exit_code=end.exit_code, signal=end.signal)
    after = _unless_replaced(held, attempt, now)
    return Transitioned(after.job, _close(attempt, event, now), (ev.Settled(attempt.run_id), *after.effects))


_CANCELLING = {StopReason.CANCEL: Reason.USER, StopReason.ABORTED: Reason.ABORTED}


def _unless_replaced(job: Job, attempt: Attempt, now: Now) -> Transitioned:
    """The held job, or its end if it had been cancelled or superseded: no later event takes that back."""
    if attempt.stop_reason in _CANCELLING:
        return end(job, State.CANCELLED, _CANCELLING[attempt.stop_reason], now)
    return Transitioned(job) if job.superseded_by is None else superseded(job, now)


def _refused(job: Job, attempt: Attempt | None, event: ev.Refused, now: Now) -> Transitioned:
    """Nothing was started; the job is held until a person has looked at it."""
    assert attempt is not None, "a running job has an open attempt"
    outcome = Outcome(kind=OutcomeKind.NEVER_STARTED, error=event.why, ended_at=now.wall)
    closed = replace(attempt, outcome=outcome, ended_at=now.wall)
    after = _unless_replaced(replace(job, state=State.HELD, reason=event.reason), attempt, now)
    return Transitioned(after.job, closed, (ev.Settled(attempt.run_id), *after.effects))


def _refused_while_held(job: Job, attempt: Attempt | None, event: ev.Refused, now: Now) -> Transitioned:
    """A launcher that was silent refuses the order of an attempt that was declared stuck meanwhile."""
    outcome = Outcome(kind=OutcomeKind.NEVER_STARTED, error=event.why, ended_at=now.wall)
    return _ended_while_held(job, attempt, ev.Ended(outcome=outcome), now)


def _adopt(job: Job, attempt: Attempt | None, _event: ev.Adopted, _now: Now) -> Transitioned:
    assert attempt is not None, "a running job has an open attempt"
    return Transitioned(job, replace(attempt, adopted=attempt.adopted + 1))


def _stuck(job: Job, attempt: Attempt | None, _event: ev.Stuck, _now: Now) -> Transitioned:
    assert attempt is not None, "only an open attempt can be stuck"
    return Transitioned(replace(job, state=State.HELD, reason=Reason.STUCK), attempt)


def _attempt_missing(job: Job, attempt: Attempt | None, _event: ev.AttemptMissing, _now: Now) -> Transitioned:
    assert attempt is None, "an open attempt is there"
    return Transitioned(replace(job, state=State.HELD, reason=Reason.LOST, pid=None))


def _superseded(job: Job, attempt: Attempt | None, event: ev.Superseded, now: Now) -> Transitioned:
    """End at once, or after the open attempt. A job that was superseded twice names the first newer job."""
    replaced = replace(job, superseded_by=job.superseded_by or event.by)
    if attempt is None:
        return superseded(replaced, now)
    return stop_for(replaced, attempt, StopReason.SUPERSEDED) if event.stop else Transitioned(replaced, attempt)


def _aborted_while_held(job: Job, attempt: Attempt | None, _event: ev.Aborted, now: Now) -> Transitioned:
    """A stuck attempt may live, so its job stays held, as with a cancel."""
    return Transitioned(job, attempt) if attempt is not None else end(job, State.CANCELLED, Reason.ABORTED, now)


def _ends(state: State, reason: Reason) -> Rule:
    """The job ends in that state."""
    return lambda job, _attempt, _event, now: end(job, state, reason, now)


def _reused(job: Job, attempt: Attempt | None, event: ev.Reused, now: Now) -> Transitioned:
    taken = replace(job, spec=replace(job.spec, reused=event.earlier), needs_open=0)
    return _ends(State.SUCCEEDED, Reason.REUSED)(taken, attempt, event, now)


def _stops(reason: StopReason) -> Rule:
    """The open attempt is stopped, and the job goes on from its end."""
    return lambda job, attempt, _event, _now: stop_for(job, attempt, reason)


# --- the table --------------------------------------------------------------------------------------------

_PENDING = (State.WAITING, State.QUEUED)


def _rows(states: Iterable[State], rules: dict[type[ev.Event], Rule]) -> dict[tuple[State, type[ev.Event]], Rule]:
    return {(state, event): rule for state in states for event, rule in rules.items()}


TABLE: dict[tuple[State, type[ev.Event]], Rule] = {
    **_rows(
        _PENDING,
        {
            ev.TtlPassed: _ends(State.EXPIRED, Reason.TTL),
            ev.DeadlinePassed: _ends(State.EXPIRED, Reason.DEADLINE),
            ev.NeedFailed: _need_failed,
            ev.Superseded: _superseded,
            ev.Reused: _reused,
            ev.Aborted: _ends(State.CANCELLED, Reason.ABORTED),
            ev.Cancel: verbs.cancel,
            ev.Skip: verbs.skip,
            ev.Hold: verbs.hold,
            ev.Edit: verbs.edit,
            ev.Reset: verbs.reset,
            ev.Rewired: verbs.rewire,
        },
    ),
    **_rows([State.WAITING], {ev.Woke: _wake, ev.NeedMet: _need_met}),
    **_rows([State.WAITING, State.HELD], {ev.Decided: _decided, ev.Unneeded: _unneeded}),
    **_rows([State.WAITING, State.HELD, *FINAL], {ev.ConditionMet: _condition_met}),
    **_rows([State.QUEUED], {ev.Dispatched: _dispatch}),
    **_rows(
        [State.RUNNING],
        {
            ev.StopWanted: _stop,
            ev.Ended: _ended,
            ev.Refused: _refused,
            ev.Adopted: _adopt,
            ev.Stuck: _stuck,
            ev.AttemptMissing: _attempt_missing,
            ev.Superseded: _superseded,
            ev.DeadlinePassed: _stops(StopReason.DEADLINE),
            ev.Aborted: _stops(StopReason.ABORTED),
            ev.Cancel: _stops(StopReason.CANCEL),
            ev.Restart: verbs.restart_running,
        },
    ),
    **_rows(
        [State.HELD],
        {
            ev.Ended: _ended_while_held,
            ev.Refused: _refused_while_held,
            ev.StopWanted: _stop,
            ev.Adopted: _adopt,
            ev.Stuck: _stuck,
            ev.NeedMet: _need_met,
            ev.NeedFailed: _need_failed,
            ev.Superseded: _superseded,
            ev.Aborted: _aborted_while_held,
            ev.Cancel: verbs.cancel,
            ev.Retry: verbs.retry,
            ev.Reset: verbs.reset,
            ev.Rewired: verbs.rewire,
            ev.Skip: verbs.skip,
            ev.Release: verbs.release,
            ev.Restart: verbs.restart,
            ev.Edit: verbs.edit,
        },
    ),
    **_rows(FINAL, {ev.Retry: verbs.retry, ev.Reset: verbs.reset, ev.Restart: verbs.restart}),
    **_rows([State.FAILED, State.CANCELLED, State.EXPIRED], {ev.Skip: verbs.skip}),
    **_rows([State.CANCELLED, State.EXPIRED, State.SKIPPED], {ev.Rewired: verbs.rewire}),
}

_HINTS: dict[type[ev.Event], str] = {
    ev.Retry: "stoker why {id}",
    ev.Restart: "stoker why {id}",
    ev.Skip: "stoker cancel {id}",
    ev.Hold: "stoker cancel {id}",
    ev.Release: "stoker show {id}",
    ev.Edit: "stoker show {id}",
}


def refusal(job: Job, event: ev.Event) -> NotAllowed | IllegalTransition:
    """The error for an event without a row: a refusal for a verb, a bug of ours for any other event."""
    verb = type(event).__name__.lower()
    if type(event) not in ev.VERBS.values():
        return IllegalTransition(f"job {job.id}: no row for {type(event).__name__} in state {job.state.value}")
    if job.state is State.RUNNING and isinstance(event, ev.Retry):
        return verbs.may_live(job, job.attempts)
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
