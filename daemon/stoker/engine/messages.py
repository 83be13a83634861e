"""The messages of the engine's loop, one class for each kind.

Each message names the rows that it needs (`declare_reads`), turns itself into events for `lifecycle.step` (`apply_to`),
and answers when it is refused (`fail`). Messages never await, and act only through the effects of their turn.
Invariant: a message that fails has changed nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.answers import JobStanding, job_standing
from stoker.core.clock import SystemClock
from stoker.core.errors import AlreadyFinished
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Job, Outcome, OutcomeKind, Reason, RunId, State, StopReason
from stoker.core.requests import Verb
from stoker.core.shortage import NO_SHORTAGE, start_failed
from stoker.engine import dependents
from stoker.engine.dependents import release_dependents
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.timers import Alarm, Limit
from stoker.engine.turn import AcknowledgeUnknown, LogLine, SettleUnknown, StopDelivered, Turn, Warn, Watch
from stoker.executors.base import Report
from stoker.process.outcomes import cut_short
from stoker.process.work_files import WorkFiles
from stoker.store.due import Due
from stoker.store.instance import seen
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent

T = TypeVar("T")


class VerbCommand(RequestMessage[JobStanding]):
    """A person's command on a job. A command that stops an attempt is answered once the stop or the end came first."""

    def __init__(self, verb: Verb, job_id: int, event: ev.Event) -> None:
        super().__init__()
        self.verb = verb
        self.job_id = job_id
        self._event = event

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.add(self.job_id)
        if isinstance(self._event, dependents.QUEUES_DEPENDENTS):
            wanted.skipped_behind.add(self.job_id)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        run = turn.memory.runs.get(self.job_id)
        job = dependents.apply_command(turn, self.job_id, self._event)
        if run is None or job.state is not State.RUNNING:
            taken_up = yield from dependents.run_dependents_again(turn, job, self._event)
            self.answer_after(turn, job_standing(job, taken_up=taken_up))
        elif any(isinstance(effect, ev.Stop) and effect.run_id == run.attempt.run_id for effect in turn.effects):
            turn.effects.append(AnswerStop(run.attempt.run_id, self))
        else:
            self.answer_after(turn, job_standing(job, stopping=True))

    def conclude(self, job: Job, *, stopped: bool) -> None:
        """Answer after the end of the attempt. `stopped`: the stop ended it; otherwise it ended first."""
        if stopped or not job.final or job.state is State.CANCELLED:
            self.answer(job_standing(job))
            return
        self.fail(
            AlreadyFinished(
                f"job {job.id} had already finished when {self.verb.value} came ({job.state.value})",
                hint=f"stoker show {job.id}",
                state=job.state.value,
            )
        )


class AnswerStop(ev.Effect, frozen=True):
    """A command that stops an attempt: its answer says whether the stop came before the end."""

    run_id: str
    command: VerbCommand


