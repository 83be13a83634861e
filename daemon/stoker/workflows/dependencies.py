"""Needs of a workflow's steps, added and removed by hand.

The flow, the job of the step and the rows of open needs change in one turn. Refused are steps that have started, needs
that can never be met, and cycles. Invariant: a submit would accept the changed graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stoker.core.errors import FlowInvalid, InvalidParams, NotAllowed
from stoker.core.job import events as ev
from stoker.core.job.dependencies import OVER_ALL, need_met, skipped_for_need
from stoker.core.job.model import Actor, Job, Need, NeedOn, State, When
from stoker.core.workflow.cycles import cycle_mistake, find_cycle
from stoker.core.workflow.state import Edge, Step
from stoker.engine.dependents import has_failed, need_now
from stoker.engine.memory.live_workflow import LiveWorkflow, rewritten
from stoker.engine.turn import Turn
from stoker.workflows import commands

if TYPE_CHECKING:
    from stoker.core.wire_types import EdgeView, NeedsChanged

PENDING = (State.WAITING, State.QUEUED)


@commands.in_one_piece
def add_need(turn: Turn, run: LiveWorkflow, *, name: str, need: str, on: NeedOn, actor: Actor) -> NeedsChanged:
    """Raises FlowInvalid for a cycle."""
    step = _changeable(turn, run, name)
    name, need = step.name, run.check_step(need, "need")  # each may be the name of a group with one step
    if run.steps[run.jobs[need]].handler is not None:
        raise InvalidParams(f"need: step {need} is a handler, which runs after all steps", path="need")
    if any(edge.step == need for edge in step.needs):
        raise InvalidParams(f"need: step {name} needs {need} already", path="need")
    needs = {one.name: [edge.step for edge in one.needs] for one in run.steps.values()}
    needs[name] = [*needs[name], need]
    cycle = [name, name] if name == need else find_cycle(needs)
    if cycle:
        mistake = cycle_mistake(cycle)
        raise FlowInvalid(
            f"need: {mistake.message}", path="need", cycle=cycle, hint=f"stoker workflow graph {run.workflow.id}"
        )
    when = step.when if step.needs else When.EACH
    if when in OVER_ALL and on is not NeedOn.OK:
        raise InvalidParams(
            f"on: step {name} runs when {when.value} of its needs, so a need of it has no condition of its own",
            path="on",
            hint=f"stoker workflow add-need {run.workflow.id} {name} {need}",
        )
    edge = Edge(need, NeedOn.ANY if when in OVER_ALL else on)
    needed = turn.job(run.jobs[need])
    if need_met(edge.on, needed, when) is False:
        raise InvalidParams(
            f"need: step {need} has ended ({needed.state.value}), so this need can never be met",
            path="need",
            hint=f"stoker workflow show {run.workflow.id}",
        )
    return _rewire(turn, run, replace(step, needs=(*step.needs, edge), when=when), "need_added", edge, actor)


@commands.in_one_piece
def remove_need(turn: Turn, run: LiveWorkflow, *, name: str, need: str, actor: Actor) -> NeedsChanged:
    step = _changeable(turn, run, name)
    removed = next((edge for edge in step.needs if edge.step == need), None)
    if removed is None:
        needed = ", ".join(edge.step for edge in step.needs) or "nothing"
        raise InvalidParams(f"need: step {name} does not need {need!r} (it needs: {needed})", path="need")
    left = tuple(edge for edge in step.needs if edge is not removed)
    changed = replace(step, needs=left, when=step.when if left else None)
    return _rewire(turn, run, changed, "need_removed", removed, actor)


def _changeable(turn: Turn, run: LiveWorkflow, name: str) -> Step:
    commands.must_not_go_back(run, "this")
    job = turn.job(run.jobs[run.check_step(name)])
    if run.steps[job.id].handler is not None:
        raise NotAllowed(
            f"step {name} is a handler: it waits for all steps, so its needs stay as they are",
            hint=f"stoker workflow show {run.workflow.id}",
            step=name,
        )
    if not may_be_rewired(turn, job):
        raise NotAllowed(
            f"step {name} has started ({job.state.value}), so its needs stay as they are",
            hint=f"stoker workflow show {run.workflow.id}",
            step=name,
        )
    return run.steps[job.id]


def _is_open(turn: Turn, job: Job, need: Need, when: When | None) -> bool:
    """Whether the job waits for the need. One that failed counts if the job was, or soon will be, skipped for it.

    A retry of the needed job must find it then. A job that was itself retried ignores the need: it would wait for ever.
    """
    met = need_now(turn, need, when)
    if met is False and not job.final:
        return need.job in turn.memory.needed or (job.not_needed and not has_failed(turn, need, when))
    return met is not True


def _rewire(turn: Turn, run: LiveWorkflow, step: Step, cause: str, edge: Edge, actor: Actor) -> NeedsChanged:
    after = rewire_step(turn, run, step, actor)
    run.workflow = rewritten(run)
    turn.batch.workflows[run.workflow.id] = run.workflow
    payload = {"step": step.name, "job": step.job_id, "need": edge.step, "on": edge.on, "note": actor.note}
    turn.record("workflow", str(run.workflow.id), cause, payload, actor)
    edges: list[EdgeView] = [{"step": one.step, "on": one.on.value} for one in step.needs]
    return {
        **commands.workflow_standing(run),
        "step": step.name,
        "needs": edges,
        "when": None if step.when is None else step.when.value,
        "step_state": after.state.value,
    }


def rewire_step(turn: Turn, run: LiveWorkflow, step: Step, actor: Actor) -> Job:
    """Give a step that has not started the needs of `step`; the caller rewrites the flow of the workflow."""
    job = turn.job(step.job_id)
    needs = tuple(Need(run.jobs[one.step], one.on) for one in step.needs)
    pending = [need for need in needs if _is_open(turn, job, need, step.when)]
    if step.when in OVER_ALL and (job.final or not pending):
        pending = list(needs) if job.final else [needs[-1]]  # a retry finds it; the release below decides
    after = turn.step(job.id, ev.Rewired(actor=actor, needs=needs, when=step.when, needs_open=len(pending)))
    turn.set_needs(job.id, pending)
    ended = (need.job for need in pending if not job.final and need_now(turn, need, step.when) is not None)
    turn.effects.extend(ev.ReleaseDependents(needed, job.id - 1) for needed in ended)
    run.steps[job.id] = step
    return after


def may_be_rewired(turn: Turn, job: Job) -> bool:
    """Whether the needs of a step can still change: it has not started."""
    by_need = skipped_for_need(job.state, job.reason)
    return job.id not in turn.memory.runs and (job.state in PENDING or job.attempts == 0 or by_need)
