"""The verbs: a rule for each thing that a person may do to a job.

The table in `lifecycle` says which state allows which verb. Invariants: while an attempt is open, no verb starts
another one; an unsafe job runs a second time only by an explicit retry, or by a restart that was confirmed.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.errors import AttemptMayLive, ConfirmationNeeded, InvalidParams, NotAllowed
from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Reason, Spec, State, StopReason
from stoker.core.job.transition import Transitioned, blocked, end, expiry, expiry_by_now, ready, stop_for


def may_live(job: Job, ordinal: int) -> AttemptMayLive:
    return AttemptMayLive(
        f"job {job.id}: attempt {ordinal} may still be alive, so nothing may replace it", hint=f"stoker why {job.id}"
    )


def _no_attempt(job: Job, attempt: Attempt | None) -> None:
    if attempt is not None:
        raise may_live(job, attempt.ordinal)


def cancel(job: Job, attempt: Attempt | None, _event: ev.Cancel, now: Now) -> Transitioned:
    _no_attempt(job, attempt)
    return end(job, State.CANCELLED, Reason.USER, now)


def retry(job: Job, attempt: Attempt | None, event: ev.Retry, now: Now) -> Transitioned:
    _no_attempt(job, attempt)
    if job.state is State.HELD and job.reason is Reason.USER:
        raise NotAllowed(
            f"job {job.id} was held by a person, and only a release ends that",
            hint=f"stoker release {job.id}",
            state=job.state.value,
        )
    spec = replace(
        job.spec,
        deadline=event.deadline if event.deadline is not None else job.spec.deadline,
        timeout_ms=event.timeout_ms if event.timeout_ms is not None else job.spec.timeout_ms,
    )
    return _again(job, now, spec, needs_open=event.needs_open)


def reset(job: Job, attempt: Attempt | None, event: ev.Reset, now: Now) -> Transitioned:
    """Like a retry, but the step waits for its needs again, and it may never have run."""
    _no_attempt(job, attempt)
    spec = replace(
        job.spec,
        timeout_ms=event.timeout_ms if event.timeout_ms is not None else job.spec.timeout_ms,
        max_attempts=event.max_attempts if event.max_attempts is not None else job.spec.max_attempts,
    )
    return _again(job, now, spec, needs_open=event.needs_open, checkpoint_floor=event.floor)


def rewire(job: Job, attempt: Attempt | None, event: ev.Rewired, now: Now) -> Transitioned:
    """New needs for a step that has not started; a held step stays held."""
    _no_attempt(job, attempt)
    spec = replace(job.spec, needs=event.needs, when=event.when)
    undecided = spec.run_if is not None
    rewired = replace(job, spec=spec, needs_open=event.needs_open, undecided=undecided, not_needed=False)
    if job.state not in (State.WAITING, State.QUEUED):
        return Transitioned(rewired)
    expires_at = expiry(rewired, now) if job.attempts == 0 else job.expires_at
    return Transitioned(
        replace(rewired, state=State.WAITING if blocked(rewired, now) else State.QUEUED, expires_at=expires_at)
    )


def _again(job: Job, now: Now, spec: Spec, **changes: Any) -> Transitioned:
    """Fresh budgets. Raises InvalidParams if the deadline has passed."""
    if spec.deadline is not None and spec.deadline <= now.wall:
        raise InvalidParams(
            f"deadline: the deadline of job {job.id} has passed, so a retry needs a new one",
            hint=f"stoker retry {job.id} --deadline +1h",
            path="deadline",
        )
    blank = {
        "started_at": None,
        "failures": 0,
        "orphanings": 0,
        "needs_open": 0,
        "undecided": spec.run_if is not None,
        "not_needed": False,
        "wake_at": None,
        "exit_code": None,
        "signal": None,
        "superseded_by": None,
    }
    fresh = replace(job, spec=spec, **(blank | changes))
    return Transitioned(ready(fresh, now, expires_at=expiry(fresh, now)))


def skip(job: Job, attempt: Attempt | None, _event: ev.Skip, now: Now) -> Transitioned:
    _no_attempt(job, attempt)
    return end(job, State.SKIPPED, Reason.USER, now)


def hold(job: Job, _attempt: Attempt | None, event: ev.Hold, _now: Now) -> Transitioned:
    return Transitioned(replace(job, state=State.HELD, reason=event.reason))


def release(job: Job, attempt: Attempt | None, _event: ev.Release, now: Now) -> Transitioned:
    """Keep the budgets, except `orphanings` of a job held as poison: the next unseen end would hold it again."""
    _no_attempt(job, attempt)
    orphanings = 0 if job.reason is Reason.POISON else job.orphanings
    return Transitioned(ready(job, now, orphanings=orphanings, expires_at=expiry_by_now(job, now)))


def edit(job: Job, attempt: Attempt | None, event: ev.Edit, now: Now) -> Transitioned:
    """Only while no attempt is open: an attempt runs by the spec it was started with. A new ttl counts from now."""
    _no_attempt(job, attempt)
    spec = replace(job.spec, **event.changes)
    edited = replace(job, spec=spec, order_key=job.order_key + event.moved_ms)
    if spec.ttl_ms != job.spec.ttl_ms and job.attempts == 0:
        edited = replace(edited, expires_at=expiry(edited, now))
    return Transitioned(edited)


def restart(job: Job, attempt: Attempt | None, event: ev.Restart, now: Now) -> Transitioned:
    _confirmed(job, event)
    return retry(job, attempt, ev.Retry(actor=event.actor, needs_open=event.needs_open), now)


def restart_running(job: Job, attempt: Attempt | None, event: ev.Restart, _now: Now) -> Transitioned:
    """A stop that is under way keeps its reason, but `force` and `reassign` still apply."""
    _confirmed(job, event)
    assert attempt is not None, "a running job has an open attempt"
    wanted = stop_for(job, attempt, StopReason.RESTART)
    stops: tuple[ev.Effect, ...] = (ev.Stop(attempt.run_id, 0),) if event.force else wanted.effects
    around: tuple[ev.Effect, ...] = (ev.Reassign(attempt.run_id),) if event.reassign else ()
    return Transitioned(wanted.job, wanted.attempt, stops + around)


def _confirmed(job: Job, event: ev.Restart) -> None:
    if not (job.spec.safe or event.yes):
        raise ConfirmationNeeded(
            f"job {job.id} is unsafe (on_orphan = {job.spec.on_orphan.value!r}): a restart runs it a second time",
            hint=f"stoker restart {job.id} --yes",
        )
