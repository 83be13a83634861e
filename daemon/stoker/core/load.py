"""The load of the last hour, for charts: one stretch for each time in which nothing changed.

Owns how samples become stretches, and the bound on queues. A stretch holds for all of its time; between two stretches
lies the time between two samples, or a gap in which the daemon or the host was off.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

INTERVAL_MS = 30_000  # between two samples
KEPT_MS = 3_600_000
LONGEST_STEP_MS = 2 * INTERVAL_MS  # between samples of one stretch: a later one comes after a gap
MOST_QUEUES = 32


class QueueLoad(Struct, frozen=True):
    """The jobs of a queue; those of all queues that are not listed if `queue` is None."""

    queue: str | None
    running: int
    queued: int


class Load(Struct, frozen=True, kw_only=True):
    """`cpu`: percent, the mean since the sample before. None: not measured."""

    cpu: int | None
    memory_free_bytes: int | None
    throttled: bool
    running: int
    slots: int
    queues: tuple[QueueLoad, ...]


class Stretch(Struct, frozen=True):
    """The same load from `since` to `until`, in UTC milliseconds."""

    since: int
    until: int
    load: Load


def appended(series: tuple[Stretch, ...], load: Load, at: int) -> tuple[Stretch, ...]:
    """The series with one more sample, without what is too old, and without what is ahead of a clock that was set."""
    kept = tuple(one for one in series if at - KEPT_MS <= one.until <= at)
    if kept and kept[-1].load == load and at - kept[-1].until <= LONGEST_STEP_MS:
        return (*kept[:-1], Stretch(kept[-1].since, at, load))
    return (*kept, Stretch(at, at, load))


def busiest(queues: Iterable[QueueLoad]) -> tuple[QueueLoad, ...]:
    """The queues that have jobs, by name: at most MOST_QUEUES, and the sum of the others."""
    busy = [one for one in queues if one.running or one.queued]
    busy.sort(key=lambda one: (-one.running, -one.queued, one.queue))
    listed, others = busy[:MOST_QUEUES], busy[MOST_QUEUES:]
    listed.sort(key=lambda one: one.queue or "")
    if others:
        listed.append(QueueLoad(None, sum(one.running for one in others), sum(one.queued for one in others)))
    return tuple(listed)
