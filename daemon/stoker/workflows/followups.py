"""The second half of a rollback or a cancel, which follows when the last attempt of the workflow has ended.

Workflows are checked after each turn, and at a start, as an earlier daemon may have died before the second half. The
second half of a cancel ends steps that were queued again meanwhile. Invariants: a workflow has one follow-up at a time;
a second one changes nothing; every command that needs a second half gets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from stoker.background.tasks import BackgroundTasks
from stoker.core.job import events as ev
from stoker.core.workflow.state import Intent
from stoker.engine.inbox import Inbox, Message
from stoker.engine.memory import LiveState
from stoker.engine.memory.workflows import LiveWorkflow, open_steps
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted
from stoker.store.reader import Reader
from stoker.workflows import rollback


class Cancelled(Message):
    """Cancel the steps of a cancelled workflow that were stopped for another reason and would run again."""

    def __init__(self, workflow_id: int) -> None:
        self._workflow_id = workflow_id

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.workflows.add(self._workflow_id)

    def apply_to(self, turn: Turn) -> None:
        run = turn.memory.workflows.runs.get(self._workflow_id)
        if run is not None and run.workflow.intent is Intent.CANCEL and not _runs(turn.memory, run):
            for job_id in open_steps(run):
                turn.step(job_id, ev.Cancel())


class FollowUps:
    """Starts the second half for workflows without a running step."""

    def __init__(self, memory: LiveState, reader: Reader, inbox: Inbox, background: BackgroundTasks) -> None:
        self._memory = memory
        self._reader = reader
        self._inbox = inbox
        self._background = background
        self._under_way: set[int] = set()

    def after_commit(self, turn: Turn) -> None:
        self.begin(turn.touched_workflows)

    def begin(self, workflow_ids: Iterable[int]) -> None:
        """Start the second half for those of these workflows that are due."""
        for workflow_id in list(workflow_ids):
            if workflow_id not in self._under_way and self._due(workflow_id) is not None:
                self._under_way.add(workflow_id)
                self._background.retry(f"end of workflow {workflow_id}", partial(self._follow_up, workflow_id))

    def _due(self, workflow_id: int) -> LiveWorkflow | None:
        """The workflow, if its second half is due: no step of it runs."""
        run = self._memory.workflows.runs.get(workflow_id)
        if run is None or run.workflow.ended or run.workflow.intent not in (Intent.CANCEL, Intent.ROLLBACK):
            return None
        return None if _runs(self._memory, run) else run

    async def _follow_up(self, workflow_id: int) -> None:
        """Repeat the second half while one is due: another command, such as a rollback, may come meanwhile."""
        while (run := self._due(workflow_id)) is not None:
            if run.workflow.intent is Intent.ROLLBACK:
                self._inbox.post(await rollback.finish(self._reader, run))
            else:
                self._inbox.post(Cancelled(workflow_id))
            await self._inbox.barrier()
        self._under_way.discard(workflow_id)


def _runs(memory: LiveState, run: LiveWorkflow) -> bool:
    return any(job_id in memory.runs for job_id in run.steps)
