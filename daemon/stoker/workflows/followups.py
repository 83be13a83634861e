"""The follow-ups of a workflow, decided once certain steps of it have ended, after the commit of the last end.

They are the second half of a rollback, a cancel or an abort, the end of the other steps of a group that fails fast, and
the decision which handlers run. Workflows are checked after each turn, and at a start, as an earlier daemon may have
died before. Invariants: a workflow has one follow-up at a time; a second one changes nothing; every command that needs
a second half gets it; a handler runs, or is skipped, only after all steps before it have ended.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import partial

from stoker.background.tasks import BackgroundTasks
from stoker.core.job import events as ev
from stoker.core.job.model import NeedOn, Reason, State
from stoker.core.workflow.handlers import applies
from stoker.core.workflow.state import ENDING, Intent
from stoker.core.workflow.step_names import outer_of
from stoker.engine.dependents import meet_need
from stoker.engine.inbox import Inbox, Message
from stoker.engine.memory import LiveState
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted
from stoker.store.reader import Reader
from stoker.workflows import rollback


class FollowUp(Message):
    """One decision about a whole workflow, if it is still due."""

    def __init__(self, run: LiveWorkflow) -> None:
        self._workflow_id = run.workflow.id

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.workflows.add(self._workflow_id)

    def apply_to(self, turn: Turn) -> Generator[None]:
        run = turn.memory.workflows.runs.get(self._workflow_id)
        if run is not None and self.is_due(turn.memory, run):
            yield from self.decide(turn, run)

    @staticmethod
    def is_due(memory: LiveState, run: LiveWorkflow) -> bool:
        raise NotImplementedError

    def decide(self, turn: Turn, run: LiveWorkflow) -> Generator[None]:
        raise NotImplementedError


class EndSteps(FollowUp):
    """End the steps of an aborted workflow; of a cancelled one those that were stopped for another reason before."""

    @staticmethod
    def is_due(memory: LiveState, run: LiveWorkflow) -> bool:
        return run.workflow.intent in ENDING and any(not _stops(memory, job_id) for job_id in run.to_end())

    def decide(self, turn: Turn, run: LiveWorkflow) -> Generator[None]:
        event = ev.Cancel() if run.workflow.intent is Intent.CANCEL else ev.Aborted()
        for job_id in run.to_end():
            if not _stops(turn.memory, job_id):
                turn.step(job_id, event)
                yield


class CutShort(FollowUp):
    """End the open steps of groups of which one has failed (`fail_fast`), and of nested workflows at their limit."""

    @staticmethod
    def is_due(_memory: LiveState, run: LiveWorkflow) -> bool:
        return run.workflow.intent is not Intent.ROLLBACK and bool(run.cut)

    def decide(self, turn: Turn, run: LiveWorkflow) -> Generator[None]:
        for job_id in run.to_cut():
            if not _stops(turn.memory, job_id):
                turn.step(job_id, ev.Aborted())
                yield
        turn.memory.workflows.cut(run, ())
        turn.batch.workflows[run.workflow.id] = run.workflow


def _stops(memory: LiveState, job_id: int) -> bool:
    """Whether an attempt is being stopped, or may live without a proof, so that it gets no signal."""
    run = memory.runs.get(job_id)
    return run is not None and (run.job.state is State.HELD or run.attempt.stop_reason is not None)


class Handlers(FollowUp):
    """Let the handlers begin that apply to the ends of the steps before them, and skip the others."""

    def __init__(self, run: LiveWorkflow) -> None:
        super().__init__(run)
        self._jobs = frozenset(run.due_gates())

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._jobs)  # a later message decides about those that are due meanwhile

    @staticmethod
    def is_due(_memory: LiveState, run: LiveWorkflow) -> bool:
        return run.workflow.intent is not Intent.ROLLBACK and bool(run.due_gates())

    def decide(self, turn: Turn, run: LiveWorkflow) -> Generator[None]:
        cancelled = run.workflow.intent is Intent.CANCEL
        due = sorted(self._jobs.intersection(run.due_gates()))
        failed = {outer: run.has_failed(outer) for outer in {outer_of(run.steps[job_id].name) for job_id in due}}
        for job_id in due:
            step = run.steps[job_id]
            assert step.handler is not None, "only handlers have gates"
            if applies(step.handler, failed=failed[outer_of(step.name)], cancelled=cancelled):
                meet_need(turn, turn.job(job_id), job_id)
            else:
                turn.step(job_id, ev.NeedFailed(needed=job_id, on=NeedOn.ANY, reason=Reason.NOT_NEEDED))
            yield


class FollowUps:
    """Starts the follow-up of workflows for which one is due."""

    def __init__(self, memory: LiveState, reader: Reader, inbox: Inbox, background: BackgroundTasks) -> None:
        self._memory = memory
        self._reader = reader
        self._inbox = inbox
        self._background = background
        self._under_way: set[int] = set()

    def after_commit(self, turn: Turn) -> None:
        self.begin(turn.touched_workflows)
        if any(after.ended and after.concurrency_key is not None for _, after, _ in turn.verdicts):
            self._inbox.wake()  # the next workflow of its key may start

    def begin(self, workflow_ids: Iterable[int]) -> None:
        """Start the follow-up for those of these workflows that are due."""
        for workflow_id in list(workflow_ids):
            if workflow_id not in self._under_way and (self._goes_back(workflow_id) or self._due(workflow_id)):
                self._under_way.add(workflow_id)
                self._background.retry(f"end of workflow {workflow_id}", partial(self._follow_up, workflow_id))

    def _open(self, workflow_id: int) -> LiveWorkflow | None:
        run = self._memory.workflows.runs.get(workflow_id)
        return None if run is None or run.workflow.ended else run

    def _goes_back(self, workflow_id: int) -> LiveWorkflow | None:
        """The workflow, if the second half of its rollback is due: no step of it runs."""
        run = self._open(workflow_id)
        if run is None or run.workflow.intent is not Intent.ROLLBACK:
            return None
        return None if any(job_id in self._memory.runs for job_id in run.steps) else run

    def _due(self, workflow_id: int) -> FollowUp | None:
        run = self._open(workflow_id)
        if run is None:
            return None
        kinds: tuple[type[FollowUp], ...] = (EndSteps, CutShort, Handlers)
        return next((kind(run) for kind in kinds if kind.is_due(self._memory, run)), None)

    async def _follow_up(self, workflow_id: int) -> None:
        """Repeat it while one is due: another command, such as a rollback, may come meanwhile."""
        while True:
            if (run := self._goes_back(workflow_id)) is not None:
                self._inbox.post(await rollback.finish(self._reader, run))
            elif (message := self._due(workflow_id)) is not None:
                self._inbox.post(message)
            else:
                break
            await self._inbox.barrier()
        self._under_way.discard(workflow_id)
