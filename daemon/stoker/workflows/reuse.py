"""The earlier run that a submit or an expansion reuses: found, and read before the turn that decides.

The decisions are made in `core.workflow.reuse`. Invariant: a person reuses only runs of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec import Struct

from stoker.core.errors import CheckpointDamaged, WorkflowNotFound
from stoker.core.job.model import Job, Reason, Spec
from stoker.core.job.taken_over import FileHashes
from stoker.core.workflow.checkpoint import Checkpoint, opened
from stoker.core.workflow.definition import FlowRequest
from stoker.core.workflow.reuse import EarlierRun, EarlierStep, ReuseWish
from stoker.core.workflow.state import behind
from stoker.engine.memory.blueprint import blueprint, steps_of
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.host.file_hashes import FilesWanted, hashes_of
from stoker.store import attempts, checkpoints, workflows
from stoker.store import jobs as job_rows
from stoker.store.reader import Reader
from stoker.store.workflows import StoredWorkflow
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

WITHIN_S = 60.0  # for the files of all steps together


class _End(Struct):
    """The part of a checkpoint of the end of a step that is read here."""

    files: FileHashes | None = None


async def wish_of(reader: Reader, request: FlowRequest, owner_uid: int, newest: int | None = None) -> ReuseWish | None:
    """The facts for the decisions; None if nothing is to be reused. Raises WorkflowNotFound.

    `newest`: the workflow that `latest` means. If it is not there, that is the newest one of the name of the flow.
    """
    workflow = request.reuse
    if workflow is None:
        return None
    if workflow == "latest":
        there = [] if newest is None else await reader.run(workflows.by_ids, [newest])
        mine = [each.workflow.id for each in there if each.workflow.owner_uid == owner_uid]
        workflow = mine[0] if mine else await reader.run(workflows.newest_named, request.flow.name, owner_uid)
    earlier = None if workflow is None else await _earlier_run(reader, int(workflow), owner_uid)
    files = {} if earlier is None else await _files_of(earlier)
    return ReuseWish(earlier=earlier, begins=bool(request.part.starts), files=files)


async def later_wish(reader: Reader, run: LiveWorkflow, group: str) -> ReuseWish | None:
    """The facts for steps that are added to a workflow now, and for those behind `group`; None if nothing is reused."""
    workflow = blueprint(run.workflow).reuse
    rows = [] if workflow is None else await reader.run(workflows.by_ids, [workflow])
    if not rows:  # there was none, or it was purged
        return None
    ahead = run.jobs.keys() - behind(run.steps.values(), [group])
    earlier = await _steps_of(reader, rows[0], ahead)
    return ReuseWish(earlier=earlier, files=await _files_of(earlier))


async def _files_of(run: EarlierRun) -> dict[str, FileHashes]:
    return await files_now({name: one.spec for name, one in run.steps.items()})


async def files_now(specs: Mapping[str, Spec]) -> dict[str, FileHashes]:
    """The hashes of the files of these steps, of those that have some."""
    wanted = {
        name: FilesWanted(spec.working_dir, spec.sources, spec.produces)
        for name, spec in specs.items()
        if spec.sources or spec.produces
    }
    found = await hashes_of(list(wanted.values()), WITHIN_S) if wanted else []
    return {name: one.hashes for name, one in zip(wanted, found, strict=True)}


async def files_then(reader: Reader, jobs: Iterable[Job]) -> dict[int, FileHashes]:
    """The hashes that the ends of these steps recorded, by job."""
    with_files = [job for job in jobs if job.spec.sources or job.spec.produces]
    taken = {job.id: job.spec.reused.files for job in with_files if job.reason is Reason.REUSED and job.spec.reused}
    ends = await reader.run(checkpoints.step_ends, [job.id for job in with_files if job.id not in taken])
    recorded = {job_id: _files_in(end) for job_id, end in ends.items()} | taken
    return {job_id: files for job_id, files in recorded.items() if files is not None}


def _files_in(end: Checkpoint) -> FileHashes | None:
    try:
        return msgspec.json.decode(opened(end), type=_End).files
    except CheckpointDamaged as damaged:
        log(LogEvent.CHECKPOINT_DAMAGED, job=end.job_id, checkpoint=end.id, error=damaged)
        return None


async def _earlier_run(reader: Reader, workflow: int, owner_uid: int) -> EarlierRun:
    rows = await reader.run(workflows.by_ids, [workflow])
    if not rows or rows[0].workflow.owner_uid != owner_uid:
        hint = "stoker workflow ls, or --reuse latest"
        raise WorkflowNotFound(f"reuse: there is no workflow {workflow} of yours", path="reuse", hint=hint, id=workflow)
    return await _steps_of(reader, rows[0])


async def _steps_of(reader: Reader, stored: StoredWorkflow, without: Collection[str] = ()) -> EarlierRun:
    """Its steps; those that are being purged are gone."""
    steps = [step for step in steps_of(stored.workflow) if step.name not in without]
    ids = [step.job_id for step in steps]
    jobs = await reader.run(job_rows.by_ids, ids)
    outputs = await reader.run(attempts.outputs, ids)
    files = await files_then(reader, jobs.values())
    found = {
        step.name: EarlierStep(
            job=job.id,
            state=job.state,
            reason=job.reason,
            spec=job.spec,
            needs=step.needs,
            when=step.when,
            output=outputs.get(job.id),
            files=files.get(job.id),
        )
        for step in steps
        if (job := jobs.get(step.job_id)) is not None
    }
    return EarlierRun(stored.workflow.id, found)
