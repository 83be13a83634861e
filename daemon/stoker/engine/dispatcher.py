"""Opens attempts for the jobs that admission chooses.

Owns the slots of this host, and the reasons for which no job starts at all: before recovery, while draining, on a full
disk. `core.job.admission` chooses the jobs. Invariant: an attempt is opened only while its executor has a launcher, and
is committed before anything is started.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence

from stoker.core.job import events as ev
from stoker.core.job.admission import AdmissionQueue, QueuedJob, admit, paused
from stoker.core.job.model import Attempt, ExecutionMode, RunId
from stoker.core.shortage import startable, tried
from stoker.engine.memory import LiveState
from stoker.engine.ready_queue import Lane
from stoker.engine.turn import LogLine, Turn
from stoker.executors.base import Executor
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent

SHOWN_HOLDERS = 20
STARTED_AT_ONCE = 1_024  # jobs in one turn: more would keep the loop for a tenth of a second
READ_AT_ONCE = 2_048  # jobs: to read them takes a tenth of a second, in which no commit is made


class Dispatcher:
    def __init__(self, memory: LiveState, executors: Mapping[ExecutionMode, Executor], slots: int) -> None:
        self._memory = memory
        self._executors = executors
        self.slots = slots
        self.throttled = False
        self._bar_changes = 0  # of workflows, when the lanes were last dropped
        self._unread: set[int] = set()  # jobs that were chosen, but are not in memory as a whole
        self._closed_for = ["recovering"]

    @property
    def closed(self) -> str | None:
        """The newest reason for which no job is started; None if jobs are started."""
        return self._closed_for[-1] if self._closed_for else None

    def close(self, why: str) -> None:
        self._closed_for.append(why)

    def open(self, why: str) -> None:
        """Drop one reason; the others stay."""
        self._closed_for.remove(why)

    def declare_reads(self, wanted: Wanted) -> None:
        """Read the next jobs of lanes that have few left: as many as one turn may read, and the rest in later ones."""
        if self.closed is None and self._free() > 0:
            room = READ_AT_ONCE
            for name, demand, lane in self._hungry():
                if room <= 0:
                    break
                wanted.lanes.append((name, demand, lane.capacity))
                room -= min(lane.count, lane.capacity)
            wanted.barred = self._memory.workflows.barred
            wanted.ids.update(self._unread)

    def _hungry(self) -> Iterator[tuple[str, str | None, Lane]]:
        """Queue, demand and lane of the lanes to read, of queues whose jobs may start."""
        for name, ready in self._memory.ready.items():
            if not self._paused(name):
                for demand, lane in ready.hungry():
                    yield name, demand, lane

    def _free(self) -> int:
        return self.slots - len(self._memory.runs)

    def dispatch(self, turn: Turn) -> bool:
        """Open attempts for jobs that may start. Returns whether a further turn could start more."""
        free = min(startable(self._memory.shortage, self._free(), turn.now), STARTED_AT_ONCE)
        self._unread.clear()
        if self.closed is not None or free <= 0:
            return False
        self._reread_if_barred()
        if any(ready.unread and not self._paused(name) for name, ready in self._memory.ready.items()):
            return True  # an unread lane may have the jobs that go first
        queues = self._memory.admission_queues()
        if not queues:
            return False
        jobs = self._admit(queues, free)
        for queue in queues:
            self._memory.pass_over(queue)
        for job in jobs:
            self._open(turn, job)
        self._log_shortages(turn, [job for queue in queues for job, _ in queue.short])
        left = startable(self._memory.shortage, self._free(), turn.now)
        more = len(jobs) == STARTED_AT_ONCE or bool(self._unread) or any(True for _ in self._hungry())
        return left > 0 and more

    def _admit(self, queues: Sequence[AdmissionQueue], slots: int) -> Sequence[QueuedJob]:
        memory = self._memory
        return admit(queues, slots, memory.free(), memory.real_capacities(), throttled=self.throttled)

    def reservations(self) -> dict[int, dict[str, int]]:
        """The resources that are set aside for jobs, by job id, as if there were any number of slots."""
        queues = self._memory.admission_queues()
        self._admit(queues, sys.maxsize)
        return {queue.reserved.id: dict(queue.reserved.resources) for queue in queues if queue.reserved is not None}

    def _reread_if_barred(self) -> None:
        """Read the lanes again when a workflow was paused or resumed: they hold only jobs that may start.

        Changes are counted, as a workflow may be paused and resumed while nothing can start: a step that was queued in
        between is in no lane.
        """
        if self._memory.workflows.bar_changes != self._bar_changes:
            self._bar_changes = self._memory.workflows.bar_changes
            for ready in self._memory.ready.values():
                ready.read_again(self._memory.workflows.barred)

    def _open(self, turn: Turn, chosen: QueuedJob) -> None:
        """Open an attempt. A job that is not in memory as a whole is read for the next turn."""
        job = turn.find(chosen.id) or chosen.row
        if job is None:
            self._unread.add(chosen.id)
            return
        launcher = self._executors[job.spec.execution_mode].launcher
        if launcher is None:
            return
        ordinal = job.attempts + 1
        attempt = Attempt(
            run_id=str(RunId(job.id, ordinal, secrets.token_hex(8))),
            job_id=job.id,
            ordinal=ordinal,
            launcher=launcher,
            created_at=turn.now.wall,
        )
        if self._memory.shortage.lasts:
            self._memory.shortage = tried(self._memory.shortage, turn.now)
        turn.loaded.jobs.setdefault(job.id, job)
        turn.step(job.id, ev.Dispatched(attempt=attempt))

    def _log_shortages(self, turn: Turn, jobs: Sequence[QueuedJob]) -> None:
        """Log each job once that waits for a resource; a width is wanted by its workflow, so it is not logged."""
        free = self._memory.free() if jobs else {}
        for job in jobs:
            if job.id in self._memory.short:
                continue
            lacks = {name: amount for name, amount in job.resources.items() if free.get(name, 0) < amount}
            named = sorted(name for name in lacks if name not in self._memory.workflows.widths)
            if named:
                self._memory.short.add(job.id)
                holders = {name: self._memory.holders(name)[:SHOWN_HOLDERS] for name in named}
                about = {"job": job.id, "queue": job.queue, "resources": named, "holders": holders}
                turn.effects.append(LogLine(LogEvent.RESOURCE_EXHAUSTED, about))

    def _paused(self, name: str) -> bool:
        return paused(self._memory.queues[name], throttled=self.throttled)
