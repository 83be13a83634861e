"""The overflow of a queue of this host: how many of its queued jobs go to a queue of a cluster, and which ones stay.

Owns both decisions. Jobs only go in one direction, and each goes at most once: one that a person, or an earlier
overflow, has moved between queues before stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from stoker.core.job.admission import stops_under_pressure
from stoker.core.job.model import ExecutionMode, Queue, Spec
from stoker.core.job.spec_rules import NOT_ON_A_CLUSTER


class OverflowRule(Struct, frozen=True):
    """The queue that takes the jobs. `above`: the number of queued jobs from which further ones go; None: jobs go only
    while the host is under pressure.
    """

    to: str
    above: int | None = None


class OverflowCause(StrEnum):
    PRESSURE = "pressure"
    DEPTH = "depth"


class Surplus(Struct, frozen=True):
    """The number of queued jobs that go now, and the reason."""

    jobs: int
    cause: OverflowCause


class QueueLoadNow(Struct, frozen=True):
    """A queue with the numbers of its jobs. `pending`: queued and waiting ones."""

    queue: Queue
    queued: int
    running: int = 0
    pending: int = 0


def surplus(rule: OverflowRule, source: QueueLoadNow, target: QueueLoadNow, *, throttled: bool) -> Surplus | None:
    """The jobs of `source` that go to `target` now: no more than it could start. Queues that a person has paused
    neither give nor take jobs.
    """
    if source.queue.paused or target.queue.paused:
        return None
    if throttled and stops_under_pressure(source.queue):
        wanted = Surplus(source.queued, OverflowCause.PRESSURE)
    elif rule.above is not None:
        wanted = Surplus(source.queued - rule.above, OverflowCause.DEPTH)
    else:
        return None
    jobs = min([wanted.jobs, *_room(target)])
    return Surplus(jobs, wanted.cause) if jobs > 0 else None


def _room(target: QueueLoadNow) -> Iterator[int]:
    """The bounds of the queue: how many more jobs it can start, and has places for."""
    if target.queue.max_running is not None:
        yield target.queue.max_running - target.running - target.queued
    if target.queue.max_queued is not None:
        yield target.queue.max_queued - target.pending


def why_it_stays(spec: Spec, *, moved: bool) -> str | None:
    """The reason why a job stays when its queue overflows; None if it may go. `moved`: between queues, before."""
    if spec.execution_mode is ExecutionMode.IN_PROCESS:
        return "it is a handler, which runs inside the daemon"
    for field, why in NOT_ON_A_CLUSTER.items():
        if getattr(spec, field):
            return f"{field}: {why}"
    if spec.resources:
        return "it needs resources of this host"
    if spec.sources or spec.produces:
        return "its sources and products are files of this host"
    return "it was moved between queues before, and a job overflows once" if moved else None
