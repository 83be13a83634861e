"""One run of a schedule: its template becomes a job or a workflow, within the turn that settles its slot.

Invariant: a run is submitted only if no run has its key, and the key is stored in the commit of its job.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import InvalidParams, StokerError
from stoker.core.job.conditions import Tree, changes_awaited
from stoker.core.job.model import NeedOn, SupersedeRunning
from stoker.core.requests import JobParams, JobWork, NeedParams
from stoker.core.schedule.model import FlowPart, Origin, Overlap, Schedule
from stoker.core.schedule.slots import DueSlots, due_slots
from stoker.core.workflow.definition import Flow, FlowRequest, Part
from stoker.engine import conditions
from stoker.engine.intake import Intake
from stoker.engine.submit import Submission
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted
from stoker.workflows.submit import WorkflowOffer, WorkflowSubmission

SLOTS_AT_ONCE = 100  # that one turn settles
WAIT_FOR = '"wait_for"'  # a template without it need not be decoded

_flow = msgspec.json.Decoder(Flow).decode


def work_of(schedule: Schedule) -> JobWork | None:
    """The job of the template; None if the template is a workflow."""
    return None if schedule.job is None else msgspec.json.decode(schedule.job, type=JobWork)


def request_of(flow: str, wanted: FlowPart) -> FlowRequest:
    """The request to submit the workflow of a template. Too slow for a turn."""
    raw, part = msgspec.Raw(flow.encode()), Part(wanted.target, wanted.start)
    return FlowRequest(flow=_flow(flow), raw=raw, part=part, reuse=wanted.reuse)


class PlannedRuns(Struct, frozen=True):
    """The due slots of a schedule. `due` is None if they cannot be computed, because of the `problem`.

    `refusal`: why a workflow cannot be offered for them.
    """

    schedule: Schedule
    due: DueSlots | None
    offer: WorkflowOffer | None = None
    refusal: StokerError | None = None
    problem: str = ""


def plan(schedules: Iterable[Schedule], now: int) -> list[PlannedRuns]:
    """The due slots of some due schedules: the first ones, up to SLOTS_AT_ONCE. A cron expression is slow."""
    planned: list[PlannedRuns] = []
    slots = 0
    for schedule in schedules:
        if slots >= SLOTS_AT_ONCE:
            break
        planned.append(_plan(schedule, now))
        slots += max(1, len(planned[-1].due.slots) if planned[-1].due else 0)
    return planned


def _plan(schedule: Schedule, now: int) -> PlannedRuns:
    try:
        return PlannedRuns(schedule, due_slots(schedule, now))
    except InvalidParams as error:
        return PlannedRuns(schedule, None, problem=error.message)


def declare_reads(wanted: Wanted, schedule: Schedule, origin: Origin, offer: WorkflowOffer | None) -> None:
    """Declare the reads of `submit`: whether this run was submitted before, the newest run, and what it waits for."""
    wanted.keys.add((schedule.owner_uid, origin.key))
    if schedule.overlap is Overlap.SUPERSEDE:
        wanted.supersede_keys.add((schedule.owner_uid, _supersede_key(schedule)))
    if schedule.last_job is not None and schedule.overlap is not Overlap.ALLOW:
        wanted.ids.add(schedule.last_job)
    for tree in _trees(schedule, offer):
        conditions.declare_reads(wanted, tree, schedule.owner_uid)


def _trees(schedule: Schedule, offer: WorkflowOffer | None) -> Iterator[Tree]:
    """The conditions of its job, or of the steps of its workflow."""
    if offer is not None:
        yield from (step.sent.wait_for for step in offer.plan.steps if step.sent.wait_for)
    elif schedule.job is not None and WAIT_FOR in schedule.job:
        work = work_of(schedule)
        if work is not None and work.wait_for:
            yield work.wait_for


def changing(schedule: Schedule, offer: WorkflowOffer | None) -> list[str]:
    """The conditions of its next run about changes of files."""
    return changes_awaited(_trees(schedule, offer))


def changing_of_all(planned: Iterable[PlannedRuns]) -> list[str]:
    trees = (tree for each in planned if each.due and each.due.slots for tree in _trees(each.schedule, each.offer))
    return changes_awaited(trees)


def _supersede_key(schedule: Schedule) -> str:
    return f"schedule/{schedule.name}"


def was_submitted(turn: Turn, schedule: Schedule, origin: Origin) -> bool:
    return (schedule.owner_uid, origin.key) in turn.loaded.keys


def last_run(turn: Turn, schedule: Schedule) -> str | None:
    """The newest run, if it has not ended: `job 7`."""
    if schedule.last_workflow is not None:
        live = turn.memory.workflows.runs.get(schedule.last_workflow)
        return None if live is None or live.workflow.finished_at is not None else f"workflow {schedule.last_workflow}"
    job = None if schedule.last_job is None else turn.find(schedule.last_job)
    return None if job is None or job.final else f"job {job.id}"


def submit(
    turn: Turn,
    intake: Intake,
    schedule: Schedule,
    origin: Origin,
    offer: WorkflowOffer | None,
    seen: Mapping[str, str],
) -> Generator[None, None, Schedule]:
    """Submit a run; returns the schedule with its newest run. Raises StokerError without having changed anything.

    `seen`: the present state of the paths for whose change the run waits.
    """
    if offer is None:
        return (yield from _submit_job(turn, intake, schedule, origin, seen))
    workflow = WorkflowSubmission(intake, replace(offer, key=origin.key, origin=origin))
    workflow.seen = seen
    answer = yield from workflow.accept_or_try(turn)
    if answer.skipped:
        return replace(schedule, last_slot=origin.scheduled_for)
    first = min(job for job in answer.steps.values() if job is not None)
    return replace(schedule, last_slot=origin.scheduled_for, last_job=first, last_workflow=answer.id)


def _submit_job(
    turn: Turn, intake: Intake, schedule: Schedule, origin: Origin, seen: Mapping[str, str]
) -> Generator[None, None, Schedule]:
    params: dict[str, Any] = {"idempotency_key": origin.key}
    if schedule.overlap is Overlap.QUEUE and last_run(turn, schedule) is not None:
        params["needs"] = (NeedParams(job=schedule.last_job or 0, on=NeedOn.ANY),)
    if schedule.overlap is Overlap.SUPERSEDE:
        params |= {"supersede_key": _supersede_key(schedule), "supersede_running": SupersedeRunning.STOP}
    work = work_of(schedule)
    assert work is not None, "a schedule has the template of a job or of a workflow"
    job = JobParams(**{name: getattr(work, name) for name in JobWork.__struct_fields__}, **params)
    submission = Submission(intake, [job], schedule.owner_uid, atomic=True, origin=origin)
    submission.seen = seen
    (answer,) = yield from submission.accept_all(turn)
    if isinstance(answer, StokerError):
        raise answer
    return replace(schedule, last_slot=origin.scheduled_for, last_job=answer.id, last_workflow=None)
