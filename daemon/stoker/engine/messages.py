"""What the engine's loop takes in, one class for each kind of message.

Owns the translation of messages into events for `lifecycle.step`. Each message says what must be read first
(`declare_reads`), what it decides (`apply_to`) and how it is told of a refusal (`fail`). Refuses to await and to act.
Invariant: a message that fails has changed nothing of the turn it was in.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from stoker.core.errors import AlreadyFinished
from stoker.core.job import events as ev
from stoker.core.job.dependencies import need_met
from stoker.core.job.model import Actor, Job, Outcome, OutcomeKind, Reason, RunId, State, StopReason
from stoker.core.requests import JobStanding, Verb
from stoker.engine import dependents
from stoker.engine.dependents import need_failed
from stoker.engine.host_shortage import end_shortage, note_failed_start
from stoker.engine.memory import OpenRun
from stoker.engine.timers import Alarm, Limit
from stoker.engine.turn import Turn
from stoker.executors.base import Report
from stoker.process.outcomes import cut_short
from stoker.store.instance import seen
from stoker.store.jobs import Dependent
from stoker.store.loading import Wanted


class Message:
    """One entry of the inbox: decided in one turn, with all others that arrived meanwhile."""

    def declare_reads(self, wanted: Wanted) -> None:
        """Say what must be read first; by default nothing, as running jobs and queues are in memory."""

    def apply_to(self, turn: Turn) -> Iterator[None] | None:
        """Turn the message into steps. Raises StokerError, and has changed nothing then.

        One that may be long yields between its pieces: there the event loop may be given to others.
        """
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Hear of a refusal; by default it is a bug of ours, which must not pass unseen."""
        raise error


def standing(job: Job, *, stopping: bool = False, taken_up: Sequence[int] = ()) -> JobStanding:
    """The short answer about a job."""
    return JobStanding(
        id=job.id,
        state=job.state,
        reason=job.reason,
        exit_code=job.exit_code,
        signal=job.signal,
        stopping=stopping,
        taken_up=tuple(taken_up),
    )