class Reports(Message):
    """Reports of executors. Facts come before limits: see `Alarms`."""

    def __init__(self, reports: Sequence[Report], clock: SystemClock, memory: LiveState) -> None:
        self._reports = reports
        self._clock = clock
        self._memory = memory
        self._needed: list[int] = []  # jobs whose dependents are released in the turn of their end

    def declare_reads(self, wanted: Wanted) -> None:
        runs = [self._memory.by_run(report.run_id) for report in self._reports if isinstance(report.event, ev.Ended)]
        self._needed = [run.job.id for run in runs if run is not None and run.job.id in self._memory.needed]
        wanted.dependents_of.update(dict.fromkeys(self._needed, 0))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for report in self._reports:
            run = turn.memory.by_run(report.run_id)
            match report.event:
                case ev.Began() as began:
                    self._began(turn, run, began)
                case ev.Ended(outcome=outcome) if run is None:
                    turn.effects.append(SettleUnknown(report.run_id, outcome))
                case ev.Ended(outcome=outcome) if run is not None:
                    self._ended(turn, run.job.id, outcome)
                case ev.Delivered(delivered=True):
                    turn.effects.append(StopDelivered(report.run_id))
                case ev.Refused() | ev.Stuck() as event if run is not None:
                    turn.step(run.job.id, event)
        for needed in self._needed:
            yield from release_dependents(turn, needed)

    def _began(self, turn: Turn, run: OpenRun | None, began: ev.Began) -> None:
        if run is not None:
            turn.memory.failed_starts.pop(run.job.id, None)
        if turn.memory.shortage.rounds and began.identity is not None:
            self._end_shortage(turn)
        if run is None:
            return
        started = self._clock.steady_from_boot(began.boot_ms)
        if run.attempt.started_at is None:  # else it was adopted, and only its limits are set again
            turn.begin(run, began, turn.now.wall - max(0, turn.now.steady - started))
        turn.effects.append(Watch(run.attempt.run_id, started))

    def _ended(self, turn: Turn, job_id: int, outcome: Outcome) -> None:
        if turn.memory.draining:
            outcome = cut_short(outcome)
        if outcome.kind is OutcomeKind.NEVER_STARTED and outcome.transient:
            self._note_failed_start(turn, job_id, outcome.error)
        # Truly random: retries of jobs that failed together must not come back together.
        luck, failed_starts = random.random(), turn.memory.failed_starts[job_id]  # noqa: S311 - spreads load
        turn.step(job_id, ev.Ended(outcome=outcome, luck=luck, failed_starts=failed_starts))

    def _note_failed_start(self, turn: Turn, job_id: int, error: str | None) -> None:
        """A start failed because the host lacked something."""
        turn.memory.failed_starts[job_id] += 1
        before = turn.memory.shortage
        turn.memory.shortage = start_failed(before, error, turn.now)
        if turn.memory.shortage.lasts and not before.lasts:
            turn.effects.append(LogLine(LogEvent.HOST_SHORTAGE, {"error": error}))

    def _end_shortage(self, turn: Turn) -> None:
        before, turn.memory.shortage = turn.memory.shortage, NO_SHORTAGE
        if before.lasts:
            turn.effects.append(LogLine(LogEvent.HOST_SHORTAGE_OVER, {"since": before.since}))


class ReportSink:
    """The sink of executors: posts what they report, in the order in which it comes.

    The files of an attempt that has ended are read here: no turn reads the disk. While the daemon has no descriptor
    left to read them, the report of that end waits.
    """

    def __init__(
        self,
        inbox: Inbox,
        memory: LiveState,
        work_files: WorkFiles,
        clock: SystemClock,
        background: BackgroundTasks,
    ) -> None:
        self._inbox = inbox
        self._memory = memory
        self._work_files = work_files
        self._clock = clock
        self._background = background

    def report(self, reports: Sequence[Report]) -> None:
        whole: list[Report] = []
        for report in reports:
            try:
                whole.append(self._with_results(report))
            except OSError:
                self._background.retry(f"outputs of {report.run_id}", partial(self._report_once_read, report))
        if whole:
            self._inbox.post(Reports(whole, self._clock, self._memory))

    async def _report_once_read(self, report: Report) -> None:
        self._inbox.post(Reports([self._with_results(report)], self._clock, self._memory))

    def _with_results(self, report: Report) -> Report:
        run = self._memory.by_run(report.run_id)
        if run is None or not isinstance(report.event, ev.Ended):
            return report
        outcome = self._work_files.with_results(report.run_id, run.job.spec, report.event.outcome)
        return Report(report.run_id, replace(report.event, outcome=outcome))


class Settle(Message):
    """The outcome of an attempt that is not in memory: acknowledged, and recorded if the attempt is unknown."""

    def __init__(self, run_id: str, outcome: Outcome) -> None:
        self._run_id = run_id
        self._outcome = outcome
        self._job_id = RunId.parse(run_id).job_id

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.run_ids.add(self._run_id)
        wanted.ids.add(self._job_id)

    def apply_to(self, turn: Turn) -> None:
        if turn.memory.by_run(self._run_id) is not None:
            return  # it is open: its executor reports the same end, which is acknowledged after that commit
        if self._run_id not in turn.loaded.known_runs:
            payload = {"run_id": self._run_id, "outcome": self._outcome}
            turn.record("system", self._run_id, "unknown_outcome", payload)
            job = turn.find(self._job_id)
            if job is not None and job.state in (State.WAITING, State.QUEUED):
                note = f"an unexpected outcome of {self._run_id}"
                turn.step(job.id, ev.Hold(actor=Actor(note=note), reason=Reason.LOST))
        turn.effects.append(AcknowledgeUnknown(self._run_id))


