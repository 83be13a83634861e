"""Needs of a workflow's steps and groups of steps, added and removed by hand.

The flow, the jobs and the rows of open needs change in one turn. Refused are steps that have started, needs that can
never be met, and cycles. Invariant: a submit would accept the changed graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from stoker.core.errors import FlowInvalid, InvalidParams, NotAllowed
from stoker.core.job.dependencies import OVER_ALL, need_met
from stoker.core.job.model import Actor, Job, Need, NeedOn, When
from stoker.core.workflow.cycles import cycle_mistake
from stoker.core.workflow.phases import cycle_in
from stoker.core.workflow.plan import MAX_EDGES
from stoker.core.workflow.state import Edge, Step
from stoker.core.workflow.step_names import fan_out_of, path_of, steps_named
from stoker.engine.memory.live_workflow import LiveWorkflow, rewritten
from stoker.engine.rewiring import may_be_rewired, rewire
from stoker.engine.turn import Turn
from stoker.workflows import commands

if TYPE_CHECKING:
    from stoker.core.workflow_answers import EdgeView, NeedsChanged


class NeedChange(NamedTuple):
    """The change that a person asked for, as the log of changes has it."""

    cause: str
    need: str
    on: NeedOn
    actor: Actor


def add_need(
    turn: Turn, run: LiveWorkflow, *, name: str, need: str, on: NeedOn, actor: Actor
) -> commands.Pieces[NeedsChanged]:
    """Let steps wait for others; each name may be that of a group. Raises FlowInvalid for a cycle."""
    steps, left = _changeable(turn, run, name)
    needed = _named(run, need, "need")
    for one in needed:
        if run.steps[run.jobs[one]].handler is not None:
            raise InvalidParams(f"need: step {one} is a handler, which runs after all steps", path="need")
    changed = []
    for step in steps:
        if (after := _with_needs(turn, run, step, needed, on)) is not step:
            changed.append(after)
        yield
    if not changed:
        raise InvalidParams(f"need: step {steps[0].name} needs {need} already", path="need")
    _check_graph(run, changed)
    return (yield from _rewire(turn, run, changed, left, NeedChange("need_added", need, on, actor)))


def remove_need(turn: Turn, run: LiveWorkflow, *, name: str, need: str, actor: Actor) -> commands.Pieces[NeedsChanged]:
    steps, left = _changeable(turn, run, name)
    changed, ons = [], []
    for step in steps:
        has = [edge.step for edge in step.needs]
        gone = {need} if need in has else set(steps_named(need, has))
        if gone:
            rest = tuple(edge for edge in step.needs if edge.step not in gone)
            ons += [edge.on for edge in step.needs if edge.step in gone]
            changed.append(replace(step, needs=rest, when=step.when if rest else None))
        yield
    if not changed:
        has_needs = ", ".join(edge.step for edge in steps[0].needs) or "nothing"
        raise InvalidParams(f"need: step {steps[0].name} does not need {need!r} (it needs: {has_needs})", path="need")
    return (yield from _rewire(turn, run, changed, left, NeedChange("need_removed", need, ons[0], actor)))


def _named(run: LiveWorkflow, asked: str, path: str) -> list[str]:
    """The steps whose ends are the end of what was named: of a nested workflow the one that ends it. Raises
    StepNotFound."""
    if asked in run.states:
        return [name for name in run.states if fan_out_of(name) == asked] or [asked]
    depth = len(path_of(asked))
    return [name for name in run.steps_named(asked, path) if len(path_of(name)) == depth]


def _changeable(turn: Turn, run: LiveWorkflow, name: str) -> tuple[list[Step], list[str]]:
    """The steps that have not started, and the names of the others of their group. Raises NotAllowed if all have."""
    commands.must_not_go_back(run, "this")
    steps, left = [], []
    for one in _named(run, name, "step"):
        job = turn.job(run.jobs[one])
        if run.steps[job.id].handler is not None:
            raise NotAllowed(
                f"step {one} is a handler: it waits for all steps, so its needs stay as they are",
                hint=f"stoker workflow show {run.workflow.id}",
                step=one,
            )
        if may_be_rewired(turn, job):
            steps.append(run.steps[job.id])
        else:
            left.append(one)
    if not steps:
        state = turn.job(run.jobs[left[0]]).state.value
        raise NotAllowed(
            f"step {left[0]} has started ({state}), so its needs stay as they are",
            hint=f"stoker workflow show {run.workflow.id}",
            step=left[0],
        )
    return steps, left


def _with_needs(turn: Turn, run: LiveWorkflow, step: Step, needed: Sequence[str], on: NeedOn) -> Step:
    """The step with those of these needs that it lacks. Raises InvalidParams if one can never be met."""
    has = {edge.step for edge in step.needs}
    new = [one for one in needed if one not in has]
    if not new:
        return step
    when = step.when if step.needs else When.EACH
    if when in OVER_ALL and on is not NeedOn.OK:
        raise InvalidParams(
            f"on: step {step.name} runs when {when.value} of its needs, so a need of it has no condition of its own",
            path="on",
            hint=f"stoker workflow add-need {run.workflow.id} {step.name} {new[0]}",
        )
    edges = tuple(Edge(one, NeedOn.ANY if when in OVER_ALL else on) for one in new)
    for edge in edges:
        job = turn.job(run.jobs[edge.step])
        if need_met(edge.on, job, when) is False:
            raise InvalidParams(
                f"need: step {edge.step} has ended ({job.state.value}), so this need can never be met",
                path="need",
                hint=f"stoker workflow show {run.workflow.id}",
            )
    return replace(step, needs=(*step.needs, *edges), when=when)


def _check_graph(run: LiveWorkflow, changed: Sequence[Step]) -> None:
    """Raises FlowInvalid for a cycle, InvalidParams for too many needs."""
    needs = {step.name: [edge.step for edge in step.needs] for step in (*run.steps.values(), *changed)}
    if (edges := sum(map(len, needs.values()))) > MAX_EDGES:
        raise InvalidParams(
            f"need: the workflow would have {edges} needs between steps; the limit is {MAX_EDGES}",
            path="need",
            hint="put one step in between",
        )
    itself = next((name for name, own in needs.items() if name in own), None)
    tables = {step.name: step.handler.value for step in run.steps.values() if step.handler is not None}
    cycle = cycle_in(needs, tables) if itself is None else [itself, itself]
    if cycle:
        mistake = cycle_mistake(cycle)
        raise FlowInvalid(
            f"need: {mistake.message}", path="need", cycle=cycle, hint=f"stoker workflow graph {run.workflow.id}"
        )


def _rewire(
    turn: Turn, run: LiveWorkflow, steps: Sequence[Step], left: list[str], change: NeedChange
) -> commands.Pieces[NeedsChanged]:
    jobs = []
    for step in steps:
        jobs.append(rewire_step(turn, run, step, change.actor))
        payload = {
            "step": step.name,
            "job": step.job_id,
            "need": change.need,
            "on": change.on,
            "note": change.actor.note,
        }
        turn.record("workflow", str(run.workflow.id), change.cause, payload, change.actor)
        yield
    run.workflow = rewritten(run)
    turn.batch.workflows[run.workflow.id] = run.workflow
    first = steps[0]
    edges: list[EdgeView] = [{"step": one.step, "on": one.on.value} for one in first.needs]
    return {
        **commands.workflow_standing(run),
        "step": first.name,
        "needs": edges,
        "when": None if first.when is None else first.when.value,
        "step_state": jobs[0].state.value,
        "changed": [step.name for step in steps],
        "left": left,
    }


def rewire_step(turn: Turn, run: LiveWorkflow, step: Step, actor: Actor) -> Job:
    """Give a step that has not started the needs of `step`; the caller rewrites the flow of the workflow."""
    needs = [Need(run.jobs[one.step], one.on) for one in step.needs]
    after = rewire(turn, turn.job(step.job_id), needs, step.when, actor)
    run.steps[step.job_id] = step
    return after
