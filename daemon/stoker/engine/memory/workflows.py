"""Live workflows in memory: the state of each step, and the checkpoints that record every transition.

Owns the head of each chain and the derived state of each workflow; turns report the steps that were taken. Invariants:
every transition of a step adds exactly one checkpoint, in the same commit; a chain can be rebuilt from at most
`MAX_CHAIN` of its checkpoints; the state of a workflow is always the result of `core.workflow.state.state_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stoker.core.errors import InvalidParams
from stoker.core.job.model import FINAL, Attempt, Job, Reason, State
from stoker.core.job.taken_over import FileHashes
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.checkpoint import MAX_CHAIN, Checkpoint, CheckpointKind, Head, Packed, chain_of, pack, seal
from stoker.core.workflow.context import ContextStep
from stoker.core.workflow.fingerprint import digest, proof
from stoker.core.workflow.state import ENDED, Intent, Step, Workflow, WorkflowState, handlers, is_broken, state_of
from stoker.core.workflow.step_names import found_steps
from stoker.store.workflows import StoredWorkflow


class Blueprint(Struct, frozen=True, kw_only=True):
    """The content of the column `workflows.flow`: the flow as it was sent, its parameters, its steps and their jobs."""

    flow: msgspec.Raw
    parameters: dict[str, str]
    steps: tuple[Step, ...]
    widths: dict[str, int] = {}


_decode = msgspec.json.Decoder(Blueprint).decode


def blueprint(workflow: Workflow) -> Blueprint:
    """The content of the column `flow`."""
    return _decode(workflow.flow)


def steps_of(workflow: Workflow) -> tuple[Step, ...]:
    """The steps of a workflow as accepted, with later changes of its needs."""
    return blueprint(workflow).steps


def needed_outputs(step: Step, outputs: Mapping[str, str]) -> dict[str, str | None]:
    """The hash of the outputs of each needed step."""
    return {edge.step: outputs.get(edge.step) for edge in step.needs}


def rewritten(run: LiveWorkflow, widths: dict[str, int] | None = None) -> Workflow:
    """The row of a workflow whose steps have changed; `widths`: those of groups that were added."""
    before = blueprint(run.workflow)
    plan = replace(before, steps=tuple(run.steps.values()), widths=before.widths | (widths or {}))
    return replace(run.workflow, flow=msgspec.json.encode(plan).decode())


def width_of(workflow_id: int, group: str) -> str:
    """The name under which the steps of one `each` share their width; a person cannot give it to a resource."""
    return f"w{workflow_id}/{group}"


class LiveWorkflow(Struct):
    """One workflow and its steps; `steps` by job."""

    workflow: Workflow
    steps: dict[int, Step]
    states: dict[str, State]
    reasons: dict[str, Reason | None]
    broken: set[str]
    head: Head = Head()
    widths: dict[str, int] = field(default_factory=dict)
    holds: dict[str, dict[str, int]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)  # hash of the output of each step
    _jobs: dict[str, int] = field(default_factory=dict)

    @property
    def chain(self) -> str:
        return chain_of(self.workflow.id)

    @property
    def derived_state(self) -> WorkflowState:
        """The state that follows from the intent and the current states of the steps."""
        return state_of(self.workflow.intent, self.states, self.broken)

    @property
    def jobs(self) -> dict[str, int]:
        if len(self._jobs) != len(self.steps):
            self._jobs.update({step.name: job_id for job_id, step in self.steps.items()})
        return self._jobs

    def keep_output(self, job: Job, attempt: Attempt) -> None:
        """Keep the hash of the output of a step's newest attempt, if there is one."""
        output = None if attempt.outcome is None else attempt.outcome.output
        if output is None:
            self.outputs.pop(job.step or "", None)
        else:
            self.outputs[job.step or ""] = digest(output)

    def steps_named(self, asked: str, path: str = "step") -> list[str]:
        """The steps that a name stands for: one, or those of a group. Raises StepNotFound for `path`."""
        return found_steps(self.workflow.id, asked, self.states, path)

    def keep_reused(self, job: Job) -> None:
        """Keep the hash of the output that a step took over."""
        if job.spec.reused is not None and job.spec.reused.output is not None:
            self.outputs[job.step or ""] = digest(job.spec.reused.output)

    def check_step(self, step: str, path: str = "step") -> str:
        """The name, if it is that of one step. Raises StepNotFound or InvalidParams for `path`."""
        if step in self.states:
            return step
        found = self.steps_named(step, path)
        if len(found) > 1:
            raise InvalidParams(
                f"{path}: {step!r} is a group of {len(found)} steps, and this takes one: {found[0]}, for example",
                path=path,
                hint=f"stoker workflow show {self.workflow.id} --steps",
            )
        return found[0]

    def handlers(self, roots: Collection[str]) -> set[str]:
        """The steps that run again with `roots`, because they watch how these end."""
        return handlers(self.steps.values(), roots, self.states, self.reasons)

    def set_state(self, step: Step, state: State, reason: Reason | None, floor: int) -> None:
        self.states[step.name] = state
        self.reasons[step.name] = reason
        self.floors[step.name] = floor
        if is_broken(step, state, by_dependency=reason is Reason.DEPENDENCY):
            self.broken.add(step.name)
        else:
            self.broken.discard(step.name)

    def enter(self, job: Job, *, live: bool) -> None:
        """The job of a step changed. `live`: an attempt of it is open and holds its resources."""
        step = self.steps[job.id]
        self.set_state(step, job.state, job.reason, job.checkpoint_floor)
        if live and job.spec.resources:
            self.holds[step.name] = job.spec.resources
        else:
            self.holds.pop(step.name, None)


