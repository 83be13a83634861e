"""The overflow of queues: while a queue has more than this host can start soon, jobs of it go to a queue of a cluster.

Owns when is looked for jobs that may go. `core.overflow` decides how many go and which ones stay; they go by the same
road as an edit of a person. It is no timer of its own, and reads nothing while no queue has too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.job.model import Actor, Job, State
from stoker.core.overflow import OverflowRule, QueueLoadNow, Surplus, surplus, why_it_stays
from stoker.core.requests import JobChanges
from stoker.engine.commands import edit_job
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.inbox import Inbox, RequestMessage
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.turn import LogLine, Turn
from stoker.store import overflow as overflow_rows
from stoker.store.loading import Wanted
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent

AT_ONCE = 200  # jobs that go in one turn: each is a step, and turns must be short
MOST_LOOKED_AT = 4_096  # queued jobs of one user, to find some that may go
AGAIN_MS = 10_000  # after none was found: the jobs that stay are not read each second


class Overflow:
    """`tick` comes after that of the throttle."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        memory: LiveState,
        dispatcher: Dispatcher,
        intake: Intake,
        inbox: Inbox,
        reader: Reader,
        background: BackgroundTasks,
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._dispatcher = dispatcher
        self._intake = intake
        self._inbox = inbox
        self._reader = reader
        self._background = background
        self._due: dict[str, int] = {}
        self.use(config)

    def use(self, config: Config) -> None:
        self.rules: Mapping[str, OverflowRule] = config.overflows
        self._due.clear()

    def tick(self) -> None:
        for source in self.rules:
            name = f"overflow of queue {source}"
            due = self._clock.now().steady >= self._due.get(source, 0)
            if due and self.surplus(source) is not None and not self._background.is_running(name):
                self._background.retry(name, partial(self._hand_over, source))

    def surplus(self, source: str) -> Surplus | None:
        """The jobs of a queue that go now; None while the cluster does not answer, or starts no jobs."""
        rule = self.rules.get(source)
        if rule is None or not self._dispatcher.may_start_in(rule.to):
            return None
        queues = (self._load(source), self._load(rule.to))
        return surplus(rule, *queues, throttled=self._dispatcher.throttled)

    def _load(self, name: str) -> QueueLoadNow:
        memory = self._memory
        queued, pending = memory.counts[name, State.QUEUED], memory.pending(name)
        return QueueLoadNow(memory.queues[name], queued, memory.running[name], pending)

    async def _hand_over(self, source: str) -> None:
        """Find jobs that may go, as many of each user, and let a turn move them."""
        now = self._surplus_for_one_turn(source)
        users = list(self._memory.ready[source].lines)
        jobs: list[int] = []
        for number, uid in enumerate(users):
            share = -(-(now - len(jobs)) // (len(users) - number))
            asked = (source, uid, self._may_go, share, MOST_LOOKED_AT)
            jobs += await self._reader.run(overflow_rows.unmoved, *asked)
        if jobs:
            await self._inbox.ask(HandOver(self, self._intake, source, jobs))
        else:
            self._due[source] = self._clock.now().steady + AGAIN_MS

    def _surplus_for_one_turn(self, source: str) -> int:
        now = self.surplus(source)
        return 0 if now is None else min(now.jobs, AT_ONCE)

    def _may_go(self, job: Job) -> bool:
        """In a thread of the reader. Steps of a workflow that is paused stay."""
        barred = job.workflow_id is not None and job.workflow_id in self._memory.workflows.barred
        return not barred and why_it_stays(job.spec, moved=False) is None


class HandOver(RequestMessage[None]):
    """Queued jobs go to the queue of a cluster, as long as the queue has too many. One that cannot go stays."""

    def __init__(self, overflow: Overflow, intake: Intake, source: str, jobs: list[int]) -> None:
        super().__init__()
        self._overflow = overflow
        self._intake = intake
        self._source = source
        self._jobs = jobs

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._jobs)

    def apply_to(self, turn: Turn) -> None:
        rule = self._overflow.rules.get(self._source)
        moved: list[int] = []
        for job_id in self._jobs:
            now, job = self._overflow.surplus(self._source), turn.find(job_id)
            if rule is None or now is None:
                break
            if job is None or job.state is not State.QUEUED or job.spec.queue != self._source:
                continue
            actor = Actor(note=f"overflow of queue {self._source}: {now.cause}")
            try:
                edit_job(turn, self._intake, job, JobChanges(queue=rule.to), actor)
            except StokerError:  # it stays, and `stoker why` says for which reason
                continue
            moved.append(job_id)
        if rule is not None and moved:
            about = {"queue": self._source, "to": rule.to, "jobs": len(moved), "first_job": moved[0]}
            turn.effects.append(LogLine(LogEvent.QUEUE_OVERFLOWED, about))
        self.answer_after(turn, None)
