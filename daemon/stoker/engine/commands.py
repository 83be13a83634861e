"""Commands of clients on a job, and the edit of a job.

Owns the commands that wait until it is known whether their stop came before the end of the attempt; and the way from an
edit to the new spec, with the same checks that a submit makes. The lifecycle refuses an edit while an attempt is open.
A job that moves to another queue keeps its values: defaults of the new queue do not apply. It runs where that queue
says, on this host or on the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from stoker.core.answers import EditedJob, JobStanding, job_standing
from stoker.core.errors import AlreadyFinished, CorruptRecord
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Job, Spec, State
from stoker.core.job.spec_rules import NOT_ON_A_CLUSTER, contradictions
from stoker.core.requests import JobChanges, Verb
from stoker.engine import dependents
from stoker.engine.change_log import edited_fields
from stoker.engine.inbox import RequestMessage
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.rewiring import wait_for_new_ends
from stoker.engine.spec_defaults import problems
from stoker.engine.turn import Transition, Turn
from stoker.store.jobs import is_damaged
from stoker.store.loading import Wanted

PATIENCE_S = 3.0  # for the first signal of a stop
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
        dependents.check_handlers(turn, self.job_id, self._event)
        before = turn.job(self.job_id)
        job = dependents.apply_command(turn, self.job_id, self._event)
        if run is None or job.state is not State.RUNNING:
            taken_up = yield from dependents.run_dependents_again(turn, job, self._event)
            yield from self._make_steps_wait(turn, before, job, taken_up)
            self.answer_after(turn, job_standing(job, taken_up=taken_up))
        elif any(isinstance(effect, ev.Stop) and effect.run_id == run.attempt.run_id for effect in turn.effects):
            turn.effects.append(AnswerStop(run.attempt.run_id, self))
        else:
            self.answer_after(turn, job_standing(job, stopping=True))

    def _make_steps_wait(self, turn: Turn, before: Job, job: Job, taken_up: Collection[int]) -> Iterator[None]:
        """For jobs of a workflow that had ended and run again, and whose ends had counted."""
        if job.workflow_id is not None:
            run = turn.memory.workflows.runs[job.workflow_id]
            ended = [*taken_up, job.id] if before.final and not job.final else taken_up
            yield from wait_for_new_ends(turn, run, ended, {job.id, *taken_up}, self._event.actor)

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


class PendingStops:
    """The commands that stop an attempt and wait to learn whether the stop came before its end."""

    def __init__(self, memory: LiveState) -> None:
        self._memory = memory
        self._waiting: dict[str, list[VerbCommand]] = {}  # by run

    def add(self, asked: Iterable[AnswerStop]) -> None:
        for effect in asked:
            self._waiting.setdefault(effect.run_id, []).append(effect.command)

    def sent(self, run_id: str) -> None:
        """The stop is on its way. A launcher that does not answer must not keep a client waiting."""
        if run_id in self._waiting:
            asyncio.get_running_loop().call_later(PATIENCE_S, self.answer, [run_id])

    def answer(self, run_ids: Iterable[str]) -> None:
        """The first signal came before the end; or it is not known, but the stop is on disk and will be carried out."""
        for run_id in run_ids:
            run = self._memory.by_run(run_id)
            if run is not None:
                for command in self._waiting.pop(run_id, ()):
                    command.answer(job_standing(run.job, stopping=run.job.state is State.RUNNING))

    def conclude(self, transitions: Iterable[Transition]) -> None:
        """Answer the commands of attempts that have ended: did the stop work?"""
        for transition in transitions if self._waiting else ():
            attempt = transition.attempt
            if attempt is not None and attempt.outcome is not None:
                for command in self._waiting.pop(attempt.run_id, ()):
                    command.conclude(transition.job, stopped=attempt.outcome.stopped)


class Editing(RequestMessage[JobStanding]):
    def __init__(self, intake: Intake, job_id: int, wanted: JobChanges, actor: Actor) -> None:
        super().__init__()
        self._intake = intake
        self._job_id = job_id
        self._wanted = wanted
        self._actor = actor

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.add(self._job_id)

    def apply_to(self, turn: Turn) -> None:
        job = turn.job(self._job_id)
        edited = edit_job(turn, self._intake, job, self._wanted, self._actor)
        answer = EditedJob(**msgspec.structs.asdict(job_standing(edited)), changed=edited_fields(job.spec, edited.spec))
        self.answer_after(turn, answer)


def edit_job(turn: Turn, intake: Intake, job: Job, wanted: JobChanges, actor: Actor) -> Job:
    """The job with its changes. Raises StokerError before anything is changed."""
    if is_damaged(job):
        problem = f"job {job.id} cannot be edited: its row in the database does not match its checksum"
        raise CorruptRecord(problem, hint="stoker doctor says what else is damaged")
    changes = _changes(job.spec, wanted)
    if "queue" in changes:
        changes["execution_mode"] = intake.specs.mode_in(changes["queue"], job.spec.execution_mode)
    _check(turn, intake, job, changes)
    priority = changes.get("priority", job.spec.priority)
    moved_ms = intake.priority_ms(job.spec.priority) - intake.priority_ms(priority)
    return turn.step(job.id, ev.Edit(actor=actor, changes=changes, moved_ms=moved_ms))


def _check(turn: Turn, intake: Intake, job: Job, changes: dict[str, Any]) -> None:
    """Check the changed fields as a submit would. Raises InvalidParams, QueueNotFound or QueueFull."""
    spec = replace(job.spec, **changes)
    if spec.queue != job.spec.queue:
        intake.check_queue_room(turn, turn.memory.queue(spec.queue, "queue", f"stoker queue set {spec.queue}"), 0)
    moves = "queue" in changes
    given = {*changes, *NOT_ON_A_CLUSTER} if moves else changes
    for problem in chain(intake.specs.wrong_place(spec) if moves else (), contradictions(spec, given)):
        raise problem
    for error in problems(spec, turn.now, turn.memory):
        if error.details.get("path") in changes:
            raise error


def _changes(spec: Spec, wanted: JobChanges) -> dict[str, Any]:
    """The given fields of the spec with their new values; limits that were not given stay."""
    changes = {name: value for name in wanted.__struct_fields__ if (value := getattr(wanted, name)) is not UNSET}
    if "limits" in changes:
        limits = msgspec.structs.asdict(changes["limits"])
        changes["limits"] = replace(
            spec.limits, **{name: value for name, value in limits.items() if value is not UNSET}
        )
    return changes
