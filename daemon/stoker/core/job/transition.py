"""The building blocks of every step: what blocks a job, how it becomes ready again, how it ends, how it is stopped.

Owns `Step` and the few moves that several rules share. Refuses to know which event led to them. Invariants: a job
that is ready is `waiting` exactly while something still blocks it; an end tells dependents; the first stop wins.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Reason, State, StopReason


class Transitioned(Struct, frozen=True):
    """What one event makes of a job: the new values and what to do after they are committed."""

    job: Job
    attempt: Attempt | None = None
    effects: tuple[ev.Effect, ...] = ()


def blocked(job: Job, now: Now) -> bool:
    """Whether something must still happen before the job may start."""
    return (
        job.needs_open > 0
        or (job.wake_at is not None and job.wake_at > now.steady)
        or (job.spec.run_at is not None and job.spec.run_at > now.wall)
    )


def expiry(job: Job, now: Now) -> int | None:
    """Steady time at which the ttl ends: counted from submission, `run_at` or needs met, whichever is last.

    None while that is still to come: when the wall clock gets to `run_at`, nobody knows before it does.
    """
    if job.spec.ttl_ms is None or job.needs_open > 0 or (job.spec.run_at or 0) > now.wall:
        return None
    return now.steady + job.spec.ttl_ms


def expiry_by_now(job: Job, now: Now) -> int | None:
    """The end of the ttl as it stands; counted from now where nothing else holds the first start back any more."""
    return expiry(job, now) if job.expires_at is None and job.attempts == 0 else job.expires_at


def submitted(job: Job, now: Now) -> Job:
    """The first state of a job that was just accepted."""
    state = State.WAITING if blocked(job, now) else State.QUEUED
    return replace(job, state=state, expires_at=expiry(job, now))


def ready(job: Job, now: Now, **changes: Any) -> Job:
    """The job in the state in which it may start again: queued, or waiting for what still blocks it."""
    free = replace(job, state=State.QUEUED, reason=None, finished_at=None, pid=None, **changes)
    return replace(free, state=State.WAITING) if blocked(free, now) else free


def end(job: Job, state: State, reason: Reason, now: Now, **changes: Any) -> Transitioned:
    """A final state: dependents are told."""
    ended = replace(
        job, state=state, reason=reason, finished_at=now.wall, pid=None, wake_at=None, expires_at=None, **changes
    )
    return Transitioned(ended, effects=(ev.TellDependents(job.id),))


def stop_for(job: Job, attempt: Attempt | None, reason: StopReason) -> Transitioned:
    assert attempt is not None, "a running job has an open attempt"
    if attempt.stop_reason is not None:
        return Transitioned(job)
    return Transitioned(job, replace(attempt, stop_reason=reason), (ev.Stop(attempt.run_id, job.spec.grace_ms),))
