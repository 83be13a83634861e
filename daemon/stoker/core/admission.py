"""Which ready jobs start now: class first, a fair share between queues of a class, then `order_key`.

Owns priority, fairness, caps, resources and what pressure pauses. Refuses to look anything up: it gets the
head of every line and what is free. Invariants: never more than `slots` picks; a queue never passes its
`max_running`; resources are taken all or nothing; a job that lacks one lets others of its queue pass.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from msgspec import Struct, field

from stoker.core.model import Job, Queue, QueueClass

CLASS_ORDER = (QueueClass.HIGH, QueueClass.NORMAL, QueueClass.LOW)


class Line(Struct):
    """One queue as admission sees it: `ready` in order, `running` open attempts, `served` starts so far."""

    queue: Queue
    ready: Sequence[Job]
    running: int = 0
    served: int = 0
    taken: int = 0
    position: int = 0
    short: list[Job] = field(default_factory=list)  # passed over: a resource was not free

    def open_for_more(self) -> bool:
        cap = self.queue.max_running
        return self.position < len(self.ready) and (cap is None or self.running + self.taken < cap)


def paused(queue: Queue, *, throttled: bool) -> bool:
    """Whether nothing of this queue may start now."""
    return queue.paused or (throttled and queue.queue_class is QueueClass.LOW)


def order_key(created_at: int, priority: int, ageing_ms: int) -> int:
    """Place in the queue: one step of priority is worth `ageing_ms` of waiting; smaller goes first."""
    return created_at - priority * ageing_ms


def admit(
    lines: Iterable[Line], slots: int, free: dict[str, int], *, throttled: bool, barred: Container[int] = ()
) -> list[Job]:
    """The jobs to start now, in order.

    `free`: what is left of each resource; unknown names are full. `barred`: workflows of which nothing may start.
    """
    picks: list[Job] = []
    left = dict(free)
    usable = [line for line in lines if not paused(line.queue, throttled=throttled)]
    for queue_class in CLASS_ORDER:
        rivals = [line for line in usable if line.queue.queue_class is queue_class and line.open_for_more()]
        while rivals and len(picks) < slots:
            line = min(rivals, key=_turn)
            job = _take(line, left, barred)
            if job is not None:
                picks.append(job)
            if job is None or not line.open_for_more():
                rivals.remove(line)
    return picks


def _turn(line: Line) -> tuple[int, int, str]:
    """Who is next: the queue that uses least, then the one served least, then by name."""
    return (line.running + line.taken, line.served + line.taken, line.queue.name)


def _take(line: Line, left: dict[str, int], barred: Container[int]) -> Job | None:
    """The first job of the line whose resources are all free; takes them."""
    while line.position < len(line.ready):
        job = line.ready[line.position]
        line.position += 1
        if fits(job, left, barred):
            for name, amount in job.spec.resources.items():
                left[name] -= amount
            line.taken += 1
            return job
        if job.spec.resources and job.workflow_id not in barred:
            line.short.append(job)
    return None


def fits(job: Job, left: dict[str, int], barred: Container[int] = ()) -> bool:
    """Whether its workflow lets the job start, and every resource that it asks for is free in full."""
    if job.workflow_id in barred:
        return False
    return all(left.get(name, 0) >= amount for name, amount in job.spec.resources.items())
