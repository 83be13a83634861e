"""Live workflows in memory: the state of each step, and the checkpoints that record every transition.

Owns the head of each chain and the derived state of each workflow; turns report the steps that were taken. Invariants:
every transition of a step adds exactly one checkpoint, in the same commit; a chain can be rebuilt from at most
`MAX_CHAIN` of its checkpoints; the state of a workflow is always the result of `core.workflow.state.state_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job.model import Attempt, Job, Reason, State
from stoker.core.job.taken_over import FileHashes
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.checkpoint import MAX_CHAIN, Checkpoint, CheckpointKind, Head, Packed, chain_of, pack, seal
from stoker.core.workflow.context import ContextStep
from stoker.core.workflow.fingerprint import proof
from stoker.core.workflow.state import ENDED, ENDING, Intent, Workflow, WorkflowState
from stoker.engine.memory.attempt_ends import end_of
from stoker.engine.memory.blueprint import width_of
from stoker.engine.memory.concurrency import Turns
from stoker.engine.memory.live_workflow import LiveWorkflow, live_workflow, needed_outputs
from stoker.store.workflows import StoredWorkflow


class LiveWorkflows:
    """All live workflows, and those that this turn has loaded."""

    def __init__(self, freed: set[str]) -> None:
        self.last_id = 0
        self.last_checkpoint = 0
        self.runs: dict[int, LiveWorkflow] = {}
        self._freed = freed  # widths that were added
        self.barred: set[int] = set()  # paused, cancelled or rolling back: no step of them may start
        self.bar_changes = 0  # how often a workflow was barred or let go
        self.surroundings = ""  # hash of the environment that every worker gets
        self.turns = Turns()
        self.widths: dict[str, int] = {}  # how many steps of one `each` may run at once, as resources of their own

    def live_of(self, owner_uid: int) -> int:
        """How many workflows of a user have not ended."""
        return sum(run.workflow.owner_uid == owner_uid and not run.workflow.ended for run in self.runs.values())

    def load(self, stored: StoredWorkflow, heads: Mapping[str, Head]) -> int:
        """Add a loaded workflow; one that is in memory already is newer and stays. Returns how many steps it has."""
        if stored.workflow.id not in self.runs:
            self.add(live_workflow(stored, heads.get(chain_of(stored.workflow.id), Head())))
        return len(stored.steps)

    def add(self, run: LiveWorkflow) -> None:
        self.runs[run.workflow.id] = run
        self.widths |= run.widths
        self._freed.update(run.widths)
        self._close(run)
        self._bar(run)
        self._take_turns(run)

    def _take_turns(self, run: LiveWorkflow) -> None:
        """The state or place of a workflow changed: others of its key may start steps now, or no longer."""
        for workflow_id in self.turns.note(run.workflow):
            self._bar(self.runs[workflow_id])

    def cut(self, run: LiveWorkflow, groups: Iterable[str]) -> None:
        """These groups, and no others, are to be ended: until that is done no step of them starts."""
        run.workflow = replace(run.workflow, cut="\n".join(groups) or None)
        self.widths |= run.widths
        self._freed.update(run.widths)
        self._close(run)

    def _close(self, run: LiveWorkflow) -> None:
        self.widths |= {width_of(run.workflow.id, group): 0 for group in run.cut}

    def widen(self, run: LiveWorkflow, widths: Mapping[str, int]) -> None:
        """Groups with a width were added to a workflow."""
        if widths:
            run.widths |= {width_of(run.workflow.id, group): width for group, width in widths.items()}
            self.add(run)

    def intend(self, run: LiveWorkflow, intent: Intent, target: str | None = None) -> None:
        run.workflow = replace(run.workflow, intent=intent, target=target)
        self._bar(run)

    def goes_after(self, job: Job) -> list[int]:
        """The workflows for which the workflow of a job waits."""
        run = None if job.workflow_id is None else self.runs.get(job.workflow_id)
        return [] if run is None else self.turns.before(run.workflow)

    def told(self, job: Job) -> tuple[list[int], WorkflowState | None]:
        """Of a handler of a workflow: the jobs that failed before it, and the state that its workflow is to have."""
        run = None if job.workflow_id is None else self.runs.get(job.workflow_id)
        step = None if run is None else run.steps.get(job.id)
        if run is None or step is None or step.handler is None:
            return [], None
        return run.failed_before(step), run.outcome(step)

    def intent_of(self, job: Job) -> Intent:
        """The intent of the workflow of a job; for a job without a workflow it is to run."""
        run = None if job.workflow_id is None else self.runs.get(job.workflow_id)
        return Intent.RUN if run is None else run.workflow.intent

    def _bar(self, run: LiveWorkflow) -> None:
        before = len(self.barred)
        if run.barred or self.turns.before(run.workflow):
            self.barred.add(run.workflow.id)
        else:
            self.barred.discard(run.workflow.id)
        self.bar_changes += len(self.barred) != before

    def record_step(
        self, before: Job | None, job: Job, at: int, attempt: Attempt | None = None, *, live: bool
    ) -> list[Checkpoint]:
        """The checkpoints for a change of a step. `attempt`: the one that changed; `live`: one is open."""
        assert job.workflow_id is not None, "only a job of a workflow has a chain"
        run = self.runs[job.workflow_id]
        run.enter(job, live=live)
        if run.workflow.intent in ENDING:
            self._bar(run)
        if attempt is not None:
            run.keep_output(job, attempt)
        if before is None:
            return []  # the submission as a whole gets one context checkpoint
        payload = {
            "step": job.step,
            "job": job.id,
            "from": before.state,
            "to": job.state,
            "reason": job.reason,
            "attempt": job.attempts,
            "floor": job.checkpoint_floor,
            "holds": run.holds.get(job.step or "", {}),
        }
        left = [self.link(run, CheckpointKind.TRANSITION, job.state.value, payload, at, job)]
        if job.reason is Reason.REUSED and before.reason is not Reason.REUSED:
            run.keep_reused(job)
            left.append(self.link(run, CheckpointKind.STEP, job.state.value, self._reused_end(run, job), at, job))
        if attempt is not None and attempt.outcome is not None:
            left.append(self.link(run, CheckpointKind.STEP, job.state.value, self._end(run, job, attempt), at, job))
        if run.head.since_context >= MAX_CHAIN:
            left.append(self.context(run, at))
        return left

    def _end(self, run: LiveWorkflow, job: Job, attempt: Attempt) -> dict[str, Any]:
        """The end of an attempt, with the fingerprint of the step if it asks to be verified."""
        files = None if attempt.outcome is None else attempt.outcome.files
        return self._with_proof(run, job, files) | end_of(run.workflow, job, attempt)

    def _with_proof(self, run: LiveWorkflow, job: Job, files: FileHashes | None) -> dict[str, Any]:
        step, of_files = run.steps[job.id], {} if files is None else {"files": files}
        if not step.verify or job.state is not State.SUCCEEDED:
            return of_files
        return of_files | {"proof": proof(job.spec, self.surroundings, needed_outputs(step, run.outputs))}

    def _reused_end(self, run: LiveWorkflow, job: Job) -> dict[str, Any]:
        """The end of a step that took over an earlier one."""
        earlier = job.spec.reused
        assert earlier is not None, "a reused step has what it took over"
        return self._with_proof(run, job, earlier.files) | {
            "workflow": run.workflow.id,
            "type": run.workflow.name,
            "step": job.step,
            "job": job.id,
            "attempt": 0,
            "status": job.state,
            "reason": job.reason,
            "output": None if earlier.output is None else msgspec.Raw(earlier.output.encode()),
            "reused": {"workflow": earlier.workflow, "step": earlier.step, "job": earlier.job},
            "ended_at": job.finished_at,
        }

    def judge(self, run: LiveWorkflow, now: Now, place: int) -> Workflow:
        """The row of the workflow with the state that its steps give it; `place`: of one that runs again."""
        state, had_ended = run.derived_state, run.workflow.ended
        if had_ended and state not in ENDED:
            run.renew(now)
            run.workflow = replace(run.workflow, place=place)
        finished_at = (run.workflow.finished_at or now.wall) if state in ENDED else None
        run.workflow = replace(run.workflow, state=state, finished_at=finished_at)
        if had_ended != run.workflow.ended:
            self._take_turns(run)
        return run.workflow

    def context(self, run: LiveWorkflow, at: int) -> Checkpoint:
        """A checkpoint of the whole workflow: no earlier one is needed to rebuild later states."""
        steps = {
            step.name: ContextStep(
                step.job_id, run.states[step.name], run.reasons[step.name], run.floors.get(step.name, 0)
            )
            for step in run.steps.values()
        }
        payload = {"workflow": run.workflow.id, "state": run.workflow.state, "steps": steps, "holds": run.holds}
        return self.link(run, CheckpointKind.CONTEXT, run.workflow.state.value, payload, at)

    def link(
        self,
        run: LiveWorkflow,
        kind: CheckpointKind,
        status: str,
        payload: dict[str, Any],
        at: int,
        job: Job | None = None,
    ) -> Checkpoint:
        """The next checkpoint of a workflow's chain."""
        checkpoint = self.seal_next(run.chain, run.head, kind, status, pack(encode_sorted(payload)), at, job)
        since = 0 if kind is CheckpointKind.CONTEXT else run.head.since_context + (kind is CheckpointKind.TRANSITION)
        run.head = Head(checkpoint.id, checkpoint.seq, since)
        return checkpoint

    def seal_next(
        self,
        chain: str,
        head: Head,
        kind: CheckpointKind,
        status: str,
        packed: Packed,
        at: int,
        job: Job | None = None,
        run_id: str | None = None,
    ) -> Checkpoint:
        """The checkpoint that follows `head`."""
        self.last_checkpoint += 1
        return seal(
            Checkpoint(
                id=self.last_checkpoint,
                chain=chain,
                seq=head.seq + 1,
                parent=head.id or None,
                kind=kind,
                status=status,
                at=at,
                data=packed.data,
                size=packed.size,
                encoding=packed.encoding,
                run_id=run_id,
                job_id=None if job is None else job.id,
                step=None if job is None else job.step,
            ),
            packed.digest,
        )

    def forget(self, ids: Iterable[int]) -> None:
        for workflow_id in ids:
            run = self.runs.get(workflow_id)
            if run is not None and run.workflow.ended:
                del self.runs[workflow_id]
                self.turns.forget(run.workflow)
                for name in run.widths:
                    del self.widths[name]
                self.barred.discard(workflow_id)
