"""The memory of the engine: open attempts, the front of every queue, and counts of live jobs.

Owns the copy of running jobs from which decisions are made; it is read from the database at a start. Invariant: the use
of a resource is the sum over open attempts, whatever the states of their jobs: there is no separate counter that could
go wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import QueueNotFound
from stoker.core.job import conditions
from stoker.core.job.admission import AdmissionLine, AdmissionQueue, Share, contenders
from stoker.core.job.model import FINAL, Attempt, Job, Queue, QueueClass, Resource, State
from stoker.core.rate import KEY_PREFIX, QUEUE_PREFIX
from stoker.core.retention import StillNeeded
from stoker.core.shortage import NO_SHORTAGE
from stoker.core.similar_names import did_you_mean
from stoker.core.throttle import Narrowing
from stoker.core.workflow.checkpoint import Head
from stoker.engine.memory.free_resources import FreeResources, RealCapacities
from stoker.engine.memory.rates import LiveRates
from stoker.engine.memory.ready_queue import ReadyQueue
from stoker.engine.memory.schedules import LiveSchedules
from stoker.engine.memory.users import LiveUsers
from stoker.engine.memory.workflows import LiveWorkflows
from stoker.store.snapshot import Snapshot

STARTING = (State.WAITING, State.QUEUED, State.RUNNING)
AWAITING = (State.WAITING, State.HELD)
COUNTED = (State.WAITING, State.QUEUED, State.HELD)
MOST_QUEUES_NAMED = 20  # in a message


class OpenRun(Struct):
    job: Job
    attempt: Attempt

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields of each log line about it."""
        return {
            "job": self.job.id,
            "attempt": self.attempt.ordinal,
            "queue": self.job.spec.queue,
            "trace_id": self.job.trace_id,
        }


class WorkerStatus(Struct):
    """The newest report of the worker of an open attempt; `unresponsive`: its heartbeat is late."""

    progress: int | None = None
    status: str | None = None
    last_heartbeat: int | None = None
    ready: bool = False
    unresponsive: bool = False
    ignored: int = 0


class Freezes:
    """How long each running attempt was frozen: limits on the run time do not count that time.

    The executor does the freezing. Nothing is stored: for an attempt of an earlier daemon the count begins at zero.
    """

    def __init__(self) -> None:
        self._since: dict[str, int] = {}  # by run, the begin of its freeze (steady)
        self._before: Counter[str] = Counter()  # milliseconds of earlier freezes

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._since

    def run_ids(self) -> list[str]:
        """The attempts that are frozen now."""
        return list(self._since)

    def freeze(self, run_ids: Iterable[str], at: int) -> None:
        for run_id in run_ids:
            self._since.setdefault(run_id, at)

    def thaw(self, run_ids: Iterable[str], at: int) -> None:
        for run_id in run_ids:
            if run_id in self._since:
                self._before[run_id] += at - self._since.pop(run_id)

    def frozen_ms(self, run_id: str, at: int) -> int:
        """The frozen time in all, until `at`."""
        return self._before[run_id] + (at - self._since.get(run_id, at))

    def forget(self, run_id: str) -> None:
        self._since.pop(run_id, None)
        self._before.pop(run_id, None)


