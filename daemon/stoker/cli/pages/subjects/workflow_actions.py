"""The actions on a workflow and on one of its steps, and what each would do.

Owns the previews: a resume is planned by the daemon, without being done; for the others the same rules of `core` that
the daemon follows are asked here, of the states as they are now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stoker.cli.kit import outcome, step_groups
from stoker.cli.kit.naming import few, groups
from stoker.cli.pages.actions import ActionSubject, PageAction, Toggle, offered
from stoker.cli.pages.page import Asked
from stoker.core.errors import UsageError
from stoker.core.job.model import NeedOn, Reason, State
from stoker.core.units import counted
from stoker.core.workflow.checkpoint import chain_of
from stoker.core.workflow.context import Context, ContextStep
from stoker.core.workflow.rollback import plan_rollback, target_of
from stoker.core.workflow.state import Again, Edge, Step, behind, to_reset
from stoker.core.workflow.step_names import found_steps
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import WorkflowDetails
    from stoker.core.wire_types import ContextView
    from stoker.core.workflow_answers import ResumePlan

MOST_NAMED: Final = 12
OPEN: Final = ("running", "paused", "rolling_back")
ENDED: Final = ("succeeded", "failed", "cancelled")
NOT_STARTED: Final = ("waiting", "queued", "held", "failed", "cancelled", "expired")


class FlowSteps(NamedTuple):
    """The steps as the rules of `core` read them."""

    steps: list[Step]
    states: dict[str, State]
    reasons: dict[str, Reason | None]

    @classmethod
    def of(cls, workflow: WorkflowDetails) -> FlowSteps:
        seen = workflow["steps"]
        return cls(
            [
                Step(
                    name=step["name"],
                    job_id=step["job"],
                    needs=tuple(Edge(need["step"], NeedOn(need["on"])) for need in step["needs"]),
                    critical=step["critical"],
                )
                for step in seen
            ],
            {step["name"]: State(step["state"]) for step in seen},
            {step["name"]: Reason(step["reason"]) if step["reason"] else None for step in seen},
        )


def named(what: str, steps: Iterable[str]) -> Iterator[str]:
    """`run again (3 steps): a b c`; nothing without steps."""
    names = sorted(steps)
    if names:
        yield f"{what} ({counted(len(names), 'step')}): {few(groups(names), MOST_NAMED)}"


# --- previews -----------------------------------------------------------------------------------------------


async def _workflow(client: AsyncClient, asked: Asked) -> WorkflowDetails:
    found: WorkflowDetails = await client.call("workflow.get", id=asked.number("workflow"))
    return found


async def _running(client: AsyncClient, asked: Asked) -> list[str]:
    flow = FlowSteps.of(await _workflow(client, asked))
    return list(named("running now", (name for name, state in flow.states.items() if state is State.RUNNING)))


async def _resume(client: AsyncClient, asked: Asked) -> list[str]:
    """The plan that the daemon makes."""
    plan: ResumePlan = await client.call("workflow.resume", explain=True, **_resume_params(asked))
    acts: dict[tuple[str, str], list[str]] = {}
    for step in plan["steps"]:
        acts.setdefault((step["action"], step["why"]), []).append(step["step"])
    lines = [line for (act, why), steps in acts.items() for line in named(f"{act.replace('_', ' ')}: {why}", steps)]
    return [*([plan["chain_warning"]] if plan["chain_warning"] else []), *lines]


async def _retry(client: AsyncClient, asked: Asked, again: Again) -> list[str]:
    return _reset_lines(to_reset(again, *FlowSteps.of(await _workflow(client, asked))))


async def _retry_failed(client: AsyncClient, asked: Asked) -> list[str]:
    return await _retry(client, asked, Again.FAILED)


async def _retry_all(client: AsyncClient, asked: Asked) -> list[str]:
    return await _retry(client, asked, Again.ALL)


async def _retry_step(client: AsyncClient, asked: Asked) -> list[str]:
    workflow = await _workflow(client, asked)
    return _reset_lines(behind(FlowSteps.of(workflow).steps, _steps(workflow, asked)))


def _reset_lines(reset: Iterable[str]) -> list[str]:
    return list(named("queued again", reset)) or ["no step failed, so no step is queued again"]


async def _skip(client: AsyncClient, asked: Asked) -> list[str]:
    workflow, name = await _workflow(client, asked), _step(asked)
    flow, skipped = FlowSteps.of(workflow), _steps(workflow, asked)
    after = behind(flow.steps, skipped) - set(skipped)
    lost = {one for one in after if flow.states[one] is State.SKIPPED and flow.reasons[one] is Reason.DEPENDENCY}
    going_on = (one for one in after if flow.states[one].value not in outcome.FINAL)
    return [*named(f"go on without what {name} was to do", going_on), *named("run after all", lost)]


async def _rollback(client: AsyncClient, asked: Asked) -> list[str]:
    params = _rollback_params(asked)
    workflow, stood = await asyncio.gather(
        _workflow(client, asked), client.call("checkpoint.get", id=params["to"], context=True)
    )
    if stood["chain"] != chain_of(workflow["id"]):
        raise UsageError(
            f"to: checkpoint {params['to']} is not one of workflow {workflow['id']}",
            hint=f"stoker checkpoint ls {workflow['id']}",
        )
    flow = FlowSteps.of(workflow)
    target = target_of(context_of(stood), params["to"], redo=params["redo"], resume=params["resume"], uid=None)
    plan = plan_rollback(target, *flow)
    redone = set(plan.not_undone) & set(plan.reset)
    damaged = [f"checkpoint {stood['damaged']} is damaged: the state before it counts"] if stood["damaged"] else []
    return [
        *damaged,
        *named("stopped first", (name for name, state in flow.states.items() if state is State.RUNNING)),
        *named("reset, to run again", set(plan.reset) - redone),
        *named("completed since then, and run again", redone),
        *named("completed since then, and kept: their effects stay", set(plan.not_undone) - redone),
        *named("completed then, and kept", plan.kept),
    ]


def context_of(view: ContextView) -> Context:
    return Context(
        chain=view["chain"],
        seq=view["seq"],
        steps={
            name: ContextStep(
                job=step["job"],
                state=State(step["state"]),
                reason=Reason(step["reason"]) if step["reason"] else None,
                floor=step["floor"],
            )
            for name, step in view["steps"].items()
        },
        holds=view["holds"],
        damaged=view["damaged"],
    )


# --- the table ----------------------------------------------------------------------------------------------


def _id(asked: Asked) -> dict[str, Any]:
    return {"id": asked.number("workflow")}


def _step(asked: Asked) -> str:
    """The step of the query. Raises UsageError."""
    name = asked.text("step")
    if name is None:
        raise UsageError("the address names no step: it ends with ?step=NAME")
    return name


def _steps(workflow: WorkflowDetails, asked: Asked) -> list[str]:
    """The steps that the name stands for. Raises StepNotFound."""
    return found_steps(workflow["id"], _step(asked), [step["name"] for step in workflow["steps"]])


def _step_params(asked: Asked) -> dict[str, Any]:
    return {**_id(asked), "step": _step(asked)}


def _resume_params(asked: Asked) -> dict[str, Any]:
    return {**_id(asked), **({"strategy": "restart"} if asked.text("restart") else {})}


def _rollback_params(asked: Asked) -> dict[str, Any]:
    to = asked.optional_number("to")
    if to is None:
        raise UsageError("the address names no checkpoint: it ends with ?to=ID", hint="choose one of the checkpoints")
    return {**_id(asked), "to": to, "redo": bool(asked.text("redo")), "resume": bool(asked.text("resume"))}


async def subject(client: AsyncClient, asked: Asked) -> ActionSubject:
    workflow = await _workflow(client, asked)
    number = workflow["id"]
    return ActionSubject(f"workflow {number}", workflow["state"], workflow["name"], f"/workflows/{number}")


async def step_subject(client: AsyncClient, asked: Asked) -> ActionSubject:
    """A step, or a group of steps in the state of the most urgent one. Raises StepNotFound."""
    workflow = await _workflow(client, asked)
    number, found = workflow["id"], set(_steps(workflow, asked))
    steps = [step for step in workflow["steps"] if step["name"] in found]
    what = f"step {_step(asked)}" if len(steps) == 1 else f"{len(steps)} steps of {_step(asked)}"
    state = step_groups.most_urgent(step["state"] for step in steps)
    return ActionSubject(f"{what} of workflow {number}", state, workflow["name"], f"/workflows/{number}#steps")


OF_WORKFLOW: Final = (
    PageAction(
        "/workflows/{workflow}/cancel",
        "Cancel",
        "Running steps are stopped: each gets SIGTERM, and SIGKILL after its grace. The others are cancelled.",
        OPEN,
        "workflow.cancel",
        subject,
        _id,
        _running,
    ),
    PageAction(
        "/workflows/{workflow}/pause",
        "Pause",
        "Steps that run go on; no further steps start.",
        ("running",),
        "workflow.pause",
        subject,
        _id,
        _running,
    ),
    PageAction(
        "/workflows/{workflow}/resume",
        "Resume",
        "The workflow goes on. This is the plan:",
        ("paused", "failed", "cancelled"),
        "workflow.resume",
        subject,
        _resume_params,
        _resume,
        (Toggle("restart", "begin steps that did not complete from their start, not from their last checkpoint"),),
    ),
    PageAction(
        "/workflows/{workflow}/retry-failed",
        "Retry what failed",
        "The steps that failed and those that were skipped because of them are queued again.",
        ("running", "paused", "failed", "cancelled"),
        "workflow.retry",
        subject,
        lambda asked: {**_id(asked), "again": "failed"},
        _retry_failed,
    ),
    PageAction(
        "/workflows/{workflow}/retry-all",
        "Retry all",
        "Every step is queued again, also those that succeeded.",
        ENDED,
        "workflow.retry",
        subject,
        lambda asked: {**_id(asked), "again": "all"},
        _retry_all,
    ),
)
OF_STEP: Final = (
    PageAction(
        "/workflows/{workflow}/retry-step",
        "Retry",
        "The step and all that depend on it are queued again.",
        (*outcome.FINAL, "held"),
        "workflow.retry",
        step_subject,
        _step_params,
        _retry_step,
    ),
    PageAction(
        "/workflows/{workflow}/skip-step",
        "Skip",
        "The step counts as done without a run: steps that need it start.",
        NOT_STARTED,
        "workflow.skip",
        step_subject,
        _step_params,
        _skip,
    ),
)
TO_CHECKPOINT: Final = PageAction(
    "/workflows/{workflow}/rollback",
    "Roll back",
    "The workflow returns to a checkpoint: running steps are stopped, then the steps that were not complete at it are"
    " reset. What steps did to the world stays.",
    (),
    "workflow.rollback",
    subject,
    _rollback_params,
    _rollback,
    (
        Toggle("redo", "also run steps again that completed since then"),
        Toggle("resume", "go on at once; else the workflow stays paused"),
    ),
)
ACTIONS: Final = (*OF_WORKFLOW, *OF_STEP, TO_CHECKPOINT)


def useful(workflow: WorkflowDetails) -> list[PageAction]:
    """The actions with a button on the page: to retry what failed is not among them if no step failed."""
    actions = offered(OF_WORKFLOW, workflow["state"])
    if to_reset(Again.FAILED, *FlowSteps.of(workflow)):
        return actions
    return [action for action in actions if action.preview is not _retry_failed]
