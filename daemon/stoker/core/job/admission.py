"""Which ready jobs start now: class first, a fair share between queues of a class, then `order_key`.

Owns priority, fairness, caps, resources and what pressure pauses. Refuses to look anything up: it gets the
head of every line and what is free. Invariants: never more than `slots` picks; a queue never passes its
`max_running`; resources are taken all or nothing; a job that lacks one lets others of its queue pass, but nobody
takes what it waits for: the first job of each queue has what it needs set aside, oldest first, as batch schedulers do
before they backfill (D. Feitelson and A. Weil, "Utilization and Predictability in Scheduling the IBM SP2 with
Backfilling", 1998). So it waits for those that hold its resources now, and for no later start of its class or below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from msgspec import Struct, field

from stoker.core.job.model import Job, Queue, QueueClass

CLASS_ORDER = (QueueClass.HIGH, QueueClass.NORMAL, QueueClass.LOW)


class AdmissionQueue(Struct):
    """One queue as admission sees it: `lanes` of jobs with equal resources, each in order; `served` starts so far."""

    queue: Queue
    lanes: Sequence[Sequence[Job]]
    running: int = 0
    served: int = 0
    taken: int = 0
    short: list[Job] = field(default_factory=list)  # the first of each lane that was passed over
    reserved: Job | None = None  # what it needs is set aside
    aside: Counter[str] = field(default_factory=Counter)  # what of that is free now
    judged: bool = False  # whether anything is set aside for one of its jobs
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
        """The next in order."""
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
        """And its lane: where it does not fit, none behind it does."""
        self.short.append(self.first())
        heappop(self._heads)


class Room(Struct):
    """What is free of each resource, and what of that is set aside for the first blocked jobs."""

    free: dict[str, int]
    capacity: Mapping[str, int]  # of what others could give back; a width of a workflow is none of these
    aside: Counter[str] = field(default_factory=Counter)

    def fits(self, needs: Mapping[str, int], own: Counter[str] | None = None) -> bool:
        """Whether that much is free and not set aside for others. `own`: what is set aside for these needs."""
        others = self.aside - (own or Counter())
        return all(self.free.get(name, 0) - others[name] >= amount for name, amount in needs.items())

    def take(self, needs: Mapping[str, int], own: Counter[str] | None = None) -> None:
        for name, amount in needs.items():
            self.free[name] -= amount
        self.aside -= own or Counter()

    def set_aside(self, needs: Mapping[str, int]) -> Counter[str] | None:
        """Keep what is free for one job, as far as it needs it; None where it waits for what is kept for another.

        Never more than is free: nobody else is to wait for what this one still lacks.
        """
        free = all(self.free.get(name, 0) >= amount for name, amount in needs.items())
        if free and not self.fits(needs):
            return None
        left = {name: self.free.get(name, 0) - self.aside[name] for name in needs if name in self.capacity}
        own = Counter({name: max(0, min(needs[name], spare)) for name, spare in left.items()})
        self.aside.update(own)
        return own

    def awaitable(self, needs: Mapping[str, int]) -> bool:
        """Whether all that is missing comes when others give it back."""
        return all(
            amount <= self.capacity.get(name, 0) for name, amount in needs.items() if self.free.get(name, 0) < amount
        )


def paused(queue: Queue, *, throttled: bool) -> bool:
    """Whether nothing of this queue may start now."""
    return queue.paused or (throttled and queue.queue_class is QueueClass.LOW)


def order_key(created_at: int, priority: int, ageing_ms: int) -> int:
    """Place in the queue: one step of priority is worth `ageing_ms` of waiting; smaller goes first."""
    return created_at - priority * ageing_ms


def place(job: Job) -> tuple[int, int]:
    """Its place in its queue."""
    return (job.order_key, job.id)


def admit(
    lines: Iterable[AdmissionQueue],
    slots: int,
    free: Mapping[str, int],
    capacity: Mapping[str, int],
    *,
    throttled: bool,
) -> list[Job]:
    """The jobs to start now, in order. `free` and `capacity` of each resource; names that are missing are full."""
    picks: list[Job] = []
    room = Room(dict(free), capacity)
    usable = [line for line in lines if not paused(line.queue, throttled=throttled)]
    for queue_class in CLASS_ORDER:
        rivals = [line for line in usable if line.queue.queue_class is queue_class and line.open_for_more()]
        if len(picks) < slots:
            for line in sorted(rivals, key=lambda line: place(line.first())):
                _reserve(line, room)
        while rivals and len(picks) < slots:
            line = min(rivals, key=_turn)
            job = _take(line, room)
            if job is not None:
                picks.append(job)
            if job is None or not line.open_for_more():
                rivals.remove(line)
    return picks


def _turn(line: AdmissionQueue) -> tuple[int, int, str]:
    """Who is next: the queue that uses least, then the one served least, then by name."""
    return (line.running + line.taken, line.served + line.taken, line.queue.name)


def _take(line: AdmissionQueue, room: Room) -> Job | None:
    """The first job of the line whose resources are all free; takes them."""
    while line.open_for_more():
        job = line.first()
        own = line.aside if line.reserved is job else None
        if room.fits(job.spec.resources, own):
            room.take(job.spec.resources, own)
            line.take_first()
            return job
        _reserve(line, room)
        line.pass_over_first()
    return None


def _reserve(line: AdmissionQueue, room: Room) -> None:
    """Set aside what the first job needs, once for each line."""
    job = line.first()
    needs = job.spec.resources
    if not line.judged and needs and room.awaitable(needs):
        line.judged = True
        own = room.set_aside(needs)
        if own is not None:
            line.reserved, line.aside = job, own