class LiveState:
    """Memory of the engine, kept equal to the committed rows by `enter`."""

    def __init__(self, queues: dict[str, Queue], resources: dict[str, Resource], last_id: int, last_seq: int) -> None:
        self.queues = queues
        self.resources = resources
        self.last_id = last_id
        self.last_seq = last_seq
        self.committed_seq = last_seq
        self.runs: dict[int, OpenRun] = {}
        self.jobs_by_run: dict[str, int] = {}
        self.ready: dict[str, ReadyQueue] = {}
        for name in queues:
            self.ready[name] = ReadyQueue(self.ready)
        self.counts: Counter[tuple[str, State]] = Counter()  # of jobs that are live and do not run
        self.running: Counter[str] = Counter()
        self.users = LiveUsers()
        self.served: Counter[str] = Counter()  # turns of each queue; one that was idle joins at the present turn
        self._turn = 0
        self.used: Counter[str] = Counter()
        self.freed: set[str] = set()  # resources that have more free than when jobs were last started
        self.described: dict[str, int] = {}  # runs with a pid or start that is not stored yet, since when (steady)
        self.steady_noted = 0  # when both clocks were last stored (steady)
        self.needed: set[int] = set()  # jobs that a waiting job still needs
        self.awaited: Counter[str] = Counter()  # waiting and held jobs, by open condition about a file or the host
        self.holding: frozenset[str] = frozenset()  # the conditions about the host that hold now
        self.ends_awaited: set[str] = set()  # conditions about the ends of jobs and workflows that are open
        self.workflows = LiveWorkflows(self.freed)
        self.schedules = LiveSchedules()
        self.rates = LiveRates(queues)
        self.named_needs: StillNeeded | None = None  # while retention works: needs of jobs that were opened meanwhile
        self.worker_status: dict[str, WorkerStatus] = {}  # by run with a socket for reports; not stored
        self.saved: dict[str, int] = {}  # runs that saved a checkpoint, when last (steady)
        self.heads: dict[str, Head] = {}  # of those outside a workflow: the end of their job's chain
        self.shortage = NO_SHORTAGE
        self.failed_starts: Counter[int] = Counter()  # in a row, by job that waits for the host; not stored
        self.draining = False  # the service is stopping
        self.frozen = Freezes()
        self.narrowed: dict[str, Narrowing] = {}  # queues with a floor, while the host is or was under pressure
        self.short: set[int] = set()  # queued jobs for which the lack of a resource was logged

    def queue(self, name: str, path: str, hint: str = "stoker queue ls") -> Queue:
        """The queue that a request names at `path`; `hint` is shown if no existing name is similar.

        Raises QueueNotFound.
        """
        queue = self.queues.get(name)
        if queue is None:
            hint = did_you_mean(name, self.queues) or hint
            raise QueueNotFound(f"{path}: there is no queue {name!r}{self._queue_names()}", hint=hint, path=path)
        return queue

    def _queue_names(self) -> str:
        """The names, if there are few enough to read."""
        return f" (there are: {', '.join(sorted(self.queues))})" if len(self.queues) <= MOST_QUEUES_NAMED else ""

    def by_run(self, run_id: str) -> OpenRun | None:
        job_id = self.jobs_by_run.get(run_id)
        return None if job_id is None else self.runs[job_id]

    def enter(self, before: Job | None, job: Job, attempt: Attempt | None) -> None:
        """Take over the job after a step and, if the step changed it, its attempt."""
        if before is not None:
            self._count(before, -1)
            if before.state is State.QUEUED:
                self.ready[before.spec.queue].remove(before)
                self.short.discard(job.id)
        if job.state not in STARTING:
            self.failed_starts.pop(job.id, None)
        self._count(job, 1)
        self._await(before, job)
        if self.named_needs is not None and job.state not in FINAL:
            self.named_needs.add(job.spec.needs, job.spec.wait_for)
        if job.state is State.QUEUED:
            self.ready[job.spec.queue].add(job, startable=job.workflow_id not in self.workflows.barred)
        if attempt is not None:
            self._enter_attempt(job, attempt)
        elif job.id in self.runs:
            self.runs[job.id].job = job

    def _count(self, job: Job, step: int) -> None:
        if job.state in COUNTED:
            self.counts[job.spec.queue, job.state] += step
            self.users.counts[job.owner_uid, job.state] += step

    def _await(self, before: Job | None, job: Job) -> None:
        """Count the conditions that must be watched."""
        if before is not None and before.conditions_open:
            self.awaited.subtract(awaited(before))
        if job.conditions_open:
            self.awaited.update(awaited(job))
        if before is not None and before.conditions_open:
            for text in awaited(before):
                if not self.awaited[text]:
                    del self.awaited[text]

    def _enter_attempt(self, job: Job, attempt: Attempt) -> None:
        run = self.runs.get(job.id)
        if not attempt.open:
            if run is not None:
                self._forget(run)
        elif run is not None and run.attempt.run_id == attempt.run_id:
            run.job, run.attempt = job, attempt
        else:
            self.open(job, attempt)

    def open(self, job: Job, attempt: Attempt) -> None:
        """Remember an open attempt: it takes a slot and its resources."""
        self.runs[job.id] = OpenRun(job, attempt)
        self.jobs_by_run[attempt.run_id] = job.id
        self.running[job.spec.queue] += 1
        self._serve(job.spec.queue)
        self.users.opened(job.spec.queue, job.owner_uid)
        self.used.update(job.spec.resources)

    def _serve(self, queue: str) -> None:
        """A queue that was idle joins at the present turn: it does not catch up on turns that it did not use."""
        self._turn = max(self._turn, self.served[queue])
        self.served[queue] = self._turn + 1

    def _forget(self, run: OpenRun) -> None:
        del self.runs[run.job.id]
        del self.jobs_by_run[run.attempt.run_id]
        self.saved.pop(run.attempt.run_id, None)
        self.frozen.forget(run.attempt.run_id)
        self.heads.pop(run.attempt.run_id, None)
        self.running[run.job.spec.queue] -= 1
        self.users.ended(run.job.spec.queue, run.job.owner_uid)
        self._give_back(run.job.spec.resources)

    def _give_back(self, resources: Mapping[str, int]) -> None:
        """Each workflow with a width has a name of its own, so names that are not in use are not kept."""
        self.used.subtract(resources)
        for name in resources:
            if not self.used[name]:
                del self.used[name]
        self.freed.update(resources)

    def add_queue(self, queue: Queue) -> None:
        """A queue was made or changed."""
        self.queues[queue.name] = queue
        if queue.name not in self.ready:
            self.ready[queue.name] = ReadyQueue(self.ready)

    def load_counts(self, rows: Iterable[tuple[str, int, str, str | None, int]]) -> None:
        """Start from the counts of the database; the front of a queue is read when it is first used."""
        for queue, owner_uid, state, demand, number in rows:
            self.counts[queue, State(state)] += number
            self.users.counts[owner_uid, State(state)] += number
            if state == State.QUEUED:
                self.ready[queue].count_in(owner_uid, demand, number)

    def pending(self, queue: str) -> int:
        """Jobs of a queue that have not started: waiting and queued."""
        return self.counts[queue, State.QUEUED] + self.counts[queue, State.WAITING]

    def total(self, state: State) -> int:
        """Waiting, queued or held jobs, over all queues."""
        return sum(number for (_, counted), number in self.counts.items() if counted is state)

    def admission_queues(self, names: Iterable[str], slots: int, now_ms: int) -> list[AdmissionQueue]:
        """Those of these queues from which `slots` jobs may come, in the form that admission takes."""
        for ready in self.ready.values() if self.freed else ():
            ready.freed(self.freed)
        self.freed.clear()
        return [self._admission_queue(name, slots, now_ms) for name in self._contenders(names, slots)]

    def _contenders(self, names: Iterable[str], slots: int) -> Iterator[str]:
        """The names, without most of those in which nothing can lack but slots: there may be thousands of queues."""
        shares: defaultdict[QueueClass, list[Share]] = defaultdict(list)
        for name in names:
            queue, ready = self.queues[name], self.ready[name]
            if not ready.lines or queue.paused:
                continue
            whole = queue.rate is not None or name in self.narrowed or self.users.quotas.bound_running
            if whole or not ready.asks_for_nothing:
                yield name
            elif queue.max_running is None or self.running[name] < queue.max_running:
                shares[queue.queue_class].append((self.running[name], self.served[name], name))
        yield from contenders(shares, slots)

    def _admission_queue(self, name: str, slots: int, now_ms: int) -> AdmissionQueue:
        free, capacity = self.free(now_ms), self.real_capacities()
        lines = [
            AdmissionLine(
                groups=line.groups(free),
                front=line.front,
                blocked=line.blocked(free, capacity),
                owner_uid=owner_uid,
                running=self.users.running_in[name, owner_uid],
                served=self.users.served[name, owner_uid],
            )
            for owner_uid, line in self.users.contenders(name, self.ready[name].lines, slots)
        ]
        return AdmissionQueue(
            queue=self._narrowed(self.queues[name]),
            lines=lines,
            running=self.running[name],
            tokens=self.rates.tokens(f"{QUEUE_PREFIX}{name}", now_ms),
            served=self.served[name],
        )

    def _narrowed(self, queue: Queue) -> Queue:
        """The queue with the limit that applies under pressure."""
        narrowing = self.narrowed.get(queue.name)
        if narrowing is None:
            return queue
        most = narrowing.limit if queue.max_running is None else min(queue.max_running, narrowing.limit)
        return replace(queue, max_running=most)

    def pass_over(self, queue: AdmissionQueue, now_ms: int) -> None:
        """Note what the jobs lack that admission has passed over, and when they may get a token."""
        ready = self.ready[queue.queue.name]
        for line, job, lacks in queue.short:
            ready.lines[line.owner_uid].pass_over(job, lacks)
            if lacks.startswith(KEY_PREFIX):
                self.rates.await_token(lacks, now_ms)
        if queue.out_of_tokens and ready.lines:
            self.rates.await_token(f"{QUEUE_PREFIX}{queue.queue.name}", now_ms)

    def set_resource(self, resource: Resource) -> None:
        """A resource was made, or its capacity changed."""
        self.resources[resource.name] = resource
        self.freed.add(resource.name)

    def real_capacities(self) -> Mapping[str, int]:
        """The capacity of each resource that a person has made."""
        return RealCapacities(self.resources)

    def free(self, now_ms: int) -> Mapping[str, int]:
        """The free amount of each resource and of the width of each group of steps, and the tokens of each key."""
        return FreeResources(self.resources, self.used, self.workflows, self.rates, now_ms)

    def capacities(self) -> dict[str, int]:
        """The capacity of each resource, and the width of each group of steps."""
        return {**self.real_capacities(), **self.workflows.widths}

    def holders(self, name: str) -> list[int]:
        """Ids of the jobs whose open attempts hold some of a resource."""
        return sorted(run.job.id for run in self.runs.values() if name in run.job.spec.resources)


