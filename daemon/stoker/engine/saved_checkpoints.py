"""A checkpoint that a job saves, appended to the chain of its workflow, or to that of its job.

Invariant: only an attempt that runs can save, so an old one cannot overwrite the checkpoint of a newer one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from stoker.core.errors import CheckpointTooSoon, StaleAttempt
from stoker.core.job.model import Job
from stoker.core.job.run_id import RunId
from stoker.core.workflow.checkpoint import MAX_CHAIN, Checkpoint, CheckpointKind, Head, Packed, chain_of
from stoker.engine.inbox import RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted

if TYPE_CHECKING:
    from stoker.core.wire_types import ReceivedPiece, SavedCheckpoint

    SaveAnswer: TypeAlias = SavedCheckpoint | ReceivedPiece


class Save(RequestMessage["SaveAnswer"]):
    """A checkpoint of an attempt that runs. `min_interval_ms`: since its last one."""

    def __init__(
        self,
        memory: LiveState,
        run_id: str,
        packed: Packed,
        status: str,
        future: asyncio.Future[SaveAnswer] | None = None,
        *,
        min_interval_ms: int = 0,
    ) -> None:
        super().__init__(future)
        self._memory = memory
        self._run_id = run_id
        self._job_id = RunId.parse(run_id).job_id
        self._packed = packed
        self._status = status
        self._min_interval_ms = min_interval_ms

    def declare_reads(self, wanted: Wanted) -> None:
        """Read the end of the chain, but only once per attempt: later saves cost only their commit."""
        run = self._memory.by_run(self._run_id)
        if run is not None and run.job.workflow_id is None and self._run_id not in self._memory.heads:
            wanted.chains.add(chain_of(None, self._job_id))

    def apply_to(self, turn: Turn) -> None:
        run = turn.memory.by_run(self._run_id)
        if run is None:
            raise stale(self._run_id)
        self._check_interval(turn)
        turn.memory.users.check_bytes(run.job.owner_uid, "max_stored_bytes")
        checkpoint = self._store(turn, run.job)
        turn.memory.saved[self._run_id] = turn.now.steady
        self.answer_after(turn, {"id": checkpoint.id, "seq": checkpoint.seq, "bytes": checkpoint.size})

    def _store(self, turn: Turn, job: Job) -> Checkpoint:
        """Append it to the chain of its workflow, or to that of its job outside a workflow."""
        workflows, chain, now = turn.memory.workflows, chain_of(job.workflow_id, job.id), turn.now.wall
        workflow = None if job.workflow_id is None else workflows.runs[job.workflow_id]
        if workflow is not None:
            head = workflow.head
        else:
            head = turn.memory.heads.get(self._run_id) or turn.loaded.heads.get(chain, Head())
        checkpoint = workflows.seal_next(
            chain, head, CheckpointKind.PROGRESS, self._status, self._packed, now, job, self._run_id
        )
        after = Head(checkpoint.id, checkpoint.seq, head.since_context + 1)
        turn.checkpoint(checkpoint)
        if workflow is None:
            turn.memory.heads[self._run_id] = after
            return checkpoint
        workflow.head = after
        if after.since_context >= MAX_CHAIN:
            turn.checkpoint(workflows.context(workflow, now))
        return checkpoint

    def _check_interval(self, turn: Turn) -> None:
        last = turn.memory.saved.get(self._run_id)
        wait = 0 if last is None else last + self._min_interval_ms - turn.now.steady
        if wait > 0:
            raise CheckpointTooSoon(
                f"the last checkpoint of this attempt is less than {self._min_interval_ms} ms old",
                hint="[checkpoints] min_interval_ms",
                retry_after_ms=wait,
            )


def stale(run_id: str) -> StaleAttempt:
    return StaleAttempt(f"attempt {run_id} is over: it cannot save a checkpoint any more")
