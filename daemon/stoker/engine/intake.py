"""The way into the queues: room for jobs, and the one place where a job becomes a row.

Owns the bounds of queues, the clients that wait for room, and the requests that have commands to check. `spec_defaults`
has the rules for their fields; `submit`, workflows, schedules and hooks bring the jobs.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from stoker.core.access import Role
from stoker.core.errors import QueueFull, StokerError
from stoker.core.job.admission import order_key
from stoker.core.job.conditions import all_open, changes_awaited
from stoker.core.job.model import Job, Need, Queue, Spec, State
from stoker.core.job.secret_values import SecretValue
from stoker.core.job.transition import submitted
from stoker.core.requests import JobWork
from stoker.core.schedule.model import Origin
from stoker.core.trace import new_trace_id, parse_traceparent
from stoker.core.units import counted
from stoker.engine import conditions
from stoker.engine.inbox import RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.turn import Turn
from stoker.store.jobs import spec_hash

RETRY_HINT_MS = 1_000
NOTHING_SEEN: Mapping[str, str] = MappingProxyType({})
T = TypeVar("T")
SecretDigest = Callable[[str, SecretValue], str]
"""A keyed digest of a secret, by its name and its value."""


def no_secrets(name: str, _value: SecretValue) -> str:
    raise AssertionError(f"secret {name} came to an intake without a key")


class CommandRequest(RequestMessage[T]):
    """A request to run commands. `problems`: the reason why each cannot be executed, once it was checked.

    `role`: that of the user who asks, on which the in-process handlers depend.
    `seen`: the present state of the paths for whose change its jobs wait, as far as known; empty where nothing is.
    """

    def __init__(
        self, commands: Sequence[JobWork], role: Role = Role.SUBMITTER, future: asyncio.Future[T] | None = None
    ) -> None:
        super().__init__(future)
        self.commands = commands
        self.role = role
        self.problems: Sequence[StokerError | None] = [None] * len(commands)
        self.seen: Mapping[str, str] = NOTHING_SEEN

    def changing(self) -> list[str]:
        """The conditions about changes: what is there now must be known before the request is posted."""
        return changes_awaited(sent.wait_for for sent in self.commands if sent.wait_for)


class Places(NamedTuple):
    """Places for jobs: in a queue, and in all queues together."""

    in_queue: int
    in_all: int

    def holds(self, wanted: Places) -> bool:
        return self.in_queue >= wanted.in_queue and self.in_all >= wanted.in_all

    def without(self, taken: Places) -> Places:
        return Places(self.in_queue - taken.in_queue, self.in_all - taken.in_all)


class Intake:
    """The parts that every submission uses, and the one place where a job becomes a row."""

    def __init__(
        self, specs: SpecDefaults, ageing_ms: int, max_queued: int, secret_digest: SecretDigest = no_secrets
    ) -> None:
        self.specs = specs
        self.secret_digest = secret_digest
        self._ageing_ms = ageing_ms
        self._max_queued = max_queued or None
        self.closed: StokerError | None = None  # why no job is accepted now
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: Python 3.11 makes a system call of it

    def new_future(self) -> asyncio.Future[Any]:
        """For the answer to a submit."""
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop.create_future()

    def use(self, specs: SpecDefaults, ageing_ms: int, max_queued: int) -> None:
        self.specs, self._ageing_ms, self._max_queued = specs, ageing_ms, max_queued or None

    def queue(self, turn: Turn, sent: JobWork) -> Queue:
        """The queue that a request names. Raises QueueNotFound."""
        name = sent.queue if isinstance(sent.queue, str) else "default"
        return turn.memory.queue(name, "queue", f"stoker queue set {name}")

    def check_room(self, turn: Turn, queue: Queue, owner_uid: int, ahead: Counter[str]) -> None:
        """Raises QueueFull or QuotaReached if a job of a user has no place.

        `ahead`: by queue, the number of jobs that are added before it.
        """
        users = turn.memory.users
        used = users.pending(owner_uid) + ahead.total()
        users.quotas.of(owner_uid).check("max_queued", owner_uid, used, queue=queue.name)
        users.check_bytes(owner_uid, "max_stored_bytes", "max_log_bytes")
        self.check_queue_room(turn, queue, ahead[queue.name])
        if self._max_queued is not None:
            total = turn.memory.total(State.QUEUED) + turn.memory.total(State.WAITING) + ahead.total()
            if total >= self._max_queued:
                raise _full("all queues together hold", total, "the limit [jobs] max_queued", self._max_queued, queue)

    def room(self, memory: LiveState, queue: Queue) -> Places:
        """The places that are free now."""
        pending, most = memory.total(State.QUEUED) + memory.total(State.WAITING), self.most_places(queue)
        return Places(max(0, most.in_queue - memory.pending(queue.name)), max(0, most.in_all - pending))

    def most_places(self, queue: Queue) -> Places:
        """The places that an empty queue has."""
        own, of_all = queue.max_queued, self._max_queued
        return Places(sys.maxsize if own is None else own, sys.maxsize if of_all is None else of_all)

    def check_queue_room(self, turn: Turn, queue: Queue, ahead: int) -> None:
        """The bound of one queue. Raises QueueFull."""
        pending = turn.memory.pending(queue.name) + ahead
        if queue.max_queued is not None and pending >= queue.max_queued:
            raise _full(f"queue {queue.name!r} holds", pending, "its limit max_queued", queue.max_queued, queue)

    def priority_ms(self, priority: int) -> int:
        """The milliseconds of waiting that a priority is worth."""
        return priority * self._ageing_ms

    def accept(
        self,
        turn: Turn,
        spec: Spec,
        owner_uid: int,
        open_needs: Sequence[Need],
        key: str | None = None,
        seen: Mapping[str, str] = NOTHING_SEEN,
        **about: Any,
    ) -> Job:
        """Store a job that has passed all checks; `about`: further fields, which its workflow or its key sets.

        `seen`: the present state of the paths of its conditions, as far as known.
        """
        now, memory = turn.now, turn.memory
        memory.last_id += 1
        if "trace_id" not in about:
            parent = parse_traceparent(spec.traceparent) if spec.traceparent else None
            about["trace_id"] = parent.trace_id if parent else drawn_trace_id()
        job = Job(
            id=memory.last_id,
            spec=spec,
            spec_hash=spec_hash(spec),
            owner_uid=owner_uid,
            state=State.WAITING,
            needs_open=len(open_needs),
            conditions_open=all_open(spec.wait_for),
            undecided=spec.run_if is not None,
            order_key=order_key(now.steady, spec.priority, self._ageing_ms),
            created_at=now.wall,
            **about,
        )
        job = submitted(job, now)
        turn.insert(job, key, open_needs)
        return conditions.begin(turn, job, seen) if job.conditions_open else job


class Seeker(NamedTuple):
    """A client that wants places for jobs of a user, or for a whole workflow."""

    wanted: Places
    owner_uid: int
    workflow: bool = False


class Rooms:
    """Clients that wait for room: in a full queue, in all queues, or within the quotas of their user.

    After a turn the first clients for which there is room are woken, in order of arrival. A woken client submits, and
    waits again if others were faster. A client that comes while there is room does not wait. One that wants many places
    is not overtaken by a later one that wants few, but one whose user is at a quota holds up no other user.
    """

    def __init__(self, memory: LiveState, intake: Intake) -> None:
        self._memory = memory
        self._intake = intake
        self._lines: dict[str, dict[asyncio.Event, Seeker]] = {}

    async def wait(self, name: str, seeker: Seeker) -> int:
        """Return once there is room, and for how many jobs. Raises QueueNotFound."""
        free = self._intake.room(self._memory, self._memory.queue(name, "name"))
        if free.holds(seeker.wanted) and self._may(seeker, 0):
            return self._places(name, seeker)
        room = asyncio.Event()
        line = self._lines.setdefault(name, {})
        line[room] = seeker
        try:
            await room.wait()
        finally:
            del line[room]
            if not line:
                self._lines.pop(name, None)
        return self._places(name, seeker)

    def _places(self, name: str, seeker: Seeker) -> int:
        of_user = self._memory.users.places(seeker.owner_uid)
        return min(*self._intake.room(self._memory, self._memory.queues[name]), of_user)

    def _may(self, seeker: Seeker, taken: int) -> bool:
        """Whether the quotas of its user admit what it wants, after those that `taken` jobs are promised to."""
        users, uid = self._memory.users, seeker.owner_uid
        most = users.quotas.of(uid).max_workflows if seeker.workflow else None
        room = most is None or self._memory.workflows.live_of(uid) < most
        return room and users.places(uid) - taken >= seeker.wanted.in_all

    def after_commit(self, _turn: Turn) -> None:
        for name, line in self._lines.items():
            free, taken = self._intake.room(self._memory, self._memory.queues[name]), Counter[int]()
            for room, seeker in line.items():
                if not free.holds(seeker.wanted):
                    break
                if self._may(seeker, taken[seeker.owner_uid]):
                    free = free.without(seeker.wanted)
                    taken[seeker.owner_uid] += seeker.wanted.in_all
                    room.set()


def drawn_trace_id() -> str:
    """The trace of a job or workflow whose client sent none."""
    # A name, no secret: os.urandom would give the GIL away for each job.
    return new_trace_id(random.randbytes(16))  # noqa: S311


def from_schedule(spec: Spec, origin: Origin | None) -> Spec:
    return spec if origin is None else replace(spec, schedule=origin.schedule, scheduled_for=origin.scheduled_for)


def _full(who: str, pending: int, limit: str, most: int, queue: Queue) -> QueueFull:
    jobs = counted(pending, "job")
    return QueueFull(
        f"{who} {jobs} not yet started, {limit} is {most}",
        hint=f"stoker queue resume {queue.name}" if queue.paused else "stoker queue shows who waits",
        retry_after_ms=RETRY_HINT_MS,
        queue=queue.name,
    )