class AttemptsMissing(Message):
    """Hold jobs that are stored as running without an open attempt, until a person decides."""

    def __init__(self, job_ids: Sequence[int]) -> None:
        self._job_ids = job_ids

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._job_ids)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for job_id in self._job_ids:
            turn.step(job_id, ev.AttemptMissing())
            yield


class Alarms(Message):
    """Limits of running attempts that are due."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self.alarms = alarms

    def apply_to(self, turn: Turn) -> None:
        for alarm in self.alarms:
            run = turn.memory.by_run(alarm.run_id)
            if run is None or run.job.state is not State.RUNNING:
                continue
            match alarm.limit:
                case Limit.TIMEOUT:
                    turn.step(alarm.job_id, ev.StopWanted(reason=StopReason.TIMEOUT))
                case Limit.UNRESPONSIVE:
                    turn.step(alarm.job_id, ev.StopWanted(reason=StopReason.UNRESPONSIVE))
                case Limit.DEADLINE:
                    turn.step(alarm.job_id, ev.DeadlinePassed())
                case Limit.WARN:
                    signum = run.job.spec.warn_signal
                    assert signum is not None, "only a job with a warning signal has a warning alarm"
                    turn.effects.append(Warn(alarm.run_id, signum))


class DueRead(ev.Effect, frozen=True):
    """The due jobs were read: the timer is set to the time at which the next one is due."""

    due: Due


class DueJobs(Message):
    """Limits of jobs that do not run; the database has the due ones."""

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.due = True

    def apply_to(self, turn: Turn) -> None:
        due = turn.loaded.due
        for kind, ids in ((ev.Woke, due.woken), (ev.TtlPassed, due.expired), (ev.DeadlinePassed, due.overdue)):
            for job_id in ids:
                state = turn.job(job_id).state
                if state is State.WAITING or (state is State.QUEUED and kind is not ev.Woke):
                    turn.step(job_id, kind())
        turn.effects.append(DueRead(due))


class Dependents(Message):
    """Needed jobs have ended: their dependents are queued, or skipped if the need can never be met.

    `after`: by needed job, the last dependent that was already released. One turn releases a bounded number.
    """

    def __init__(self, after: Mapping[int, int]) -> None:
        self._after = after

    def declare_reads(self, wanted: Wanted) -> None:
        for needed, after in self._after.items():
            wanted.dependents_of[needed] = min(after, wanted.dependents_of.get(needed, after))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for needed in self._after:
            yield from release_dependents(turn, needed)


class Flush(Message):
    """Store the pids and start times that have waited long enough for another commit."""

    def apply_to(self, turn: Turn) -> None:
        turn.flush = True


class ClocksSeen(Message):
    """Store both clocks, from which the next boot goes on."""

    def apply_to(self, turn: Turn) -> None:
        turn.batch.meta.update(seen(turn.now))


class Noted(Message):
    """Something of the host or the daemon is recorded as a change, so that hooks and followers learn of it."""

    def __init__(self, subject: str, cause: str, payload: dict[str, Any]) -> None:
        self._subject = subject
        self._cause = cause
        self._payload = payload

    def apply_to(self, turn: Turn) -> None:
        turn.record("system", self._subject, self._cause, self._payload)


class Unresponsive(Message):
    """The heartbeat of a worker is late. That changes no state: only a change is recorded."""

    def __init__(self, run_id: str, silent_ms: int) -> None:
        self._run_id = run_id
        self._silent_ms = silent_ms

    def apply_to(self, turn: Turn) -> None:
        run = turn.memory.by_run(self._run_id)
        if run is not None and run.job.state is State.RUNNING:
            turn.note_job(run.job, "unresponsive", {"run_id": self._run_id, "silent_ms": self._silent_ms})


class Broken(Message):
    """A vital part has failed outside of a turn: the loop ends as after a failed commit."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def apply_to(self, turn: Turn) -> None:  # noqa: ARG002 - no turn can go on
        raise self._error


class TurnChange(RequestMessage[T]):
    """A change of a queue or a resource, as a function on the turn; its result is the answer."""

    def __init__(self, change: Callable[[Turn], T]) -> None:
        super().__init__()
        self._change = change

    def apply_to(self, turn: Turn) -> None:
        self.answer_after(turn, self._change(turn))
