"""Opens attempts for the jobs that admission chooses.

Owns the slots of this host, and the reasons for which no job starts at all: before recovery, while draining, on a full
disk. `core.job.admission` chooses the jobs. Invariant: an attempt is opened only while its executor has a launcher, and
is committed before anything is started. A job whose row does not match its checksum is held instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from stoker.core.job import events as ev
from stoker.core.job.admission import UNBOUNDED, AdmissionQueue, QueuedJob, admit, paused
from stoker.core.job.model import Attempt, ExecutionMode, Job, Reason
from stoker.core.job.run_id import RunId
from stoker.core.shortage import startable, tried
from stoker.engine.memory import LiveState
from stoker.engine.memory.ready_line import Lane
from stoker.engine.turn import LogLine, Turn
from stoker.executors.base import Executor
from stoker.process.run_roots import uid_of
from stoker.store.jobs import is_damaged
from stoker.store.loading import LaneKey, Wanted
from stoker.telemetry.events import LogEvent

SHOWN_HOLDERS = 20
STARTED_AT_ONCE = 512  # jobs in one turn: they keep the loop for up to a twentieth of a second
FILED_AT_ONCE = 1_024  # lanes in one turn, under the resource that they lack: they keep the loop as long
NONCE_BYTES, NONCES_AT_ONCE = 8, 512
READ_AT_ONCE = 2_048  # jobs: to read them takes a tenth of a second, and commits wait for it


class Closure(NamedTuple):
    """A reason for which only jobs of the `spared` queues start."""

    why: str
    spared: tuple[str, ...] = ()


def _nonces() -> Iterator[str]:
    """64 random bits each, in hex, taken from the kernel for many attempts at once."""
    while True:
        bits = os.urandom(NONCE_BYTES * NONCES_AT_ONCE)
        yield from (bits[at : at + NONCE_BYTES].hex() for at in range(0, len(bits), NONCE_BYTES))


class Dispatcher:
    def __init__(
        self,
        memory: LiveState,
        executors: Mapping[ExecutionMode, Executor],
        slots: int,
        reaches_cluster: Callable[[], bool],
        backends: Collection[str],
        full: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`backends`: the queues whose jobs take no slot of this host, as they run on the cluster. `full`: those of
        them for which it takes no more jobs now.
        """
        self._memory = memory
        self._executors = executors
        self.slots = slots
        self.backends = backends
        self._cluster_answers = reaches_cluster
        self._full = full
        self.throttled = False
        self._bar_changes = 0  # `workflows.bar_changes` when the lanes were last dropped
        self._unread: set[int] = set()  # chosen jobs whose whole rows must be read first
        self._closed_for: list[Closure] = [Closure("recovering")]
        self._nonces = _nonces()

    @property
    def closed(self) -> str | None:
        """The newest reason for which no job is started; None if jobs are started."""
        return self._closed_for[-1].why if self._closed_for else None

    def closed_for(self, queue: str) -> str | None:
        """As `closed`, for the jobs of a queue, which may be spared."""
        return next((each.why for each in reversed(self._closed_for) if queue not in each.spared), None)

    def close(self, why: str, spared: tuple[str, ...] = ()) -> None:
        """Start no jobs, except those of the `spared` queues."""
        self._closed_for.append(Closure(why, spared))

    def open(self, why: str) -> None:
        """Drop one reason; the others stay."""
        self._closed_for.remove(next(each for each in self._closed_for if each.why == why))

    @property
    def _shut(self) -> bool:
        """Whether no queue at all starts jobs."""
        return any(not each.spared for each in self._closed_for)

    def declare_reads(self, wanted: Wanted) -> None:
        """Read the next jobs of lanes that have few left; as many as one turn may read.

        Also while no slot is free: one that becomes free in this turn is given away in it, and an empty lane gets none.
        """
        if not self._shut:
            room = READ_AT_ONCE
            for name, key, lane in self._hungry():
                if room <= 0:
                    break
                wanted.lanes.append((name, key, lane.capacity))
                room -= min(lane.count, lane.capacity)
            wanted.barred = self._memory.workflows.barred
            wanted.ids.update(self._unread)

    def _hungry(self) -> Iterator[tuple[str, LaneKey, Lane]]:
        """Queue, key and lane of the lanes to read, of queues whose jobs may start."""
        for name, ready in self._memory.ready.items():
            for key, lane in ready.hungry():
                if not self._paused(name):
                    yield name, key, lane

    def _free(self) -> int:
        """Slots of this host."""
        elsewhere = sum(self._memory.running[name] for name in self.backends)
        return self.slots - len(self._memory.runs) + elsewhere

    @property
    def _reaches_cluster(self) -> bool:
        return bool(self.backends) and self._cluster_answers()

    def may_start_in(self, name: str) -> bool:
        """Whether jobs of a queue of the cluster can be handed over to it now."""
        return name in self.backends and self._reaches_cluster and not self._shuts(name)

    def dispatch(self, turn: Turn) -> bool:
        """Open attempts for jobs that may start. Returns whether a further turn could start more."""
        self._memory.freed.update(self._memory.rates.arrived(turn.now.steady))
        free = min(startable(self._memory.shortage, self._free(), turn.now), STARTED_AT_ONCE)
        self._unread.clear()
        if self._shut or (free <= 0 and not self._reaches_cluster):
            return False
        self._reread_if_barred()
        if any(ready.unread and not self._paused(name) for name, ready in self._memory.ready.items()):
            return True  # an unread lane may have the jobs that go first
        names = self._open_queues()
        more = free > 0 and self._dispatch_from(turn, [name for name in names if name not in self.backends], free)
        if self._reaches_cluster:
            of_cluster = [name for name in names if name in self.backends]
            more = self._dispatch_from(turn, of_cluster, STARTED_AT_ONCE) or more
        return more

    def _dispatch_from(self, turn: Turn, names: Sequence[str], free: int) -> bool:
        """Open attempts for the jobs of some queues, as many as may start."""
        queues = self._memory.admission_queues(names, free, turn.now.steady)
        if not queues:
            return False
        jobs = self._admit(queues, free, turn.now.steady, FILED_AT_ONCE)
        for queue in queues:
            self._memory.pass_over(queue, turn.now.steady)
        held = [self._open(turn, job) for job in jobs].count(False)
        self._log_shortages(turn, [job for queue in queues for _, job, _ in queue.short])
        left = (
            STARTED_AT_ONCE if names[0] in self.backends else startable(self._memory.shortage, self._free(), turn.now)
        )
        at_a_limit = len(jobs) == STARTED_AT_ONCE or any(queue.cut_short for queue in queues)
        more = held > 0 or at_a_limit or bool(self._unread) or any(True for _ in self._hungry())
        return left > 0 and more

    def _open_queues(self) -> Sequence[str]:
        """The queues whose jobs may start."""
        return [name for name in self._memory.ready if not self._paused(name)]

    def _admit(
        self, queues: Sequence[AdmissionQueue], slots: int, now_ms: int, looks: int = UNBOUNDED
    ) -> Sequence[QueuedJob]:
        memory = self._memory
        room = memory.users.room(line.owner_uid for queue in queues for line in queue.lines)
        capacity, free = memory.real_capacities(), memory.free(now_ms)
        return admit(queues, slots, free, capacity, throttled=self.throttled, users=room, looks=looks)

    def reservations(self, now_ms: int) -> dict[int, dict[str, int]]:
        """The resources that are set aside for jobs, by job id, computed without the limit of slots."""
        queues = self._memory.admission_queues(self._memory.ready, UNBOUNDED, now_ms)
        self._admit(queues, UNBOUNDED, now_ms)
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

    def _open(self, turn: Turn, chosen: QueuedJob) -> bool:
        """Open an attempt. A job that is not in memory as a whole is read for the next turn.

        Returns False if the job is held instead: another one may start in its place.
        """
        job = turn.find(chosen.id) or chosen.row
        if job is None:
            self._unread.add(chosen.id)
            return True
        if job.id not in turn.batch.new_jobs and is_damaged(job):  # one that is new was not read
            turn.loaded.jobs.setdefault(job.id, job)
            turn.step(job.id, ev.Hold(reason=Reason.DAMAGED))
            return False
        launcher = self._executors[job.spec.execution_mode].launcher_for(job)
        if launcher is None:
            return True
        ordinal = job.attempts + 1
        attempt = Attempt(
            run_id=str(RunId(job.id, ordinal, next(self._nonces), uid_of(launcher))),
            job_id=job.id,
            ordinal=ordinal,
            launcher=launcher,
            created_at=turn.now.wall,
        )
        if self._memory.shortage.lasts:
            self._memory.shortage = tried(self._memory.shortage, turn.now)
        turn.loaded.jobs.setdefault(job.id, job)
        turn.step(job.id, ev.Dispatched(attempt=attempt))
        self._take_tokens(turn, job)
        return True

    def _take_tokens(self, turn: Turn, job: Job) -> None:
        """In the commit of the attempt, with the removal of buckets that are full again."""
        taken = self._memory.rates.take(job, turn.now.steady)
        if taken:
            full = self._memory.rates.forget_full(turn.now.steady)
            turn.batch.buckets |= {**taken, **dict.fromkeys(full)}

    def _log_shortages(self, turn: Turn, jobs: Sequence[QueuedJob]) -> None:
        """Log each job once that waits for a resource. Widths and rates are wanted, so these waits are not logged."""
        free = self._memory.free(turn.now.steady) if jobs else {}
        for job in jobs:
            if job.id in self._memory.short:
                continue
            lacks = {name: amount for name, amount in job.resources.items() if free.get(name, 0) < amount}
            named = sorted(name for name in lacks if "/" not in name)
            if named:
                self._memory.short.add(job.id)
                holders = {name: self._memory.holders(name)[:SHOWN_HOLDERS] for name in named}
                about = {"job": job.id, "queue": job.queue, "resources": named, "holders": holders}
                turn.effects.append(LogLine(LogEvent.RESOURCE_EXHAUSTED, about))

    def _paused(self, name: str) -> bool:
        """Whether no job of a queue starts now."""
        return self._shuts(name) or paused(self._memory.queues[name], throttled=self.throttled)

    def _shuts(self, name: str) -> bool:
        return self.closed_for(name) is not None or name in self._full()
