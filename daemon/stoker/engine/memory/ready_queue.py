"""The ready jobs of one queue: a line for each user that has some there.

Owns the lines. Jobs of one user never stand in the way of those of another: each line is read and kept by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Sized

from stoker.core.job.model import Job
from stoker.engine.memory.ready_line import Lane, ReadyLine
from stoker.store.loading import LaneKey


class ReadyQueue:
    """`queues`: all of them, of which the number counts, as they share the memory."""

    def __init__(self, queues: Sized = ("one",)) -> None:
        self._queues = queues
        self.lines: dict[int, ReadyLine] = {}

    def add(self, job: Job, *, startable: bool) -> None:
        """A job became queued. `startable`: it is not a step of a barred workflow."""
        self._line(job.owner_uid).add(job, startable=startable)

    def remove(self, job: Job) -> None:
        line = self.lines[job.owner_uid]
        line.remove(job)
        if not line.lanes:
            del self.lines[job.owner_uid]

    def count_in(self, owner_uid: int, demand: str | None, number: int) -> None:
        """The number of jobs of a user with that demand in the database."""
        self._line(owner_uid).count_in(demand, number)

    def refill(self, key: LaneKey, jobs: Sequence[Job]) -> None:
        owner_uid, demand = key
        self.lines[owner_uid].refill(demand, jobs)

    def read_again(self, barred: Collection[int]) -> None:
        """Drop the jobs of barred workflows, and read all lanes again; the others in memory may start meanwhile."""
        for line in self.lines.values():
            line.read_again(barred)

    def freed(self, names: Iterable[str]) -> None:
        """There is more of these resources, so the lanes that lack them may start again."""
        for line in self.lines.values():
            line.freed(names)

    def hungry(self) -> Iterator[tuple[LaneKey, Lane]]:
        """The lanes to read before more of their jobs are started."""
        for owner_uid, line in self.lines.items():
            yield from (((owner_uid, demand), lane) for demand, lane in line.hungry())

    def demands_of(self, owner_uid: int) -> list[str | None]:
        """The demands of the queued jobs of a user."""
        return list(self.lines[owner_uid].lanes) if owner_uid in self.lines else []

    @property
    def unread(self) -> bool:
        """Whether a lane has no known job yet."""
        return any(line.unread for line in self.lines.values())

    @property
    def held(self) -> int:
        return sum(line.held for line in self.lines.values())

    @property
    def asks_for_nothing(self) -> bool:
        """Whether none of its jobs asks for a resource, and each user has one in memory."""
        return all(line.asks_for_nothing and line.front is not None for line in self.lines.values())

    def _line(self, owner_uid: int) -> ReadyLine:
        line = self.lines.get(owner_uid)
        if line is None:
            line = self.lines[owner_uid] = ReadyLine(self._sharing)
        return line

    def _sharing(self) -> int:
        """How many lines share the memory, were there as many in each queue as here."""
        return len(self._queues) * max(1, len(self.lines))
