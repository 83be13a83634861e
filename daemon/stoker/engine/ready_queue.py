"""The ready jobs of one queue, as far as they are needed in memory.

Owns one lane for each demand, which is the set of resources that a job asks for: if the first job of a lane lacks a
resource, so do all others, and none of them is examined. A lane holds the first jobs of its order, the rest stays in
the database: a million queued jobs cost no memory. It reads nothing itself; the loop refills the `hungry` lanes.
Invariant: a lane holds a prefix of its order, without steps of workflows that are barred from starting.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from stoker.core.job.admission import place
from stoker.core.job.model import Job

CAPACITY = 1_024
# There may be as many lanes as jobs, and few jobs with the same demand for a resource start at a time.
DEMANDING_CAPACITY = 64
LOW_WATER = 8  # a lane below this fraction (1/8) of its capacity is low

_encode = msgspec.json.Encoder().encode


def demand_of(job: Job) -> str | None:
    """The resources that a job needs, as the column `jobs.demand` holds them."""
    return _encode(job.spec.resources).decode() if job.spec.resources else None


class Lane:
    """Queued jobs with one demand. `count`: their number, including those that are only in the database."""

    def __init__(self, resources: Mapping[str, int]) -> None:
        self.resources = resources
        self.jobs: list[Job] = []
        self.count = 0
        self.capacity = DEMANDING_CAPACITY if resources else CAPACITY
        self._read_to_the_end = False

    @property
    def _complete(self) -> bool:
        return self._read_to_the_end or len(self.jobs) == self.count

    @property
    def empty_handed(self) -> bool:
        """Whether there are jobs of which none is in memory."""
        return not self.jobs and not self._complete

    @property
    def low(self) -> bool:
        """Whether to read the lane before more of its jobs are started."""
        return len(self.jobs) < self.capacity // LOW_WATER and not self._complete

    def add(self, job: Job, *, startable: bool) -> None:
        """A job became queued. `startable`: it is no step of a barred workflow."""
        behind = not startable or (not self._complete and (not self.jobs or place(job) > place(self.jobs[-1])))
        self.count += 1
        if not behind:
            insort(self.jobs, job, key=place)
            if len(self.jobs) > self.capacity:
                self.jobs.pop()
                self._read_to_the_end = False

    def remove(self, job: Job) -> None:
        """A job is not queued any more. It may be in memory or only in the database."""
        self.count -= 1
        at = bisect_left(self.jobs, place(job), key=place)
        if at < len(self.jobs) and self.jobs[at].id == job.id:
            del self.jobs[at]

    def refill(self, jobs: Sequence[Job]) -> None:
        """Hold the first `capacity` queued jobs of the database, without those of barred workflows."""
        self.jobs = list(jobs)
        self._read_to_the_end = len(jobs) < self.capacity

    def read_again(self) -> None:
        """Workflows were paused or resumed, so the jobs in memory may not be the first that can start."""
        self.jobs = []
        self._read_to_the_end = False


class ReadyQueue:
    """All lanes of a queue, by demand."""

    def __init__(self) -> None:
        self.lanes: dict[str | None, Lane] = {}

    def add(self, job: Job, *, startable: bool) -> None:
        """A job became queued. `startable`: it is no step of a barred workflow."""
        self._lane(demand_of(job), job.spec.resources).add(job, startable=startable)

    def remove(self, job: Job) -> None:
        """A job is not queued any more."""
        demand = demand_of(job)
        lane = self.lanes[demand]
        lane.remove(job)
        if lane.count == 0:
            del self.lanes[demand]

    def count_in(self, demand: str | None, number: int) -> None:
        """The number of jobs with that demand in the database."""
        self._lane(demand, msgspec.json.decode(demand, type=dict[str, int]) if demand else {}).count = number

    def read_again(self) -> None:
        """Drop the jobs in memory; the database has them."""
        for lane in self.lanes.values():
            lane.read_again()

    def _lane(self, demand: str | None, resources: Mapping[str, int]) -> Lane:
        lane = self.lanes.get(demand)
        if lane is None:
            lane = self.lanes[demand] = Lane(resources)
        return lane

    def fronts(self) -> list[Sequence[Job]]:
        """The jobs of each lane, in order."""
        return [lane.jobs for lane in self.lanes.values() if lane.jobs]

    def hungry(self, free: Mapping[str, int]) -> Iterator[tuple[str | None, Lane]]:
        """The lanes to read: those whose first job is unknown, and low ones whose jobs fit into the free resources."""
        for demand, lane in self.lanes.items():
            if lane.empty_handed or (lane.low and fits(lane.resources, free)):
                yield demand, lane


def fits(resources: Mapping[str, int], free: Mapping[str, int]) -> bool:
    return all(free.get(name, 0) >= amount for name, amount in resources.items())
