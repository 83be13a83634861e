"""The parts that rules of the lifecycle share: what blocks a job, how it is queued again, ends, or is stopped.

Invariants: a job that may start again is `waiting` exactly while something blocks it; the end of a job releases its
dependents; the first stop reason wins.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Reason, State, StopReason


class Transitioned(Struct, frozen=True):
    """The result of one event: the new values, and the effects that follow their commit."""

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
    """Steady time at which the ttl ends: counted from submission, `run_at` or the last need, whichever is latest.

    None until then: the steady time of `run_at`, which is wall time, is known only when it is reached.
    """
    if job.spec.ttl_ms is None or job.needs_open > 0 or (job.spec.run_at or 0) > now.wall:
        return None
    return now.steady + job.spec.ttl_ms


def expiry_by_now(job: Job, now: Now) -> int | None:
    """The end of the ttl; it is counted from now if nothing else blocks the first start any more."""
    return expiry(job, now) if job.expires_at is None and job.attempts == 0 else job.expires_at


def submitted(job: Job, now: Now) -> Job:
    """The first state of a job that was just accepted."""
    if job.spec.debounce_ms:
        job = replace(job, wake_at=now.steady + job.spec.debounce_ms)
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