class VerbCommand(Message):
    """A verb of a person. A stop is answered when it is known whether it came in time."""

    def __init__(
        self,
        verb: Verb,
        job_id: int,
        event: ev.Event,
        future: asyncio.Future[JobStanding],
        await_delivery: Callable[[str, VerbCommand], None],
    ) -> None:
        self.verb = verb
        self.job_id = job_id
        self._event = event
        self._future = future
        self._await_delivery = await_delivery

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.add(self.job_id)
        if isinstance(self._event, dependents.TAKES_UP):
            wanted.skipped_behind.add(self.job_id)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        run = turn.memory.runs.get(self.job_id)
        job = dependents.take_again(turn, self.job_id, self._event)
        if run is None or job.state is not State.RUNNING:
            taken_up = yield from dependents.take_up(turn, job, self._event)
            turn.answers.append(lambda: self.answer(standing(job, taken_up=taken_up)))
        elif any(isinstance(effect, ev.Stop) and effect.run_id == run.attempt.run_id for effect in turn.effects):
            self._await_delivery(run.attempt.run_id, self)
        else:
            turn.answers.append(lambda: self.answer(standing(job, stopping=True)))

    def fail(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def answer(self, said: JobStanding) -> None:
        if not self._future.done():
            self._future.set_result(said)

    def conclude(self, job: Job, *, stopped: bool) -> None:
        """The attempt ended before anyone knew more: either the stop worked or the end came first."""
        if stopped or not job.final or job.state is State.CANCELLED:
            self.answer(standing(job))
            return
        self.fail(
            AlreadyFinished(
                f"job {job.id} had already finished when {self.verb.value} came ({job.state.value})",
                hint=f"stoker show {job.id}",
                state=job.state.value,
            )
        )


class Reports(Message):
    """Reports of executors. Facts come before limits: see `Alarms`."""

    def __init__(
        self,
        reports: Sequence[Report],
        delivered: Callable[[str, ev.Delivered], None],
        steady: Callable[[int], int],
        arm: Callable[[Job, Any, int], None],
        unknown: Callable[[str, Outcome], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._reports = reports
        self._delivered = delivered
        self._steady = steady
        self._arm = arm
        self._unknown = unknown
        self._stopping = stopping

    def apply_to(self, turn: Turn) -> None:
        for report in self._reports:
            run = turn.memory.by_run(report.run_id)
            match report.event:
                case ev.Began() as began:
                    self._began(turn, run, began)
                case ev.Ended(outcome=outcome) if run is None:
                    self._unknown(report.run_id, outcome)
                case ev.Ended(outcome=outcome) if run is not None:
                    self._ended(turn, run.job.id, outcome)
                case ev.Delivered() as delivery:
                    turn.answers.append(partial(self._delivered, report.run_id, delivery))
                case ev.Refused() | ev.Stuck() as event if run is not None:
                    turn.step(run.job.id, event)

    def _began(self, turn: Turn, run: OpenRun | None, began: ev.Began) -> None:
        if turn.memory.shortage.rounds and began.identity is not None:
            end_shortage(turn)
        if run is None:
            return
        started = self._steady(began.boot_ms)
        if run.attempt.started_at is None:  # else it was adopted, and only its limits are set again
            turn.begin(run, began, turn.now.wall - max(0, turn.now.steady - started))
        self._arm(run.job, run.attempt, started)

    def _ended(self, turn: Turn, job_id: int, outcome: Outcome) -> None:
        if self._stopping():
            outcome = cut_short(outcome)
        if outcome.kind is OutcomeKind.NEVER_STARTED and outcome.transient:
            note_failed_start(turn, outcome.error)
        # Truly random: retries of jobs that failed together must not come back together.
        turn.step(job_id, ev.Ended(outcome=outcome, luck=random.random()))  # noqa: S311 - spreads load


class Settle(Message):
    """Outcomes of attempts that are not in memory: known ones are acknowledged, unknown ones recorded."""

    def __init__(self, run_id: str, outcome: Outcome, acknowledge: Callable[[Sequence[str]], None]) -> None:
        self._run_id = run_id
        self._outcome = outcome
        self._acknowledge = acknowledge
        self._job_id = RunId.parse(run_id).job_id

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.run_ids.add(self._run_id)
        wanted.ids.add(self._job_id)

    def apply_to(self, turn: Turn) -> None:
        if turn.memory.by_run(self._run_id) is not None:
            return  # it is open after all: its end is reported, and acknowledged behind the commit of that
        if self._run_id not in turn.loaded.known_runs:
            told = {"run_id": self._run_id, "outcome": self._outcome}
            turn.record("system", self._run_id, "unknown_outcome", told)
            job = turn.find(self._job_id)
            if job is not None and job.state in (State.WAITING, State.QUEUED):
                note = f"an outcome of {self._run_id} that nobody expected"
                turn.step(job.id, ev.Hold(actor=Actor(note=note), reason=Reason.LOST))
        turn.answers.append(lambda: self._acknowledge([self._run_id]))


class AttemptsMissing(Message):
    """Jobs that were read as running without an open attempt: a person decides about them."""

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

    def __init__(self, alarms: Sequence[Alarm], warn: Callable[[str, int], None]) -> None:
        self._alarms = alarms
        self._warn = warn

    def apply_to(self, turn: Turn) -> None:
        for alarm in self._alarms:
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
                    turn.answers.append(lambda run_id=alarm.run_id, signum=signum: self._warn(run_id, signum))  # type: ignore[misc]


class DueJobs(Message):
    """Limits of jobs that do not run: the database is asked which."""

    def __init__(self, done: Callable[[Any], None]) -> None:
        self._done = done

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.due = True

    def apply_to(self, turn: Turn) -> None:
        due = turn.loaded.due
        for kind, ids in ((ev.Woke, due.woken), (ev.TtlPassed, due.expired), (ev.DeadlinePassed, due.overdue)):
            for job_id in ids:
                state = turn.job(job_id).state
                if state is State.WAITING or (state is State.QUEUED and kind is not ev.Woke):
                    turn.step(job_id, kind())
        self._done(due)


class Dependents(Message):
    """Needed jobs reached their end: those who wait for them go on, or never can.

    `after`: by needed job, the last dependent that was told already. One turn tells a bounded number of dependents.
    """

    def __init__(self, after: Mapping[int, int]) -> None:
        self._after = after

    def declare_reads(self, wanted: Wanted) -> None:
        for needed, after in self._after.items():
            wanted.dependents_of[needed] = min(after, wanted.dependents_of.get(needed, after))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for needed, after in self._after.items():
            portion = turn.loaded.dependents[needed]
            for each in portion.told:
                self._tell(turn, each)
                yield
            if portion.more:
                turn.effects.append(ev.TellDependents(needed, max(after, portion.last)))
            elif (job := turn.find(needed)) is None or job.final:  # else a retry came first: its end is waited for
                turn.memory.needed.discard(needed)

    def _tell(self, turn: Turn, each: Dependent) -> None:
        job, needed = turn.find(each.job_id), turn.find(each.needed)
        pair = (each.job_id, each.needed)
        if job is None or needed is None or not job.needs_open or job.final or not turn.still_needs(*pair):
            return
        met = need_met(each.on, needed)
        if met:
            turn.batch.needs_met.append(pair)
            turn.step(each.job_id, ev.NeedMet())
        elif met is False:  # the row of this need stays: it tells who is taken up again with the needed job
            turn.step(each.job_id, need_failed(each.on, needed))


class Flush(Message):
    """Facts that only describe have waited long enough for a commit to ride with."""

    def apply_to(self, turn: Turn) -> None:
        turn.flush = True


class ClocksSeen(Message):
    """Both clocks are noted, for the next boot to go on from."""

    def apply_to(self, turn: Turn) -> None:
        turn.batch.meta.update(seen(turn.now))


class Broken(Message):
    """Something that promises rest on has failed outside of a turn: the loop ends as if it had been a commit."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def apply_to(self, turn: Turn) -> None:  # noqa: ARG002 - whatever the turn is
        raise self._error


class Barrier(Message):
    """Nothing to decide: answered when all before it is committed."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self._done = done

    def apply_to(self, turn: Turn) -> None:
        turn.answers.append(lambda: None if self._done.done() else self._done.set_result(None))


class TurnChange(Message):
    """A change of a queue or a resource, as a function on the turn; its result is the answer."""

    def __init__(self, change: Callable[[Turn], Any], future: asyncio.Future[Any]) -> None:
        self._change = change
        self._future = future

    def fail(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def apply_to(self, turn: Turn) -> None:
        answer = self._change(turn)
        turn.answers.append(lambda: None if self._future.done() else self._future.set_result(answer))