def awaited(job: Job) -> list[str]:
    """The open conditions of a job about files and the host, while it may still run."""
    return conditions.awaited(job.spec.wait_for, job.conditions_open) if job.state in AWAITING else []


def memory_of(snapshot: Snapshot) -> LiveState:
    """The memory of an engine that begins on these rows."""
    memory = LiveState(snapshot.queues, snapshot.resources, snapshot.last_id, snapshot.last_seq)
    memory.load_counts(snapshot.counts)
    memory.needed = snapshot.needed
    memory.awaited.update(snapshot.awaited)
    memory.ends_awaited = snapshot.ends_awaited
    for schedule in snapshot.schedules.values():
        memory.schedules.set(schedule)
    memory.rates.of_keys = snapshot.rates
    memory.rates.load(snapshot.buckets)
    memory.workflows.last_id, memory.workflows.last_checkpoint = snapshot.last_workflow, snapshot.last_checkpoint
    for workflow in snapshot.workflows:
        memory.workflows.load(workflow, snapshot.chain_heads)
    for job, attempt in snapshot.runs:
        memory.open(job, attempt)
        if job.workflow_id in memory.workflows.runs:
            run = memory.workflows.runs[job.workflow_id]
            run.enter(job, live=True)  # the resources that it holds are not in the row of its workflow
    return memory
