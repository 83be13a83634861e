"""The earlier run that a submit reuses: found, and read before the turn that decides.

The decisions are made in `core.workflow.reuse`. Invariant: a person reuses only runs of their own.
"""

from __future__ import annotations

from stoker.core.errors import PermissionDenied, WorkflowNotFound
from stoker.core.workflow.definition import FlowRequest
from stoker.core.workflow.reuse import EarlierRun, EarlierStep, ReuseWish
from stoker.engine.memory.workflows import steps_of
from stoker.store import attempts, workflows
from stoker.store import jobs as job_rows
from stoker.store.reader import Reader
from stoker.store.workflows import StoredWorkflow


async def wish_of(reader: Reader, request: FlowRequest, owner_uid: int) -> ReuseWish:
    """The facts for the decisions. Raises WorkflowNotFound or PermissionDenied."""
    workflow = request.reuse
    if workflow == "latest":
        workflow = await reader.run(workflows.newest_named, request.flow.name, owner_uid)
    earlier = None if workflow is None else await _earlier_run(reader, int(workflow), owner_uid)
    return ReuseWish(earlier=earlier, begins=bool(request.part.starts))


async def _earlier_run(reader: Reader, workflow: int, owner_uid: int) -> EarlierRun:
    rows = await reader.run(workflows.by_ids, [workflow])
    if not rows:
        hint = "stoker workflow ls, or --reuse latest"
        raise WorkflowNotFound(f"reuse: there is no workflow {workflow}", path="reuse", hint=hint, id=workflow)
    if rows[0].workflow.owner_uid != owner_uid:
        raise PermissionDenied(
            f"reuse: workflow {workflow} is of another user (uid {rows[0].workflow.owner_uid})",
            path="reuse",
            hint="reuse a run of your own: stoker workflow ls",
        )
    return await _steps_of(reader, rows[0])


async def _steps_of(reader: Reader, stored: StoredWorkflow) -> EarlierRun:
    """Its steps; those that are being purged are gone."""
    ids = [one.job_id for one in stored.steps]
    jobs = await reader.run(job_rows.by_ids, ids)
    outputs = await reader.run(attempts.outputs, ids)
    steps = {
        step.name: EarlierStep(
            job=job.id,
            state=job.state,
            reason=job.reason,
            spec=job.spec,
            needs=step.needs,
            when=step.when,
            output=outputs.get(job.id),
        )
        for step in steps_of(stored.workflow)
        if (job := jobs.get(step.job_id)) is not None
    }
    return EarlierRun(stored.workflow.id, steps)
