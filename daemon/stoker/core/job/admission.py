"""Chooses the queued jobs that start now: by class, a fair share between its queues and users, then by `order_key`.

Owns priority, fairness, limits of queues and users, and resources. Invariants: at most `slots` jobs are picked; a queue
never exceeds its `max_running`; a job takes all its resources or none of them. Jobs behind a blocked job may start
before it, but not with the resources that it waits for: these are set aside for the first blocked job of each queue, in
the order of the turns, as batch schedulers do before they backfill (D. Feitelson and A. Weil, "Utilization and
Predictability in Scheduling the IBM SP2 with Backfilling", 1998). So a blocked job waits only for the jobs that hold
its resources now, for no later start of its class or a lower one, and for users of its queue whose turn comes before.

Queues come with their lanes grouped by a resource that they may lack: once that is taken, a whole group is left out,
so the cost depends on the jobs that may start, and not on those that are blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, nsmallest

from msgspec import Struct, field

from stoker.core.job.model import Job, Queue, QueueClass

NOTHING: Mapping[str, int] = {}
NO_BOUNDS: Mapping[int, int] = {}
CLASS_ORDER = (QueueClass.HIGH, QueueClass.NORMAL, QueueClass.LOW)
Place = tuple[int, int]  # in the order of a queue: `order_key` and id
Share = tuple[int, int, str]  # what a queue has got: jobs running, starts; and its name
UNBOUNDED = 2**63 - 1
BLOCKED = -1  # in place of the number of a group


class QueuedJob(Struct, frozen=True, gc=False):
    """The part of a queued job by which it is chosen. `row`: all of it, if it is in memory."""

    id: int
    order_key: int
    queue: str
    resources: Mapping[str, int] = NOTHING
    workflow_id: int | None = None
    row: Job | None = None


Lane = Sequence[QueuedJob]  # jobs with equal resources, in order


class Group(Struct, frozen=True):
    """Lanes in the order of their first jobs. Each needs at least `amount` of `resource`."""

    lanes: Sequence[tuple[Place, Lane]]
    resource: str | None = None
    amount: int = 0


class AdmissionLine(Struct):
    """The jobs of one user in a queue during admission. `served` counts starts, `running` those that have not ended.

    `blocked` are the other lanes that lack a resource and may wait for its holders, in order; lanes that lack more than
    the capacity are left out. `front` is the place of the first job of all lanes.
    """

    groups: Sequence[Group]
    front: Place | None
    blocked: Iterable[tuple[Place, Lane]] = ()
    owner_uid: int = 0
    running: int = 0
    served: int = 0
    taken: int = 0
    _heads: list[tuple[Place, QueuedJob, int, int, int]] = field(
        default_factory=list
    )  # with group, lane and place in it

    _rest: Iterator[tuple[Place, Lane]] = field(default_factory=lambda: iter(()))  # of `blocked`

    def __post_init__(self) -> None:
        self._rest = iter(self.blocked)
        for number in range(len(self.groups)):
            self._push(number, 0, 0)
        self._push_blocked()

    def __bool__(self) -> bool:
        """Whether it has a job that may start."""
        return bool(self._heads)

    @property
    def share(self) -> tuple[int, int, Place]:
        """The smallest is served next: fewest jobs of the user running, then fewest starts, then the oldest job."""
        return (self.running + self.taken, self.served + self.taken, self._heads[0][0])

    def first(self) -> QueuedJob:
        return self._heads[0][1]

    @property
    def first_is_front(self) -> bool:
        return self._heads[0][0] == self.front

    @property
    def first_is_new(self) -> bool:
        """Whether the lane of the first job was not found to lack a resource before."""
        _, _, group, _, at = self._heads[0]
        return group != BLOCKED and self.groups[group].resource is None and at == 0

    def take_first(self) -> None:
        _, _, group, lane, at = heappop(self._heads)
        self.taken += 1
        self._push(group, lane, at + 1)
        if at == 0:
            self._push(group, lane + 1, 0)

    def pass_over_first(self, room: Room, *, judged: bool) -> None:
        """Leave out its whole lane. Once a reservation is decided, also the group if its resource is taken."""
        _, _, group, lane, at = heappop(self._heads)
        if group == BLOCKED:
            if not judged:
                self._push_blocked()
        elif at == 0 and (not judged or room.may_serve(self.groups[group])):
            self._push(group, lane + 1, 0)

    def _push(self, group: int, lane: int, at: int) -> None:
        lanes = self.groups[group].lanes
        if lane < len(lanes) and at < len(lanes[lane][1]):
            job = lanes[lane][1][at]
            heappush(self._heads, (place(job), job, group, lane, at))

    def _push_blocked(self) -> None:
        head = next(self._rest, None)
        if head is not None:
            heappush(self._heads, (head[0], head[1][0], BLOCKED, 0, 0))


class AdmissionQueue(Struct):
    """One queue during admission: the lines of its users. `served` counts starts.

    `tokens`: how many of its jobs may start now by its rate; None: any number.
    """

    queue: Queue
    lines: Sequence[AdmissionLine]
    running: int = 0
    served: int = 0
    tokens: int | None = None
    taken: int = 0
    short: list[tuple[AdmissionLine, QueuedJob, str]] = field(default_factory=list)  # passed over, and what they lack
    reserved: QueuedJob | None = None  # the job whose resources are set aside
    aside: Counter[str] = field(default_factory=Counter)  # the part of these resources that is free now
    judged: bool = False  # whether a reservation was already decided for this queue
    cut_short: bool = False  # whether jobs that may start were left for the next time
    _turns: list[tuple[tuple[int, int, Place], AdmissionLine]] = field(default_factory=list)  # by share, each unlike

    def __post_init__(self) -> None:
        self._turns = [(line.share, line) for line in self.lines if line]
        heapify(self._turns)

    def next_line(self, room: Room) -> AdmissionLine | None:
        """The line whose turn it is; None if no job of the queue may start now."""
        cap = self.queue.max_running
        if (cap is not None and self.running + self.taken >= cap) or self.out_of_tokens:
            return None
        while self._turns and not room.may_start(self._turns[0][1].owner_uid):
            heappop(self._turns)
        return self._turns[0][1] if self._turns else None

    @property
    def share(self) -> Share:
        """The smallest is served next: fewest jobs running, then fewest starts, then by name."""
        return (self.running + self.taken, self.served + self.taken, self.queue.name)

    @property
    def out_of_tokens(self) -> bool:
        return self.tokens is not None and self.taken >= self.tokens

    def take_first(self, line: AdmissionLine) -> None:
        """Take the first job of the line whose turn it is."""
        if self.reserved is line.first():
            self.reserved, self.aside, self.judged = None, Counter(), False
        self.taken += 1
        line.take_first()
        self._end_turn()

    def pass_over_first(self, line: AdmissionLine, lacks: str, room: Room) -> None:
        self.short.append((line, line.first(), lacks))
        line.pass_over_first(room, judged=self.judged)
        self._end_turn()

    def _end_turn(self) -> None:
        _, line = heappop(self._turns)
        if line:
            heappush(self._turns, (line.share, line))


class Room(Struct):
    """The free amount of each resource, the amount taken, and the amount set aside for the first blocked jobs.

    `users`: how many more jobs each user may run; others any number. `looks`: how many more lanes may be found to lack
    a resource that were not before.
    """

    free: Mapping[str, int]
    capacity: Mapping[str, int]  # of real resources: widths of a workflow's `each`, and tokens, are in `free` only
    looks: int = UNBOUNDED
    aside: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    users: Mapping[int, int] = field(default_factory=dict)
    started: Counter[int] = field(default_factory=Counter)  # by user

    def may_start(self, owner_uid: int) -> bool:
        most = self.users.get(owner_uid)
        return most is None or self.started[owner_uid] < most

    def left(self, name: str) -> int:
        return self.free.get(name, 0) - self.taken[name]

    def lacks(self, needs: Mapping[str, int], own: Mapping[str, int] = NOTHING) -> str | None:
        """The resource that the job lacks: too little is free, or too much is set aside for others than its `own`.

        The first for which it cannot wait (see `awaitable`), else the first; None if it lacks nothing.
        """
        lacking = [
            name for name, amount in needs.items() if self.left(name) - self.aside[name] + own.get(name, 0) < amount
        ]
        beyond = (name for name in lacking if not self.awaitable({name: needs[name]}))
        return next(beyond, lacking[0] if lacking else None)

    def may_serve(self, group: Group) -> bool:
        """Whether the first lane of a group that has not been looked at may fit."""
        name = group.resource
        return name is None or self.left(name) - self.aside[name] >= group.amount

    def take(self, needs: Mapping[str, int], own: Mapping[str, int]) -> None:
        self.taken.update(needs)
        self.aside.subtract(own)

    def set_aside(self, needs: Mapping[str, int]) -> Counter[str] | None:
        """Reserve the free resources that a job needs; None if it waits for some that are reserved for another job.

        Only free amounts are reserved, so that other jobs do not wait for resources that this one still lacks.
        """
        free = all(self.left(name) >= amount for name, amount in needs.items())
        if free and self.lacks(needs) is not None:
            return None
        left = {name: self.left(name) - self.aside[name] for name in needs if name in self.capacity}
        own = Counter({name: max(0, min(needs[name], spare)) for name, spare in left.items()})
        self.aside.update(own)
        return own

    def awaitable(self, needs: Mapping[str, int]) -> bool:
        """Whether every missing amount becomes free when the jobs that hold it end."""
        return all(amount <= self.capacity.get(name, 0) for name, amount in needs.items() if self.left(name) < amount)


def paused(queue: Queue, *, throttled: bool) -> bool:
    """Whether no job of this queue may start now."""
    return queue.paused or (throttled and stops_under_pressure(queue))


def stops_under_pressure(queue: Queue) -> bool:
    """A queue of class low starts no jobs then; one with a floor runs fewer."""
    return queue.queue_class is QueueClass.LOW and queue.min_running is None


def order_key(created_at: int, priority: int, ageing_ms: int) -> int:
    """The position in the queue, smallest first: one step of priority equals `ageing_ms` of waiting."""
    return created_at - priority * ageing_ms


def place(job: Job | QueuedJob) -> Place:
    return (job.order_key, job.id)


def admit(
    queues: Iterable[AdmissionQueue],
    slots: int,
    free: Mapping[str, int],
    capacity: Mapping[str, int],
    *,
    throttled: bool,
    users: Mapping[int, int] = NO_BOUNDS,
    looks: int = UNBOUNDED,
) -> list[QueuedJob]:
    """The jobs to start now, in order. A resource that is missing in `free` has nothing left.

    `users`: how many more jobs each of these users may run. After so many `looks` at lanes that lack a resource and are
    not filed under one, the others are left for the next time: each turn files these, so the next one gets further.
    """
    picks: list[QueuedJob] = []
    room = Room(free, capacity, looks, users=users)
    usable = [each for each in queues if not paused(each.queue, throttled=throttled)]
    for queue_class in CLASS_ORDER:
        of_class = [each for each in usable if each.queue.queue_class is queue_class]
        if not of_class:
            continue
        turns = [(each, line) for each in of_class if (line := each.next_line(room)) is not None]
        rivals = [each for each, _ in turns]
        if len(picks) < slots:
            fronts = [(queue, line.first()) for queue, line in turns if line.first_is_front]
            for queue, first in sorted(fronts, key=lambda front: place(front[1])):
                _reserve(queue, first, room)
        shares = [(each.share, each) for each in rivals]
        heapify(shares)
        while shares and len(picks) < slots:
            _, queue = heappop(shares)
            job = _take(queue, room)
            if job is not None:
                picks.append(job)
                if queue.next_line(room) is not None:
                    heappush(shares, (queue.share, queue))
    return picks


def contenders(shares: Mapping[QueueClass, Sequence[Share]], slots: int) -> Iterator[str]:
    """The names of the queues that can have one of so many starts, of queues that can have at least one each.

    Each start goes to the smallest share of its class and makes only that one larger, so none but the smallest `slots`
    are reached.
    """
    for of_class in shares.values():
        yield from (name for _, _, name in (of_class if len(of_class) <= slots else nsmallest(slots, of_class)))


def _take(queue: AdmissionQueue, room: Room) -> QueuedJob | None:
    """Take the first job of the queue whose resources are all free, and these resources."""
    while (line := queue.next_line(room)) is not None:
        if room.looks <= 0:
            queue.cut_short = True
            break
        job = line.first()
        own = queue.aside if queue.reserved is job else NOTHING
        lacks = room.lacks(job.resources, own) if job.resources else None
        if lacks is None:
            if job.resources:
                room.take(job.resources, own)
            room.started[line.owner_uid] += 1
            queue.take_first(line)
            return job
        _reserve(queue, job, room)
        # A lane that lacks only what is set aside is new again in the next turn, which would end there as well.
        room.looks -= line.first_is_new and room.left(lacks) < job.resources[lacks]
        queue.pass_over_first(line, lacks, room)
    return None


def _reserve(queue: AdmissionQueue, job: QueuedJob, room: Room) -> None:
    """Set aside the resources of a job, once for each queue."""
    needs = job.resources
    if not queue.judged and needs and room.awaitable(needs):
        queue.judged = True
        own = room.set_aside(needs)
        if own is not None:
            queue.reserved, queue.aside = job, own
