"""The ready jobs of one user in a queue, as far as they are needed in memory.

Owns one lane for each demand, which is the set of resources that a job asks for: if the first job of a lane lacks a
resource, so do all others, and none of them is examined. A lane holds the first jobs of its order, the rest stays in
the database: a million queued jobs cost no memory. Where there are many lanes, each holds only what admission asks of
its jobs, and their rows are read when they start. It reads nothing itself; the loop refills the `hungry` lanes.
Each blocked lane is filed under the resource that its first job lacked, so admission gets only lanes that may start,
however many are blocked. Invariants: a lane holds a prefix of its order, without steps of workflows that are barred
from starting; a lane is filed only under a resource that it needs, so no lane that could start is left out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from operator import itemgetter

import msgspec

from stoker.core.job.admission import Group, Place, QueuedJob, place
from stoker.core.job.model import Job

CAPACITY = 1_024
# Of a lane without resources where there are many queues or users: a whole job takes 1 KiB, and all lanes are read
# after a start before a job starts.
HELD_IN_ALL = 16_384
LEAST_CAPACITY = 32
# There may be as many lanes as jobs, and only few jobs of a lane with resources start at a time.
DEMANDING_CAPACITY = 64
LANES_WITH_ROWS = 64  # further lanes of a line hold no whole jobs: one takes 2 KiB and more
Entry = tuple[Place, Sequence[QueuedJob]]
LOW_WATER = 8  # a lane below this fraction (1/8) of its capacity is low

_encode = msgspec.json.Encoder().encode


def demand_of(resources: Mapping[str, int]) -> str | None:
    """The resources that a job must get to start, in the form of the column `jobs.demand`."""
    return _encode(resources).decode() if resources else None


class Lane:
    """Queued jobs with one demand. `count`: their number, including those that are only in the database."""

    __slots__ = ("_has_rows", "_read_to_the_end", "_stale", "capacity", "count", "filed", "jobs", "resources")

    def __init__(self, resources: Mapping[str, int], capacity: int, *, has_rows: bool) -> None:
        self.resources = resources
        self.jobs: list[QueuedJob] = []
        self.count = 0
        self.capacity = min(capacity, DEMANDING_CAPACITY) if resources else capacity
        self.filed: tuple[Place, str | None] | None = None  # place of its first job, and the resource that it lacks
        self._has_rows = has_rows
        self._read_to_the_end = False
        self._stale = False  # other workflows were barred when it was read

    @property
    def _complete(self) -> bool:
        return self._read_to_the_end or len(self.jobs) == self.count

    @property
    def low(self) -> bool:
        """Whether to read the lane before more of its jobs are started."""
        short = len(self.jobs) < self.capacity // LOW_WATER and not self._complete
        return self.count > 0 and (self._stale or short)

    def add(self, job: Job, *, startable: bool) -> None:
        """A job became queued. `startable`: it is not a step of a barred workflow."""
        behind = not startable or (not self._complete and (not self.jobs or place(job) > place(self.jobs[-1])))
        self.count += 1
        if not behind:
            insort(self.jobs, self._queued(job), key=place)
            if len(self.jobs) > self.capacity:
                self.jobs.pop()
                self._read_to_the_end = False

    def _queued(self, job: Job) -> QueuedJob:
        row = job if self._has_rows else None
        return QueuedJob(job.id, job.order_key, job.spec.queue, self.resources, job.workflow_id, row)

    def remove(self, job: Job) -> None:
        """Remove a job that is no longer queued. It may be in memory or only in the database."""
        self.count -= 1
        at = bisect_left(self.jobs, place(job), key=place)
        if at < len(self.jobs) and self.jobs[at].id == job.id:
            del self.jobs[at]

    def refill(self, jobs: Sequence[Job]) -> None:
        """Hold the first `capacity` queued jobs of the database, without those of barred workflows."""
        self.jobs[:] = map(self._queued, jobs)
        self._read_to_the_end = len(jobs) < self.capacity
        self._stale = False

    def read_again(self, barred: Collection[int]) -> None:
        """Read the lane again after workflows were paused or resumed: other jobs may come before those in memory."""
        self.jobs[:] = [job for job in self.jobs if job.workflow_id not in barred]
        self._read_to_the_end = False
        self._stale = True


class ReadyLine:
    """All lanes of a user in a queue by demand, and the blocked ones by the resource that they lack.

    `rivals`: how many lines share the memory. Lanes that exist keep their capacity when lines are added.
    """

    def __init__(self, rivals: Callable[[], int] = lambda: 1) -> None:
        self._rivals = rivals
        self.lanes: dict[str | None, Lane] = {}
        self.unread: set[str | None] = set()  # lanes without a known job yet
        self._hungry: dict[str | None, Lane] = {}
        self._order: list[Place] = []  # of the first jobs of all lanes
        self._unblocked: list[Entry] = []
        # By resource, and by the bits of the amount: the lanes of a group need at least 2 ** (bits - 1).
        self._blocked: defaultdict[str, defaultdict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self._freed: set[str] = set()  # resources of which blocked lanes may find enough
        self._awaited: set[str] = set()  # those that blocked lanes lack, without most whose capacity is too small

    def add(self, job: Job, *, startable: bool) -> None:
        """A job became queued. `startable`: it is not a step of a barred workflow."""
        demand = demand_of(job.spec.demands)
        lane = self._lane(demand, job.spec.demands)
        lane.add(job, startable=startable)
        self._changed(demand, lane)

    def remove(self, job: Job) -> None:
        demand = demand_of(job.spec.demands)
        lane = self.lanes[demand]
        lane.remove(job)
        self._changed(demand, lane)
        if lane.count == 0:
            del self.lanes[demand]
            self.unread.discard(demand)

    def count_in(self, demand: str | None, number: int) -> None:
        """The number of jobs with that demand in the database."""
        lane = self._lane(demand, msgspec.json.decode(demand, type=dict[str, int]) if demand else {})
        lane.count = number
        self.unread.add(demand)
        self._changed(demand, lane)

    def refill(self, demand: str | None, jobs: Sequence[Job]) -> None:
        lane = self.lanes[demand]
        lane.refill(jobs)
        self.unread.discard(demand)
        self._changed(demand, lane)

    def read_again(self, barred: Collection[int]) -> None:
        """Drop the jobs of barred workflows, and read all lanes again; the others in memory may start meanwhile."""
        for demand, lane in self.lanes.items():
            lane.read_again(barred)
            self._changed(demand, lane)

    def _lane(self, demand: str | None, resources: Mapping[str, int]) -> Lane:
        lane = self.lanes.get(demand)
        if lane is None:
            capacity = max(LEAST_CAPACITY, min(CAPACITY, HELD_IN_ALL // self._rivals()))
            has_rows = not resources or len(self.lanes) < LANES_WITH_ROWS
            lane = self.lanes[demand] = Lane(resources, capacity, has_rows=has_rows)
        return lane

    @property
    def held(self) -> int:
        return sum(len(lane.jobs) for lane in self.lanes.values())

    @property
    def asks_for_nothing(self) -> bool:
        """Whether none of its jobs asks for a resource."""
        return len(self.lanes) == 1 and None in self.lanes

    def hungry(self) -> Iterator[tuple[str | None, Lane]]:
        """The lanes to read before more of their jobs are started."""
        yield from self._hungry.items()

    # --- lanes that may start ---

    @property
    def front(self) -> Place | None:
        """The place of the first job in memory."""
        return self._order[0] if self._order else None

    def freed(self, names: Iterable[str]) -> None:
        """There is more of these resources, so the lanes that lack them may start again."""
        again = [name for name in names if name in self._blocked]
        self._freed.update(again)
        self._awaited.update(again)

    def groups(self, free: Mapping[str, int]) -> list[Group]:
        """The lanes that may start with these free resources.

        A lane that is alone in its group and lacks nothing of it any more joins those that lack nothing: thousands of
        keys may have a token while there is no slot, and a group for each would be looked at in every turn.
        """
        open_groups = [Group(self._unblocked)]
        for name in list(self._freed):
            groups: Mapping[int, list[Entry]] = self._blocked.get(name, {})
            left = free.get(name, 0)
            fit = [bits for bits in groups if least(bits) <= left]
            for bits in fit:
                only = self._only_lane(groups[bits])
                if only is not None and only.resources[name] <= left:
                    self._file(only, None)
                else:
                    open_groups.append(Group(groups[bits], name, least(bits)))
            if not fit or name not in self._blocked:
                self._freed.discard(name)
        return open_groups

    def _only_lane(self, lanes: Sequence[Entry]) -> Lane | None:
        if len(lanes) != 1:
            return None
        _, jobs = lanes[0]
        return self.lanes[demand_of(jobs[0].resources)]

    def blocked(self, free: Mapping[str, int], capacity: Mapping[str, int]) -> Iterator[Entry]:
        """The other lanes, in order, without those that need more than the capacity of the resource that they lack.

        A resource of which all lanes need more is looked at again once its capacity may have changed.
        """
        groups: list[list[Entry]] = []
        for name in list(self._awaited):
            most = capacity.get(name, 0)
            within = [bits for bits in self._blocked[name] if least(bits) <= most]
            if within:
                left = free.get(name, 0)
                groups += (self._blocked[name][bits] for bits in within if left < least(bits))
            else:
                self._awaited.discard(name)
        return merge(*groups)

    def pass_over(self, job: QueuedJob, lacks: str) -> None:
        """The first job of a lane cannot start because it lacks this resource."""
        lane = self.lanes[demand_of(job.resources)]
        if lane.jobs and lane.jobs[0] is job:
            self._file(lane, lacks)

    def _changed(self, demand: str | None, lane: Lane) -> None:
        """The jobs of a lane changed. If another job is its first now, the lane may start."""
        if lane.low:
            self._hungry[demand] = lane
        else:
            self._hungry.pop(demand, None)
        if lane.filed is None or not lane.jobs or lane.filed[0] != place(lane.jobs[0]):
            self._file(lane, None)

    def _file(self, lane: Lane, lacks: str | None) -> None:
        before, lane.filed = lane.filed, (place(lane.jobs[0]), lacks) if lane.jobs else None
        if before is not None:
            lanes = self._filed_by(lane, before[1])
            del lanes[bisect_left(lanes, before[0], key=itemgetter(0))]
            if not lanes and before[1] is not None:
                self._drop_group(lane, before[1])
        if lane.filed is not None:
            insort(self._filed_by(lane, lacks), (lane.filed[0], lane.jobs), key=itemgetter(0))
            if lacks is not None:
                self._freed.add(lacks)
                self._awaited.add(lacks)
        self._reorder(before and before[0], lane.filed and lane.filed[0])

    def _reorder(self, before: Place | None, now: Place | None) -> None:
        """The first job of a lane is another one now."""
        if before == now:
            return
        if before is not None:
            del self._order[bisect_left(self._order, before)]
        if now is not None:
            insort(self._order, now)

    def _filed_by(self, lane: Lane, lacks: str | None) -> list[Entry]:
        return self._unblocked if lacks is None else self._blocked[lacks][lane.resources[lacks].bit_length()]

    def _drop_group(self, lane: Lane, lacked: str) -> None:
        del self._blocked[lacked][lane.resources[lacked].bit_length()]
        if not self._blocked[lacked]:
            del self._blocked[lacked]
            self._awaited.discard(lacked)


def least(bits: int) -> int:
    """The smallest amount that has this many bits."""
    return 1 << (bits - 1)
