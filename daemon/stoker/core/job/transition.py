"""The parts that rules of the lifecycle share: what blocks a job, how it is queued again, ends, or is stopped.

Invariants: a job that may start again is `waiting` exactly while something blocks it; the end of a job releases its
dependents; the first stop reason wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Reason, Spec, State, StopReason

DEBOUNCES = 10  # of jobs that replace each other, before one starts


class Transitioned(Struct, frozen=True):
    """The result of one event: the new values, and the effects that follow their commit."""

    job: Job
    attempt: Attempt | None = None
    effects: tuple[ev.Effect, ...] = ()


def blocked(job: Job, now: Now) -> bool:
    """Whether something must still happen before the job may start."""
    return job.needs_open > 0 or job.undecided or job.conditions_open > 0 or delay_ms(job, now) > 0


def awaits_decision(job: Job) -> bool:
    """Whether the `if` of the job is to be decided now."""
    return job.undecided and not job.needs_open and job.state in (State.WAITING, State.HELD)


def delay_ms(job: Job, now: Now) -> int:
    """The time until neither its `run_at` nor a delay of its start blocks the job; 0 if none does."""
    return max(0, (job.wake_at or 0) - now.steady, (job.spec.run_at or 0) - now.wall)


def expiry(job: Job, now: Now) -> int | None:
    """Steady time at which the ttl ends: counted from submission, `run_at` or the last need, whichever is latest.

    None until then: the steady time of `run_at`, which is wall time, is known only when it is reached.
    """
    if job.spec.ttl_ms is None or job.needs_open > 0 or (job.spec.run_at or 0) > now.wall:
        return None
    return now.steady + job.spec.ttl_ms


def expiry_by_now(job: Job, now: Now) -> int | None:
    """The end of the ttl; it is counted from now if nothing else blocks the first start any more."""
    return expiry(job, now) if job.expires_at is None and job.attempts == 0 else job.expires_at


def debounce_by(spec: Spec, older: Iterable[Job], now: Now) -> int | None:
    """The steady time by which a new job of a key starts: the earliest that it and the jobs it replaces were given.

    Without it an unending stream of newer jobs would delay the start for ever. None: it is not debounced.
    """
    if not spec.debounce_ms:
        return None
    longest = DEBOUNCES * spec.debounce_ms if spec.debounce_max_ms is None else spec.debounce_max_ms
    given = (job.debounce_by for job in older if job.state in (State.WAITING, State.QUEUED) and job.attempts == 0)
    return min([now.steady + longest, *(limit for limit in given if limit is not None)])


def submitted(job: Job, now: Now) -> Job:
    """The first state of a job that was just accepted."""
    if job.debounce_by is not None:
        job = replace(job, wake_at=min(now.steady + job.spec.debounce_ms, job.debounce_by))
    state = State.WAITING if blocked(job, now) else State.QUEUED
    return replace(job, state=state, expires_at=expiry(job, now))


def ready(job: Job, now: Now, **changes: Any) -> Job:
    """The job as it may start again: queued, or waiting while something still blocks it."""
    free = replace(job, state=State.QUEUED, reason=None, finished_at=None, pid=None, **changes)
    return replace(free, state=State.WAITING) if blocked(free, now) else free


def end(job: Job, state: State, reason: Reason, now: Now) -> Transitioned:
    ended = replace(job, state=state, reason=reason, finished_at=now.wall, pid=None, wake_at=None, expires_at=None)
    return Transitioned(ended, effects=(ev.ReleaseDependents(job.id),))


def superseded(job: Job, now: Now) -> Transitioned:
    """A job that was superseded ends where it would wait, be queued again or be held."""
    return end(job, State.SUPERSEDED, Reason.SUPERSEDED, now)


def stop_for(job: Job, attempt: Attempt | None, reason: StopReason) -> Transitioned:
    assert attempt is not None, "a running job has an open attempt"
    if attempt.stop_reason is not None:
        return Transitioned(job)
    return Transitioned(job, replace(attempt, stop_reason=reason), (ev.Stop(attempt.run_id, job.spec.grace_ms),))
