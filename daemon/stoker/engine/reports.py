"""The reports of executors: messages about the begin and the end of attempts, and the way from an executor to them.

Invariants: facts come before limits (see `Alarms`); the files of an attempt that has ended are read before its report
is posted, so no turn reads the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import SystemClock
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Outcome, OutcomeKind, Reason, State
from stoker.core.job.run_id import RunId
from stoker.core.shortage import NO_SHORTAGE, start_failed
from stoker.engine.dependents import release_dependents
from stoker.engine.end_pace import EndPace
from stoker.engine.inbox import Inbox, Message, PostMessage
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.step_files import StepEnd, StepFiles
from stoker.engine.turn import AcknowledgeUnknown, LogLine, StopDelivered, Turn, Watch
from stoker.executors.base import Report
from stoker.process.outcomes import cut_short
from stoker.process.work_files import WorkFiles
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent

# Nothing is decided when a worker begins: most short jobs end before a turn would have taken note of it.
BEGAN_PATIENCE_S = 0.005


class Reports(Message):
    """Reports of executors."""

    def __init__(
        self, reports: Sequence[Report], clock: SystemClock, memory: LiveState, pace: EndPace, at_s: float
    ) -> None:
        self._reports = reports
        self._clock = clock
        self._memory = memory
        self._pace = pace
        self._needed: list[int] = []  # jobs whose dependents are released in the turn of their end
        self._ends = sum(isinstance(report.event, ev.Ended) for report in reports)
        if self._ends:
            pace.note(self._ends, at_s)
        if all(isinstance(report.event, ev.Began | ev.Ended) for report in reports):
            self.patience_s = pace.patience_s if self._ends else BEGAN_PATIENCE_S

    def declare_reads(self, wanted: Wanted) -> None:
        runs = [self._memory.by_run(report.run_id) for report in self._reports if isinstance(report.event, ev.Ended)]
        self._needed = [run.job.id for run in runs if run is not None and run.job.id in self._memory.needed]
        wanted.dependents_of.update(dict.fromkeys(self._needed, 0))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        self._pace.take(self._ends)
        for report in self._reports:
            run = turn.memory.by_run(report.run_id)
            match report.event:
                case ev.Began() as began:
                    self._began(turn, run, began)
                case ev.Ended(outcome=outcome) if run is None:
                    turn.effects.append(PostMessage(Settle(report.run_id, outcome)))
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

    While the daemon has no descriptor left to read the files of an attempt that has ended, the report of that end
    waits.
    """

    def __init__(
        self,
        inbox: Inbox,
        memory: LiveState,
        work_files: WorkFiles,
        clock: SystemClock,
        background: BackgroundTasks,
        step_files: StepFiles,
    ) -> None:
        self._inbox = inbox
        self._memory = memory
        self._work_files = work_files
        self._clock = clock
        self._background = background
        self._step_files = step_files
        self._pace = EndPace(memory.runs)
        self._loop = asyncio.get_running_loop()

    def report(self, reports: Sequence[Report]) -> None:
        whole: list[Report] = []
        there = self._work_files.names(sum(isinstance(report.event, ev.Ended) for report in reports))
        for report in reports:
            if self._looks_at_files(report):
                self._background.retry(f"files of {report.run_id}", partial(self._report_with_files, report))
                continue
            try:
                whole.append(self._with_results(report, there))
            except OSError:
                self._background.retry(f"outputs of {report.run_id}", partial(self._report_once_read, report))
        if whole:
            self._post(whole)

    def _looks_at_files(self, report: Report) -> bool:
        run = self._memory.by_run(report.run_id)
        return (
            run is not None
            and isinstance(report.event, ev.Ended)
            and StepEnd(run.job.spec, report.event.outcome).has_files
        )

    async def _report_with_files(self, report: Report) -> None:
        whole, run = self._with_results(report), self._memory.by_run(report.run_id)
        if run is not None and isinstance(whole.event, ev.Ended):
            outcomes = await self._step_files.at_ends({report.run_id: StepEnd(run.job.spec, whole.event.outcome)})
            whole = Report(report.run_id, replace(whole.event, outcome=outcomes[report.run_id]))
        self._post([whole])

    async def _report_once_read(self, report: Report) -> None:
        self._post([self._with_results(report)])

    def _post(self, reports: Sequence[Report]) -> None:
        self._inbox.post(Reports(reports, self._clock, self._memory, self._pace, self._loop.time()))

    def _with_results(self, report: Report, there: Collection[str] | None = None) -> Report:
        run = self._memory.by_run(report.run_id)
        if run is None or not isinstance(report.event, ev.Ended):
            return report
        outcome = self._work_files.with_results(report.run_id, run.job.spec, report.event.outcome, there)
        return Report(report.run_id, replace(report.event, outcome=outcome))


class Settle(Message):
    """The outcome of an attempt that is not in memory: acknowledged, and recorded if the attempt is unknown."""

    def __init__(self, run_id: str, outcome: Outcome) -> None:
        self._run_id = run_id
        self._outcome = outcome
        name = RunId.parse(run_id)
        self._job_id, self._uid = name.job_id, name.uid

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
            # A launcher of another user may have made this run up: it may say nothing of the jobs of others.
            theirs = job is None or self._uid not in (None, job.owner_uid)
            if job is not None and not theirs and job.state in (State.WAITING, State.QUEUED):
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
