"""One workflow in memory: its steps, their states, and what follows from these.

Owns the answers about a workflow and its steps together: its state, its handlers whose turn has come, its limits. Only
`engine/memory/workflows.py` and turns change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job.model import FINAL, Attempt, Job, Reason, State
from stoker.core.workflow.checkpoint import Head, chain_of
from stoker.core.workflow.definition import FlowLimits
from stoker.core.workflow.fingerprint import digest
from stoker.core.workflow.handlers import MAX_FAILED, Handler
from stoker.core.workflow.inner_limits import InnerLimit, TimeLimit, begun, passed
from stoker.core.workflow.phases import PHASES, phase, phase_in
from stoker.core.workflow.plan import WHOLE
from stoker.core.workflow.state import (
    ENDING,
    FAILURES,
    Intent,
    Step,
    Workflow,
    WorkflowState,
    handlers,
    is_broken,
    state_of,
)
from stoker.core.workflow.step_names import found_steps, outer_of, outers_of
from stoker.engine.memory.blueprint import blueprint, width_of
from stoker.store.workflows import StoredWorkflow


def needed_outputs(step: Step, outputs: Mapping[str, str]) -> dict[str, str | None]:
    """The hash of the outputs of each needed step."""
    return {edge.step: outputs.get(edge.step) for edge in step.needs}


def rewritten(
    run: LiveWorkflow, widths: dict[str, int] | None = None, limits: dict[str, FlowLimits] | None = None
) -> Workflow:
    """The row of a workflow whose steps have changed; `widths`, `limits`: those of groups that were added."""
    before = blueprint(run.workflow)
    plan = replace(
        before,
        steps=tuple(run.steps.values()),
        widths=before.widths | (widths or {}),
        inner_limits=before.inner_limits | (limits or {}),
    )
    return replace(run.workflow, flow=msgspec.json.encode(plan).decode())


CANCEL_ALL = "all"  # the target of a second cancel, which ends `finally`, too


class LiveWorkflow(Struct):
    """One workflow and its steps; `steps` by job.

    What is known of nested workflows is known by what the names of their steps begin with, as `build/`; the names of
    the whole workflow share no beginning. `counting`: the limits of time that count now, of those in `inner_limits`.
    """

    workflow: Workflow
    steps: dict[int, Step]
    states: dict[str, State]
    reasons: dict[str, Reason | None]
    broken: set[str]
    head: Head = Head()
    widths: dict[str, int] = field(default_factory=dict)
    holds: dict[str, dict[str, int]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    limits: FlowLimits = FlowLimits()
    inner_limits: dict[str, FlowLimits] = field(default_factory=dict)
    counting: dict[str, InnerLimit] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)  # hash of the output of each step
    gates: dict[str, set[int]] = field(default_factory=dict)  # by workflow, jobs of handlers that need themselves
    open_in: dict[str, list[int]] = field(default_factory=lambda: {WHOLE: [0] * PHASES})  # open steps by phase
    open_by_table: list[int] = field(default_factory=lambda: [0] * PHASES)  # by the phases of their own workflows
    _gates_changed: set[str] = field(default_factory=set)  # workflows in which handlers may be due
    _limits_changed: set[str] = field(default_factory=set)  # of nested workflows that ended, or run again
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

    def handlers(self, roots: AbstractSet[str]) -> set[str]:
        """The steps that run again with `roots`, because they watch how these end."""
        return handlers(self.steps.values(), roots, self.states, self.reasons)

    def outcome(self, handler: Step) -> WorkflowState:
        """The state that the workflow of a handler has once its open handlers have ended, if these do not fail it."""
        outer = outer_of(handler.name)
        if outer == WHOLE or self.workflow.intent is Intent.CANCEL:
            return state_of(self.workflow.intent, {}, self.broken)
        return WorkflowState.FAILED if self.has_failed(outer) else WorkflowState.SUCCEEDED

    def failed_before(self, handler: Step) -> list[int]:
        """The first jobs of steps of its workflow that failed in the phases before its own, then of those aborted."""
        mine, outer = phase(handler.handler), outer_of(handler.name)
        inside = (step for step in self.steps.values() if step.name.startswith(outer))
        earlier = [step for step in inside if phase_in(outer, step.name, step.handler) < mine]
        failed = [step.job_id for step in earlier if self.states[step.name] in FAILURES]
        aborted = [step.job_id for step in earlier if self.reasons[step.name] is Reason.ABORTED]
        return [*failed, *aborted][:MAX_FAILED]

    def close_gate(self, job_id: int) -> None:
        """A handler waits for its workflow."""
        outer = outer_of(self.steps[job_id].name)
        self.gates.setdefault(outer, set()).add(job_id)
        self._gates_changed.add(outer)

    def open_gate(self, job_id: int) -> None:
        """A job does not wait for its workflow, or no longer."""
        if not self.gates:
            return
        outer = outer_of(self.steps[job_id].name)
        closed = self.gates.get(outer, set())
        closed.discard(job_id)
        if not closed:
            self.gates.pop(outer, None)

    def due_gates(self) -> list[int]:
        """The handlers whose gates are to be decided: all steps of the phases before theirs have ended.

        It looks only at workflows in which a step ended, or a gate was closed, since it found none in them.
        """
        due = {outer: self._due_in(outer) for outer in self._gates_changed}
        self._gates_changed = {outer for outer, jobs in due.items() if jobs}
        return sorted(chain.from_iterable(due.values()))

    def _due_in(self, outer: str) -> list[int]:
        handlers = (self.steps[job_id] for job_id in self.gates.get(outer, ()))
        return [step.job_id for step in handlers if self.states[step.name] not in FINAL and not self.is_early(step)]

    def is_early(self, step: Step) -> bool:
        """Whether a step of an earlier phase of its workflow has not ended."""
        return any(self.open_in[outer_of(step.name)][: phase(step.handler)])

    def is_handler(self, step: str) -> bool:
        """Whether it is a handler of a workflow."""
        return self.steps[self.jobs[step]].handler is not None

    def has_failed(self, outer: str) -> bool:
        """Whether an ordinary step broke a workflow, or it was ended; a handler that broke it starts no other one."""
        if self.workflow.intent is Intent.ABORT:
            return True
        if outer == WHOLE:
            broken = (self.steps[self.jobs[name]] for name in self.broken)
            return any(not phase_in(WHOLE, step.name, step.handler) for step in broken)
        if outer in self.counting and self.counting[outer].passed is not None:
            return True
        own = (self.jobs[edge.step] for edge in self.steps[self.jobs[outer.removesuffix("/")]].needs)
        return any(map(self._has_broken, own))

    def _has_broken(self, job_id: int) -> bool:
        """Whether this end of an ordinary step makes the nested workflow fail that it is in."""
        step = self.steps[job_id]
        by_dependency = self.reasons[step.name] is Reason.DEPENDENCY
        own = replace(step, critical=step.breaks and step.handler is None)
        return is_broken(own, self.states[step.name], by_dependency=by_dependency)

    @property
    def _ending(self) -> int:
        """The phases whose steps a cancel or an abort ends: all, those before `finally`, or that of ordinary steps."""
        if self.workflow.intent is Intent.ABORT:
            return phase(Handler.ON_FAILURE)
        return PHASES if self.workflow.target == CANCEL_ALL else phase(Handler.FINALLY)

    def to_end(self) -> list[int]:
        """The open steps that a cancel or an abort ends."""
        return [job for job in open_steps(self) if phase(self.steps[job].handler) < self._ending]

    @property
    def barred(self) -> bool:
        """Whether no step may start now. After a cancel or an abort its handlers may, once all else has ended."""
        if self.workflow.intent in ENDING and self._ending < PHASES:
            return any(self.open_by_table[: self._ending])
        return self.workflow.intent is not Intent.RUN

    @property
    def cut(self) -> list[str]:
        """The groups and the nested workflows whose open steps are to be ended."""
        return self.workflow.cut.split("\n") if self.workflow.cut else []

    def to_cut(self) -> list[int]:
        """The open steps in `cut`, but no handlers. A nested workflow inside one of these ends with its own steps."""
        groups = {*self.cut}
        return [job for job in open_steps(self) if self._is_cut(self.steps[job], groups)]

    def _is_cut(self, step: Step, groups: AbstractSet[str]) -> bool:
        if step.handler is not None or f"{step.name}/" in self.open_in:
            return False
        inside = outers_of(step.name)[1:]
        return step.fail_fast in groups or any(one in groups or self._of_group(one) in groups for one in inside)

    def _of_group(self, outer: str) -> str | None:
        """The group that ends together (`fail_fast`) which a nested workflow is in."""
        job_id = self.jobs.get(outer.removesuffix("/"))  # None: it is outside of the part
        return None if job_id is None else self.steps[job_id].fail_fast

    def renew(self, now: Now) -> None:
        """Its limits count anew: a person lets it go on after its end."""
        limit = self.limits.deadline_ms
        deadline = None if limit is None else now.wall + limit
        self.workflow = replace(self.workflow, deadline=deadline, expires_at=None)

    @property
    def time_limits(self) -> Iterator[tuple[str, InnerLimit]]:
        """The limits that count, its own first: until the ordinary steps have ended, or are being ended."""
        if self.workflow.intent not in (Intent.RUN, Intent.PAUSE):
            return
        whole = InnerLimit(deadline=self.workflow.deadline, expires_at=self.workflow.expires_at)
        for outer, limit in ((WHOLE, whole), *self.counting.items()):
            if limit.passed is None and self.open_in[outer][0]:
                yield outer, limit

    def overdue(self, now: Now) -> dict[str, TimeLimit]:
        """The limits that have passed while they counted."""
        found = ((outer, passed(limit.deadline, limit.expires_at, now)) for outer, limit in self.time_limits)
        return {outer: limit for outer, limit in found if limit is not None}

    def begin_timeouts(self, step: Step, now: Now) -> Iterator[tuple[str, InnerLimit]]:
        """A step starts: the timeouts of the workflows that it is in, nested or not, count from the first one."""
        if self.limits.timeout_ms is not None and self.workflow.expires_at is None:
            self.workflow = replace(self.workflow, expires_at=now.steady + self.limits.timeout_ms)
        for outer in outers_of(step.name) if self.inner_limits else ():
            limits = self.inner_limits.get(outer)
            if limits is None or limits.timeout_ms is None or self.states[outer.removesuffix("/")] in FINAL:
                continue
            limit = self.counting.get(outer) or begun(limits, now)
            if limit.expires_at is None:
                self.counting[outer] = replace(limit, expires_at=now.steady + limits.timeout_ms)
                yield outer, self.counting[outer]

    def count_anew(self, name: str) -> None:
        """The step that ends a nested workflow runs again: a limit that has passed does not hold any more."""
        outer = f"{name}/"
        if outer in self.counting and self.counting[outer].passed is not None:
            del self.counting[outer]
            self._limits_changed.add(outer)

    def changed_limits(self, now: Now) -> Iterator[tuple[str, InnerLimit | None]]:
        """The limits of nested workflows that begin to count, or (None) no longer do."""
        changed, self._limits_changed = sorted(self._limits_changed), set()
        for outer in changed:
            if self.states[outer.removesuffix("/")] in FINAL:
                self.counting.pop(outer, None)
                yield outer, None
            elif outer not in self.counting:
                self.counting[outer] = begun(self.inner_limits[outer], now)
                yield outer, self.counting[outer]

    def set_state(self, step: Step, state: State, reason: Reason | None, floor: int) -> None:
        before = self.states.get(step.name, State.SKIPPED)
        change = (before in FINAL) - (state in FINAL)
        if change or step.name not in self.states:
            self._count_open(step, change)
        if change and (ended := f"{step.name}/") in self.inner_limits:
            self._limits_changed.add(ended)
        self.states[step.name] = state
        self.reasons[step.name] = reason
        self.floors[step.name] = floor
        if is_broken(step, state, by_dependency=reason is Reason.DEPENDENCY):
            self.broken.add(step.name)
        else:
            self.broken.discard(step.name)

    def _count_open(self, step: Step, change: int) -> None:
        outers = outers_of(step.name)
        for outer in outers:
            self.open_in.setdefault(outer, [0] * PHASES)[phase_in(outer, step.name, step.handler)] += change
        self.open_by_table[phase(step.handler)] += change
        self._gates_changed.update(outer for outer in outers if outer in self.gates)

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
    run = LiveWorkflow(stored.workflow, steps, {}, {}, set(), head, widths, limits=plan.limits)
    run.inner_limits, run.counting = dict(plan.inner_limits), dict(stored.counting)
    run.outputs = {steps[job_id].name: digest(text) for job_id, text in stored.outputs.items()}
    for standing in stored.steps:
        run.set_state(steps[standing.job_id], standing.state, standing.reason, standing.floor)
    for standing in stored.steps:
        if standing.gated:
            run.close_gate(standing.job_id)
    return run


def open_steps(run: LiveWorkflow) -> list[int]:
    return [step.job_id for step in run.steps.values() if run.states[step.name] not in FINAL]
