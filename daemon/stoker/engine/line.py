"""The ready jobs of one queue, as far as they are needed in memory.

Owns a window on the front of the queue's order. The rest stays in the database, so a million queued jobs
cost no memory. Refuses to read the database: it says `hungry` and is given rows. Invariant: the window is a
prefix of the queue's order, and `complete` says whether it is all of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from stoker.core.model import Job

CAPACITY = 1_024
LOW_WATER = 128


def _place(job: Job) -> tuple[int, int]:
    return (job.order_key, job.id)


class ReadyLine:
    """A window on the queued jobs of one queue, in the order in which they may start."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self.complete = True
        self.capacity = CAPACITY
        self._widened = False

    @property
    def jobs(self) -> Sequence[Job]:
        return self._jobs

    @property
    def hungry(self) -> bool:
        """Whether the window should be read anew before more jobs are started."""
        return not self.complete and (len(self._jobs) < LOW_WATER or self._widened)

    def add(self, job: Job) -> None:
        """A job became queued."""
        if not self.complete and (not self._jobs or _place(job) > _place(self._jobs[-1])):
            return
        insort(self._jobs, job, key=_place)
        if len(self._jobs) > self.capacity:
            self._jobs.pop()
            self.complete = False

    def remove(self, job: Job) -> None:
        """A job is not queued any more; one that was behind the window is not missed."""
        at = bisect_left(self._jobs, _place(job), key=_place)
        if at < len(self._jobs) and self._jobs[at].id == job.id:
            del self._jobs[at]

    def refill(self, jobs: Iterable[Job]) -> None:
        """Replace the window by the first `capacity` queued jobs of the database."""
        self._jobs = list(jobs)
        self.complete = len(self._jobs) < self.capacity
        self._widened = False

    def widen(self) -> None:
        """Nothing in a full window can start: look further back from now on."""
        self.capacity *= 4
        self._widened = True
