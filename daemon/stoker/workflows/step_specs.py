"""From a planned step to its spec and its row: what a submit and an expansion at run time share.

Owns the fields of a spec that a step gets from its workflow. Nothing is stored here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import QueueNotFound, StokerError
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Need, Spec
from stoker.core.job.taken_over import TakenOver
from stoker.core.schedule.model import Origin
from stoker.core.workflow.fan_out import Planned
from stoker.core.workflow.handlers import gate
from stoker.core.workflow.items import item_text
from stoker.core.workflow.mistakes import Mistake
from stoker.core.workflow.state import Step
from stoker.core.workflow.step_names import outers_of
from stoker.engine import conditions
from stoker.engine.intake import Intake, from_schedule
from stoker.engine.memory.blueprint import width_of
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.spec_defaults import problems, unknown_limits
from stoker.engine.turn import Turn

ITEM_VARIABLE = "STOKER_ITEM"


class StepOwner(Struct, frozen=True):
    """The workflow of a step: its name, its owner, and the schedule that submitted it."""

    name: str
    uid: int
    origin: Origin | None = None


def step_spec(
    turn: Turn, intake: Intake, owner: StepOwner, step: Planned, needs: tuple[Need, ...]
) -> tuple[Spec, list[StokerError]]:
    """The spec of a step, and all errors that this host has for it beside those of its command."""
    errors: list[StokerError] = []
    judge = step.sure
    try:
        queue = intake.queue(turn, step.sent)
    except QueueNotFound as error:
        errors.append(error)
        queue, judge = turn.memory.queues["default"], False  # the right queue might have other defaults
    spec, contradictions = intake.specs.read(step.sent, queue, needs)
    if judge:
        errors += (*contradictions, *problems(spec, turn.now, turn.memory))
    else:
        errors += unknown_limits(spec, turn.memory)
    errors += conditions.problems(turn, spec.wait_for, owner.uid)
    name = f"{owner.name}/{step.name}" if spec.name is None else spec.name
    fatal = (*spec.no_retry_exit_codes, *step.abort_on)  # a retry would only delay the end of the workflow
    env = spec.env if step.item is None else {**spec.env, ITEM_VARIABLE: item_text(step.item)}
    spec = replace(spec, name=name, env=env, when=step.when, run_if=step.run_if, no_retry_exit_codes=fatal)
    return from_schedule(spec, owner.origin), errors


def step_needs(step: Planned, ids: Mapping[str, int]) -> tuple[Need, ...]:
    """Its needs by job; those of a handler begin with its gate."""
    needs = tuple(Need(ids[edge.step], edge.on) for edge in step.needs)
    return needs if step.handler is None else (gate(ids[step.name]), *needs)


def step_mistake(step: Planned, error: StokerError) -> Mistake:
    """An error of a step with its path in the flow."""
    where, path = step.path, error.details.get("path")
    message = error.message.removeprefix(f"{path}: ") if path else error.message
    if step.control and path == "wait_for":
        return Mistake(where, message, error.hint)  # the need that names the work outside is its path
    return Mistake(f"{where}.{path}" if path else where, message, error.hint)


def step_row(planned: Planned, job_id: int) -> Step:
    """The part of a planned step that its workflow keeps."""
    return Step(
        name=planned.name,
        job_id=job_id,
        needs=planned.needs,
        when=planned.when,
        run_if=planned.text_of_if,
        critical=planned.critical,
        breaks=planned.breaks,
        resume=planned.resume,
        verify=bool(planned.sent.verify),
        handler=planned.handler,
        fail_fast=planned.group if planned.sent.fail_fast is True else None,
        abort_on=planned.abort_on,
    )


def taken_over(earlier: TakenOver, owner: Actor) -> ev.Reused:
    """The event by which a step takes over this end."""
    return ev.Reused(earlier=earlier, actor=replace(owner, note=f"from {earlier.place}"))


def accept_steps(
    turn: Turn,
    intake: Intake,
    run: LiveWorkflow,
    steps: Sequence[tuple[Planned, Spec, Sequence[Need]]],
    **about: Any,
) -> Generator[None]:
    """Store the jobs of these steps, each with its open needs; the workflow has their rows already.

    `about`: further arguments of `Intake.accept`.
    """
    workflow = run.workflow
    for planned, spec, open_needs in steps:
        flows = outers_of(planned.name)  # each may have a `max_running`
        groups = flows if planned.group is None else [*flows, planned.group]
        widths = {width: 1 for group in groups if (width := width_of(workflow.id, group)) in run.widths}
        limited = replace(spec, resources=spec.resources | widths) if widths else spec
        job = intake.accept(
            turn,
            limited,
            workflow.owner_uid,
            open_needs,
            step=planned.name,
            workflow_id=workflow.id,
            trace_id=workflow.trace_id,
            **about,
        )
        assert run.steps[job.id].name == planned.name, "the steps of a workflow get their ids in order"
        yield
