"""Which queued jobs start now: by class, then a fair share between the queues of a class, then by `order_key`.

Owns priority, fairness, limits of queues, and resources. Invariants: at most `slots` jobs are picked; a queue never
exceeds its `max_running`; a job takes all its resources or none of them. Jobs behind a blocked job may start before
it, but not with the resources that it waits for: these are set aside for the first blocked job of each queue, oldest
first, as batch schedulers do before they backfill (D. Feitelson and A. Weil, "Utilization and Predictability in
Scheduling the IBM SP2 with Backfilling", 1998). So a blocked job waits only for the jobs that hold its resources now,
and for no later start of its class or a lower one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from msgspec import Struct, field

from stoker.core.job.model import Job, Queue, QueueClass

CLASS_ORDER = (QueueClass.HIGH, QueueClass.NORMAL, QueueClass.LOW)


class AdmissionQueue(Struct):
    """One queue during admission. Each of `lanes` has jobs with equal resources, in order; `served` counts starts."""

    queue: Queue
    lanes: Sequence[Sequence[Job]]
    running: int = 0
    served: int = 0
    taken: int = 0
    short: list[Job] = field(default_factory=list)  # the first job of each lane that was passed over
    reserved: Job | None = None  # the job whose resources are set aside
    aside: Counter[str] = field(default_factory=Counter)  # the part of these resources that is free now
    judged: bool = False  # whether a reservation was already decided for this queue
    _at: list[int] = field(default_factory=list)
    _heads: list[tuple[tuple[int, int], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._at = [0] * len(self.lanes)
        self._heads = [(place(lane[0]), number) for number, lane in enumerate(self.lanes) if lane]
        heapify(self._heads)

    def open_for_more(self) -> bool:
        cap = self.queue.max_running
        return bool(self._heads) and (cap is None or self.running + self.taken < cap)

    def first(self) -> Job:
        number = self._heads[0][1]
        return self.lanes[number][self._at[number]]

    def take_first(self) -> None:
        number = self._heads[0][1]
        lane, at = self.lanes[number], self._at[number] + 1
        self._at[number] = at
        self.taken += 1
        if self.reserved is lane[at - 1]:
            self.reserved, self.aside, self.judged = None, Counter(), False
        if at < len(lane):
            heapreplace(self._heads, (place(lane[at]), number))
        else:
            heappop(self._heads)

    def pass_over_first(self) -> None:
        """Leave out its whole lane: the jobs behind it need the same resources."""
        self.short.append(self.first())
        heappop(self._heads)


class Room(Struct):
    """The free amount of each resource, and how much of it is set aside for the first blocked jobs."""

    free: dict[str, int]
    capacity: Mapping[str, int]  # of real resources: the width of a workflow's `each` is in `free` only
    aside: Counter[str] = field(default_factory=Counter)

    def fits(self, needs: Mapping[str, int], own: Counter[str] | None = None) -> bool:
        """Whether that much is free and not set aside for another job. `own` is set aside for this one."""
        others = self.aside - (own or Counter())
        return all(self.free.get(name, 0) - others[name] >= amount for name, amount in needs.items())

    def take(self, needs: Mapping[str, int], own: Counter[str] | None = None) -> None:
        for name, amount in needs.items():
            self.free[name] -= amount
        self.aside -= own or Counter()

    def set_aside(self, needs: Mapping[str, int]) -> Counter[str] | None:
        """Reserve for one job what is free of its needs; None if it waits for what is reserved for another job.

        Only free amounts are reserved, so that other jobs do not wait for resources that this one still lacks.
        """
        free = all(self.free.get(name, 0) >= amount for name, amount in needs.items())
        if free and not self.fits(needs):
            return None
        left = {name: self.free.get(name, 0) - self.aside[name] for name in needs if name in self.capacity}
        own = Counter({name: max(0, min(needs[name], spare)) for name, spare in left.items()})
        self.aside.update(own)
        return own

    def awaitable(self, needs: Mapping[str, int]) -> bool:
        """Whether every missing amount becomes free when the jobs that hold it end."""
        return all(
            amount <= self.capacity.get(name, 0) for name, amount in needs.items() if self.free.get(name, 0) < amount
        )


def paused(queue: Queue, *, throttled: bool) -> bool:
    """Whether no job of this queue may start now."""
    return queue.paused or (throttled and queue.queue_class is QueueClass.LOW)


def order_key(created_at: int, priority: int, ageing_ms: int) -> int:
    """The position in the queue, smallest first: one step of priority equals `ageing_ms` of waiting."""
    return created_at - priority * ageing_ms


def place(job: Job) -> tuple[int, int]:
    return (job.order_key, job.id)


def admit(
    queues: Iterable[AdmissionQueue],
    slots: int,
    free: Mapping[str, int],
    capacity: Mapping[str, int],
    *,
    throttled: bool,
) -> list[Job]:
    """The jobs to start now, in order. A resource that is missing in `free` has nothing left."""
    picks: list[Job] = []
    room = Room(dict(free), capacity)
    usable = [each for each in queues if not paused(each.queue, throttled=throttled)]
    for queue_class in CLASS_ORDER:
        rivals = [each for each in usable if each.queue.queue_class is queue_class and each.open_for_more()]
        if len(picks) < slots:
            for queue in sorted(rivals, key=lambda rival: place(rival.first())):
                _reserve(queue, room)
        while rivals and len(picks) < slots:
            queue = min(rivals, key=_share)
            job = _take(queue, room)
            if job is not None:
                picks.append(job)
            if job is None or not queue.open_for_more():
                rivals.remove(queue)
    return picks


def _share(queue: AdmissionQueue) -> tuple[int, int, str]:
    """The smallest is served next: fewest jobs running, then fewest starts, then by name."""
    return (queue.running + queue.taken, queue.served + queue.taken, queue.queue.name)


def _take(queue: AdmissionQueue, room: Room) -> Job | None:
    """Take the first job of the queue whose resources are all free, and these resources."""
    while queue.open_for_more():
        job = queue.first()
        own = queue.aside if queue.reserved is job else None
        if room.fits(job.spec.resources, own):
            room.take(job.spec.resources, own)
            queue.take_first()
            return job
        _reserve(queue, room)
        queue.pass_over_first()
    return None


def _reserve(queue: AdmissionQueue, room: Room) -> None:
    """Set aside the resources of the first job, once for each queue."""
    job = queue.first()
    needs = job.spec.resources
    if not queue.judged and needs and room.awaitable(needs):
        queue.judged = True
        own = room.set_aside(needs)
        if own is not None:
            queue.reserved, queue.aside = job, own
