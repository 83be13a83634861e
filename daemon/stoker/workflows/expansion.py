"""The expansion of a group at run time: one turn adds its steps, and gives the steps behind it their new needs.

Invariants: it is complete or nothing of it is stored; to expand again with the same list changes nothing, so a crash at
any point does no harm; steps that are no longer in the list are skipped, never removed. A workflow that reuses an
earlier run takes its ends over when a group is expanded for the first time: a later run of steps is wanted as such.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from stoker.core.access import role_by_number
from stoker.core.errors import FlowInvalid, NotAllowed, StokerError
from stoker.core.job import events as ev
from stoker.core.job.model import STOKER, Actor, ExecutionMode, Job, Need, NeedOn, Reason, Spec, State
from stoker.core.schedule.model import Origin
from stoker.core.workflow.definition import MAX_STEPS
from stoker.core.workflow.expansion import GroupPlan, members, needs_of, rewired
from stoker.core.workflow.fan_out import EXPAND, Planned
from stoker.core.workflow.items import item_text
from stoker.core.workflow.mistakes import Mistake, refuse
from stoker.core.workflow.nesting import unfold, with_inner_steps
from stoker.core.workflow.plan import MAX_EDGES
from stoker.core.workflow.reuse import Compared, ReuseDecision, ReuseWish, decide
from stoker.core.workflow.state import ENDING, Intent, Step, Workflow, behind
from stoker.core.workflow.step_names import BEGINS, fan_out_of
from stoker.engine import conditions
from stoker.engine.dependents import judge_needs, need_now
from stoker.engine.inbox import RequestMessage
from stoker.engine.intake import Intake
from stoker.engine.memory.live_workflow import LiveWorkflow, rewritten
from stoker.engine.rewiring import may_be_rewired
from stoker.engine.turn import LogLine, Turn
from stoker.executors import handlers
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent
from stoker.workflows.dependencies import rewire_step
from stoker.workflows.step_specs import (
    ITEM_VARIABLE,
    StepOwner,
    accept_steps,
    step_mistake,
    step_needs,
    step_row,
    step_spec,
    taken_over,
)

PENDING = (State.WAITING, State.QUEUED)
SHOWN = 20  # names in the log of changes


class _New(NamedTuple):
    """A step to be added; `needs` are those of `step` by job."""

    planned: Planned
    step: Step
    needs: tuple[Need, ...]


def _refused_handlers(spec: Spec, owner_uid: int) -> list[StokerError]:
    """The error of a step for an in-process handler: what a step hands on may have named it."""
    if spec.execution_mode is not ExecutionMode.IN_PROCESS:
        return []
    refused = handlers.refusal(spec.command, role_by_number(owner_uid, os.geteuid()))
    return [] if refused is None else [refused]


class Expansion(RequestMessage[int]):
    """Give a group these steps, for the attempt `run_id` that expands it; the answer is the number of its steps."""

    weight = 32

    def __init__(
        self, intake: Intake, run_id: str, workflow: Workflow, group: GroupPlan, wish: ReuseWish | None = None
    ) -> None:
        """`wish`: the earlier run that the workflow reuses."""
        super().__init__()
        self._intake = intake
        self._run_id = run_id
        self._workflow_id = workflow.id
        self._owner_uid = workflow.owner_uid
        self._group = group
        self._wish = wish

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.workflows.add(self._workflow_id)
        for step in with_inner_steps(self._group.steps):
            if step.sent.wait_for:
                conditions.declare_reads(wanted, step.sent.wait_for, self._owner_uid)

    def apply_to(self, turn: Turn) -> Generator[None]:
        """Everything that can refuse is asked before the first step is stored."""
        run, job = self._expanding(turn)
        names = [step.name for step in self._group.steps]
        before = frozenset(members(run.states).get(self._group.name, ()))
        self._check_same(turn, run)
        behind = [
            (step, after)
            for step in run.steps.values()
            if (after := self._rewired(turn, step, before, names)) is not step
        ]
        new = [step for step in self._group.steps if step.name not in run.jobs]
        self._check_size(run, new, behind)
        added = yield from self._planned(turn, run, new)
        specs = yield from self._specs(turn, run, job, added)
        first = not before and (added or job.attempts == 1)
        reuse = (yield from self._reuse(turn, run, added, specs, [after for _, after in behind])) if first else {}
        gone = [*self._gone(turn, run, before.difference(names))]
        if added or behind or gone or reuse:
            turn.touched_workflows.add(run.workflow.id)
            run.steps |= {one.step.job_id: one.step for one in added}
            run.inner_limits |= self._group.inner_limits
            turn.memory.workflows.widen(run, self._group.widths)
            yield from self._add(turn, run, added, specs, reuse)
            yield from self._rewire(turn, run, [after for _, after in behind])
            yield from self._skip(turn, run, job, gone)
            yield from self._take_over(turn, run, reuse)
            yield from self._record(turn, run, job, len(added), gone, reuse)
        self.answer_after(turn, len(names))

    def _expanding(self, turn: Turn) -> tuple[LiveWorkflow, Job]:
        """The workflow and the job that expands. Raises NotAllowed if that was stopped meanwhile."""
        run, attempt = turn.memory.workflows.runs.get(self._workflow_id), turn.memory.by_run(self._run_id)
        if run is None or attempt is None or attempt.attempt.stop_reason is not None:
            raise NotAllowed(f"step {self._group.name} was stopped before its group was expanded")
        if run.workflow.intent in (*ENDING, Intent.ROLLBACK):
            raise NotAllowed(f"workflow {self._workflow_id} is being stopped, so {self._group.name} is not expanded")
        return run, attempt.job

    def _check_same(self, turn: Turn, run: LiveWorkflow) -> None:
        """A step of an earlier list goes on with its item, so the same name cannot stand for another one."""
        for step in self._group.steps:
            if step.name in run.jobs and step.item is not None:
                before = turn.job(run.jobs[step.name]).spec.env.get(ITEM_VARIABLE)
                if before != item_text(step.item):
                    raise FlowInvalid(
                        f"steps.{self._group.name}.each: step {step.name!r} exists with the item {before}, and the new"
                        f" list has {item_text(step.item)}",
                        hint="give an item that changed another name",
                        path=f"steps.{self._group.name}.each",
                    )

    def _rewired(self, turn: Turn, step: Step, before: Collection[str], names: Sequence[str]) -> Step:
        after = rewired(step, self._group.name, before, names)
        own = step.name.removesuffix(BEGINS)
        if after is step or own in before or fan_out_of(own) in self._group.paired:
            return (
                step  # those of the group itself wait for the step that expands it, others for the step of their item
            )
        job = turn.job(step.job_id)
        return after if job.spec.command != EXPAND and may_be_rewired(turn, job) else step

    def _gone(self, turn: Turn, run: LiveWorkflow, groups: Collection[str]) -> Iterator[str]:
        """The steps that have not started, of items that are not in the list any more."""
        if groups:
            roots = (*groups, *(f"{name}{BEGINS}" for name in groups))
            within = tuple(f"{name}/" for name in groups)
            for name, job_id in run.jobs.items():
                if (name in roots or name.startswith(within)) and turn.job(job_id).state in PENDING:
                    yield name

    def _check_size(self, run: LiveWorkflow, new: Sequence[Planned], behind: Sequence[tuple[Step, Step]]) -> None:
        path = f"steps.{self._group.name}.each"
        inner = [step.inner.steps for step in new if step.inner is not None]
        if (total := len(run.steps) + len(new) + sum(1 + len(steps) for steps in inner)) > MAX_STEPS:
            refuse(
                [Mistake(path, f"the workflow would have {total} steps; the limit is {MAX_STEPS}", "split the flow")]
            )
        there = members(run.states)
        each = 1 + sum(len(there.get(edge.step, "1")) for edge in self._group.needs) + len(self._group.same)
        of_inner = sum(1 + sum(1 + len(step.needs) for step in steps) for steps in inner)
        more = len(new) * each + of_inner + sum(len(after.needs) - len(step.needs) for step, after in behind)
        if (edges := sum(len(step.needs) for step in run.steps.values()) + more) > MAX_EDGES:
            message = f"the workflow would have {edges} needs between steps; the limit is {MAX_EDGES}"
            refuse([Mistake(path, message, "put one step in between")])

    def _planned(self, turn: Turn, run: LiveWorkflow, new: Sequence[Planned]) -> Generator[None, None, list[_New]]:
        there = members(run.states)
        whole: list[Planned] = []
        for planned in new:
            edges = tuple(needs_of(self._group, planned, there, run.jobs.__contains__))
            whole += unfold(planned, edges, self._group.when)
            yield
        first = turn.memory.last_id + 1
        ids = run.jobs | {step.name: first + index for index, step in enumerate(whole)}
        added = []
        for step in whole:
            added.append(_New(step, step_row(step, ids[step.name]), step_needs(step, ids)))
            yield
        return added

    def _specs(
        self, turn: Turn, run: LiveWorkflow, job: Job, added: Sequence[_New]
    ) -> Generator[None, None, list[Spec]]:
        """The spec of every new step. Raises FlowInvalid with all mistakes."""
        spec, workflow = job.spec, run.workflow
        origin = None if spec.schedule is None else Origin(spec.schedule, spec.scheduled_for or 0)
        owner = StepOwner(workflow.name, workflow.owner_uid, origin)
        specs, mistakes = [], dict[Mistake, None]()
        for one in added:
            spec, errors = step_spec(turn, self._intake, owner, one.planned, one.needs)
            errors += [] if one.planned.control else _refused_handlers(spec, owner.uid)
            mistakes.update((step_mistake(one.planned, error), None) for error in errors)
            specs.append(spec)
            yield
        refuse(list(mistakes))
        return specs

    def _reuse(
        self, turn: Turn, run: LiveWorkflow, added: Sequence[_New], specs: Sequence[Spec], rewired: Sequence[Step]
    ) -> Generator[None, None, dict[str, ReuseDecision]]:
        """A decision for each new step, and for those behind the group that could not be compared before."""
        found: dict[str, ReuseDecision] = {}
        if self._wish is None:
            return found
        ready: list[tuple[Compared, Spec]] = [(one.planned, spec) for one, spec in zip(added, specs, strict=True)]
        steps = run.steps | {step.job_id: step for step in (*rewired, *(one.step for one in added))}
        after = behind(steps.values(), [self._group.name]) - {one.step.name for one in added}
        order = TopologicalSorter({step.name: [edge.step for edge in step.needs] for step in steps.values()})
        named = {step.name: step for step in steps.values()}
        yield
        waiting = [named[name] for name in order.static_order() if name in after]
        ready += [
            (step, job.spec) for step in waiting if not (job := turn.job(step.job_id)).attempts and job.state in PENDING
        ]
        for decision in decide(ready, self._wish, self._not_reused(turn, run)):
            found[decision.step] = decision
            yield
        return found

    def _not_reused(self, turn: Turn, run: LiveWorkflow) -> list[str]:
        """The steps that run themselves, so that those behind them do. One that has added steps hands on nothing."""
        return [
            step.name
            for step in run.steps.values()
            if run.reasons[step.name] is not Reason.REUSED
            and step.name != self._group.name
            and not (run.states[step.name] is State.SUCCEEDED and turn.job(step.job_id).spec.command == EXPAND)
        ]

    def _take_over(self, turn: Turn, run: LiveWorkflow, reuse: Mapping[str, ReuseDecision]) -> Iterator[None]:
        """No answer tells the reasons of the other steps, so their histories do."""
        for name, decision in reuse.items():
            job_id = run.jobs[name]
            if decision.taken is None:
                turn.note_job(turn.job(job_id), "not_reused", {"why": decision.why})
            else:
                turn.step(job_id, taken_over(decision.taken, Actor(self._owner_uid)))
                turn.set_needs(job_id, ())
            yield

    def _add(
        self,
        turn: Turn,
        run: LiveWorkflow,
        added: Sequence[_New],
        specs: Sequence[Spec],
        reuse: Mapping[str, ReuseDecision],
    ) -> Generator[None]:
        steps = []
        for one, spec in zip(added, specs, strict=True):
            steps.append(
                (one.planned, spec, [need for need in one.needs if need_now(turn, need, spec.when) is not True])
            )
            yield
        yield from accept_steps(turn, self._intake, run, steps)
        for one in added:
            if (decision := reuse.get(one.step.name)) is None or decision.taken is None:
                judge_needs(turn, one.step.job_id)
            yield

    def _rewire(self, turn: Turn, run: LiveWorkflow, behind: Sequence[Step]) -> Iterator[None]:
        for step in behind:
            rewire_step(turn, run, step, STOKER)
            yield

    def _skip(self, turn: Turn, run: LiveWorkflow, job: Job, gone: Collection[str]) -> Iterator[None]:
        for name in sorted(gone):
            turn.step(run.jobs[name], ev.NeedFailed(needed=job.id, on=NeedOn.OK, reason=Reason.NOT_NEEDED))
            yield

    def _record(
        self,
        turn: Turn,
        run: LiveWorkflow,
        job: Job,
        added: int,
        gone: Sequence[str],
        reuse: Mapping[str, ReuseDecision],
    ) -> Iterator[None]:
        """The flow as it is now, and a whole context: no link of the chain tells of steps that were added."""
        run.workflow = rewritten(run, self._group.widths, self._group.inner_limits)
        turn.batch.workflows[run.workflow.id] = run.workflow
        yield
        about: dict[str, Any] = {
            "step": self._group.name,
            "job": job.id,
            "items": len(self._group.steps),
            "added": added,
        }
        if self._wish is not None:
            about["reused"] = sum(one.taken is not None for one in reuse.values())
        turn.record("workflow", str(run.workflow.id), "expanded", {**about, "skipped": sorted(gone)[:SHOWN]})
        turn.checkpoint(turn.memory.workflows.context(run, turn.now.wall))
        about["skipped"] = len(gone)
        turn.effects.append(LogLine(LogEvent.WORKFLOW_EXPANDED, {"workflow": run.workflow.id, **about}))
        yield
