"""Notices standstills: all running jobs of a queue wait for jobs that are queued behind them (`core/standstill.py`).

Owns what the programs inside of running jobs wait for, as long as their requests are open: each proves by the token of
its attempt to which job it belongs. Nothing polls: a commit, or a wait that begins, may bring a standstill about. Only
while all slots are held by jobs that wait is the database asked, by one task at a time. Each standstill is logged once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import NamedTuple

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import StaleAttempt
from stoker.core.job.model import Job
from stoker.core.standstill import Standing, Standstill, Wait, standstill
from stoker.core.tokens import Tokens
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store import awaited
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log


class RunningJobs(NamedTuple):
    """Running jobs by id, and the workflows of which they are steps."""

    jobs: frozenset[int]
    workflows: frozenset[int | None]

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> RunningJobs:
        running = list(jobs)
        return cls(
            frozenset(job.id for job in running),
            frozenset(job.workflow_id for job in running if job.workflow_id is not None),
        )

    def awaited_by(self, wait: Wait) -> bool:
        return not self.jobs.isdisjoint(wait.jobs) or wait.workflow in self.workflows


class Standstills:
    def __init__(
        self, memory: LiveState, dispatcher: Dispatcher, tokens: Tokens, reader: Reader, background: BackgroundTasks
    ) -> None:
        self._memory = memory
        self._dispatcher = dispatcher
        self._tokens = tokens
        self._reader = reader
        self._background = background
        self._waits: dict[str, list[Wait]] = {}  # by run
        self._logged: set[str | None] = set()  # the queues (None: the daemon) that stand still
        self._looking = False
        self._look_again = False

    @contextmanager
    def waiting(self, token: str | None, wait: Wait) -> Iterator[None]:
        """A client waits meanwhile. Without the token of an open attempt it belongs to no job, and does not count."""
        run_id = self._open_run(token)
        if run_id is None:
            yield
            return
        waits = self._waits.setdefault(run_id, [])
        waits.append(wait)
        self._notice()
        try:
            yield
        finally:
            waits.remove(wait)
            if not waits:
                del self._waits[run_id]
            self._notice()

    def _open_run(self, token: str | None) -> str | None:
        if token is None:
            return None
        try:
            run_id = self._tokens.run_of(token)
        except StaleAttempt:  # of another daemon, perhaps: to wait needs no token
            return None
        return run_id if self._memory.by_run(run_id) is not None else None

    def after_commit(self, _turn: Turn) -> None:
        if self._waits:
            self._notice()

    def _notice(self) -> None:
        full = set(self._full())
        self._logged &= full
        if full <= self._logged:
            return
        self._look_again = True
        if not self._looking:
            self._looking = True
            self._background.retry("search for a standstill", self._look)

    def _full(self) -> Iterator[str | None]:
        """The queues (None: the daemon) all of whose slots are held by jobs that wait."""
        memory, runs = self._memory, [run for each in self._waits if (run := self._memory.by_run(each)) is not None]
        if len(runs) == len(memory.runs) >= self._dispatcher.slots:
            yield None
        for name, waiting in Counter(run.job.spec.queue for run in runs).items():
            most = memory.queues[name].max_running
            if most is not None and waiting == memory.running[name] >= most:
                yield name

    async def _look(self) -> None:
        while self._look_again:
            self._look_again = False
            for queue in set(self._full()) - self._logged:
                found = None if queue in self._logged else await self.find(queue)
                if found is not None:
                    self._logged |= {queue, *found.beside}
                    log(LogEvent.QUEUE_STANDSTILL, queue=queue, running=len(found.waits), why=str(found))
        self._looking = False

    async def find(self, queue: str | None) -> Standstill | None:
        """The standstill of a queue, or of the whole daemon, as it is now.

        Full queues for whose jobs its jobs wait belong to it: queues can block each other.
        """
        together = frozenset({queue})
        while together.issubset(self._full()):
            waits = self._waits_of(together)
            standings = await self._standings(waits)
            full = set(self._full())
            if waits != self._waits_of(together) or not together <= full:  # it changed meanwhile
                return None
            further = full.intersection(name for each in standings.values() for name in each.queues) - together
            if queue is None or not further:
                beside = {name: self._memory.running[name] for name in together if name not in (None, queue)}
                return standstill(queue, waits, standings, self._behind(together), beside)
            together |= further
        return None

    def _waits_of(self, queues: AbstractSet[str | None]) -> dict[int, tuple[Wait, ...]]:
        return {
            job: tuple(self._waits.get(run.attempt.run_id, ()))
            for job, run in self._memory.runs.items()
            if None in queues or run.job.spec.queue in queues
        }

    def _behind(self, queues: AbstractSet[str | None]) -> list[str]:
        """The queues whose jobs wait for a slot of these, or of the daemon."""
        paused = {name for name, queue in self._memory.queues.items() if queue.paused}
        return [name for name in self._memory.queues if (None in queues or name in queues) and name not in paused]

    async def _standings(self, waits: Mapping[int, Sequence[Wait]]) -> dict[Wait, Standing]:
        asked = {wait for each in waits.values() for wait in each}
        queues = await self._reader.run(awaited.queues_of, asked)
        runs = [run.job for run in self._memory.runs.values()]
        holders = RunningJobs.of(job for job in runs if job.id in waits)
        others = RunningJobs.of(job for job in runs if job.id not in waits)
        barred = self._memory.workflows.barred  # what starts none of their steps is no lack of slots
        return {
            wait: Standing(queues[wait], holders.awaited_by(wait), others.awaited_by(wait) or wait.workflow in barred)
            for wait in asked
        }