def live_workflow(stored: StoredWorkflow, head: Head) -> LiveWorkflow:
    """A workflow from its rows, as memory keeps it."""
    plan = blueprint(stored.workflow)
    steps = {step.job_id: step for step in plan.steps}
    widths = {width_of(stored.workflow.id, group): width for group, width in plan.widths.items()}
    run = LiveWorkflow(stored.workflow, steps, {}, {}, set(), head, widths)
    run.outputs = {steps[job_id].name: digest(text) for job_id, text in stored.outputs.items()}
    for standing in stored.steps:
        run.set_state(steps[standing.job_id], standing.state, standing.reason, standing.floor)
    return run


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
        self.widths: dict[str, int] = {}  # how many steps of one `each` may run at once, as resources of their own

    def load(self, stored: StoredWorkflow, heads: Mapping[str, Head]) -> int:
        """Add a loaded workflow; one that is in memory already is newer and stays. Returns how many steps it has."""
        if stored.workflow.id not in self.runs:
            self.add(live_workflow(stored, heads.get(chain_of(stored.workflow.id), Head())))
        return len(stored.steps)

    def add(self, run: LiveWorkflow) -> None:
        self.runs[run.workflow.id] = run
        self.widths |= run.widths
        self._freed.update(run.widths)
        self._bar(run)

    def widen(self, run: LiveWorkflow, widths: Mapping[str, int]) -> None:
        """Groups with a width were added to a workflow."""
        if widths:
            run.widths |= {width_of(run.workflow.id, group): width for group, width in widths.items()}
            self.add(run)

    def intend(self, run: LiveWorkflow, intent: Intent, target: str | None = None) -> None:
        run.workflow = replace(run.workflow, intent=intent, target=target)
        self._bar(run)

    def intent_of(self, job: Job) -> Intent:
        """The intent of the workflow of a job; for a job without a workflow it is to run."""
        run = None if job.workflow_id is None else self.runs.get(job.workflow_id)
        return Intent.RUN if run is None else run.workflow.intent

    def _bar(self, run: LiveWorkflow) -> None:
        before = len(self.barred)
        if run.workflow.intent is Intent.RUN:
            self.barred.discard(run.workflow.id)
        else:
            self.barred.add(run.workflow.id)
        self.bar_changes += len(self.barred) != before

    def record_step(
        self, before: Job | None, job: Job, at: int, attempt: Attempt | None = None, *, live: bool
    ) -> list[Checkpoint]:
        """The checkpoints for a change of a step. `attempt`: the one that changed; `live`: one is open."""
        assert job.workflow_id is not None, "only a job of a workflow has a chain"
        run = self.runs[job.workflow_id]
        run.enter(job, live=live)
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
        return self._with_proof(run, job, files) | _end(run, job, attempt)

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

    def judge(self, run: LiveWorkflow, now: int) -> Workflow:
        """The row of the workflow with the state that its steps give it."""
        workflow = run.workflow
        state = run.derived_state
        finished_at = (workflow.finished_at or now) if state in ENDED else None
        run.workflow = replace(workflow, state=state, finished_at=finished_at)
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
                for name in run.widths:
                    del self.widths[name]
                self.barred.discard(workflow_id)


def _end(run: LiveWorkflow, job: Job, attempt: Attempt) -> dict[str, Any]:
    outcome, identity = attempt.outcome, attempt.identity
    assert outcome is not None, "only an ended attempt has an end"
    return {
        "workflow": run.workflow.id,
        "type": run.workflow.name,
        "step": job.step,
        "job": job.id,
        "attempt": attempt.ordinal,
        "status": job.state,
        "reason": job.reason,
        "output": None if outcome.output is None else msgspec.Raw(outcome.output.encode()),
        "outcome": outcome.kind,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "error": outcome.error,
        "worker": {"launcher": attempt.launcher, "pid": None if identity is None else identity.pid},
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "user_ms": outcome.user_ms,
        "system_ms": outcome.system_ms,
        "max_rss_kib": outcome.max_rss_kib,
    }


def open_steps(run: LiveWorkflow) -> list[int]:
    return [step.job_id for step in run.steps.values() if run.states[step.name] not in FINAL]
