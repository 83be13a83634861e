"""Jobs, workflows and changes as they are committed, and their views in the types that clients get (`core.views`).

Facts in memory, such as the pid and a stop under way, replace the committed ones, because they reach the disk a little
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from stoker.core.access import Viewer
from stoker.core.errors import JobNotFound, WorkflowNotFound
from stoker.core.job.conditions import open_texts
from stoker.core.job.limits import describe
from stoker.core.job.model import Attempt, Change, ExecutionMode, Job, Reason, Spec, State
from stoker.core.job.verdict import suspected_limit
from stoker.core.redaction import redacted_job, without_values
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.memory.rates import buckets_of
from stoker.engine.subscriptions import change_fields
from stoker.service.engine import Engine
from stoker.store import attempts, jobs, workflows
from stoker.store.workflows import StoredWorkflow

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobView, RecordedChange, TakenOverView

_SPEC_FIELDS = tuple(name for name in Spec.__struct_fields__ if name != "env")
_OWN = frozenset({"spec", "spec_hash", "checkpoint_floor", "order_key"})  # of the daemon, or shown in another form
_JOB_FIELDS = tuple(name for name in Job.__struct_fields__ if name not in _OWN)


REMOVED = " any more: it ended long ago and was removed ([retention], stoker purge)"


def job_view(job: Job, memory: LiveState, now_ms: int, log: Path | None, stale_ms: int | None) -> JobView:
    """`now_ms`: steady time; `log`: where its newest attempt is logged; `stale_ms`: the age of a late checkpoint."""
    job, run = laid_over(job, memory)
    view: dict[str, Any] = {name: getattr(job, name) for name in _JOB_FIELDS}
    view |= {name: getattr(job.spec, name) for name in _SPEC_FIELDS}
    view["env_vars"] = job.spec.env
    view["reused"] = _taken_over(job)
    view["run_if"] = None if job.spec.run_if is None else job.spec.run_if.text
    view["conditions_open"] = open_texts(job.spec.wait_for, job.conditions_open)
    view["awaits_token"] = _awaits_token(job, memory, now_ms)
    view["spec_hash"] = job.spec_hash.hex()
    report = None if run is None else memory.worker_status.get(run.attempt.run_id)
    view["progress"] = report and report.progress
    view["status_text"] = report and report.status
    view["last_heartbeat"] = report and report.last_heartbeat
    view["notices_ignored"] = report and report.ignored
    view["unresponsive"] = report is not None and report.unresponsive
    view["stale_ms"] = run and stale_ms
    view["frozen"] = run is not None and run.attempt.run_id in memory.frozen
    view["stopping"] = run is not None and run.attempt.stop_reason is not None
    view["log"] = log and str(log)
    return cast("JobView", view)


def _taken_over(job: Job) -> TakenOverView | None:
    """The step whose end it has taken over; its outputs are those of this job."""
    earlier = job.spec.reused if job.reason is Reason.REUSED else None
    return None if earlier is None else {"workflow": earlier.workflow, "step": earlier.step, "job": earlier.job}


def _awaits_token(job: Job, memory: LiveState, now_ms: int) -> bool:
    """Whether a rate keeps it from starting now. A queue that is paused comes first, as in `explain`."""
    if job.state is not State.QUEUED or memory.queues[job.spec.queue].paused:
        return False
    return any(memory.rates.tokens(name, now_ms) == 0 for name in buckets_of(job.spec))


def laid_over(job: Job, memory: LiveState) -> tuple[Job, OpenRun | None]:
    """The job in memory with its open run, if memory describes the same attempt as the committed row.

    An attempt whose commit is under way is not shown: a client that asked for its log next would get an error.
    """
    run = memory.runs.get(job.id)
    if run is None or (run.job.state, run.job.attempts) != (job.state, job.attempts):
        return job, None
    return run.job, run


def attempt_view(job: Job, attempt: Attempt, memory: LiveState, unstoppable: Sequence[int]) -> AttemptView:
    """An attempt as `job.get` and `job.history` show it. `unstoppable`: pids that the daemon may not signal."""
    run = memory.by_run(attempt.run_id)
    attempt = attempt if run is None else run.attempt
    identity, outcome = attempt.identity, attempt.outcome
    view = {
        name: getattr(attempt, name)
        for name in ("run_id", "ordinal", "launcher", "created_at", "started_at", "ended_at", "stop_reason", "adopted")
    }
    view["pid"] = None if identity is None else identity.pid
    view["unstoppable"] = list(unstoppable)
    view["cgroup"] = None if identity is None else identity.cgroup
    view["outcome"] = None if outcome is None else outcome.kind
    values = msgspec.structs.asdict(outcome) if outcome is not None else {}
    for name in ("exit_code", "signal", "stopped", "error", "user_ms", "system_ms", "max_rss_kib", "log_bytes"):
        view[name] = values.get(name)
    view["limits"] = describe(job.spec.limits, attempt.bounds)
    view["suspicion"] = suspected_limit(attempt.bounds, outcome)
    return cast("AttemptView", view)


async def job_now(engine: Engine, job_id: int) -> Job:
    """The committed job, with what memory adds. Raises JobNotFound."""
    rows = await engine.queries.run(jobs.by_ids, [job_id])
    if job_id not in rows:
        removed = REMOVED if job_id <= engine.memory.last_id else ""
        raise JobNotFound(f"there is no job {job_id}{removed}", hint="stoker ls --all", id=job_id)
    return laid_over(rows[job_id], engine.memory)[0]


async def job_views(engine: Engine, shown: Sequence[Job], viewer: Viewer) -> list[JobView]:
    """Jobs as `job.get` and `job.list` show them."""
    ids = [job.id for job in shown]
    stale = await engine.staleness.ages(ids)
    silent = await engine.queries.run(attempts.silent, ids)

    def log(job: Job) -> Path | None:
        has_log = job.attempts and job.id not in silent and job.spec.execution_mode is not ExecutionMode.IN_PROCESS
        return engine.context.roots.log_path(job.owner_uid, job.id, job.attempts) if has_log else None

    now_ms = engine.clock.now().steady
    views = [job_view(job, engine.memory, now_ms, log(job), stale.get(job.id)) for job in shown]
    for view in views:
        view["env_vars"] = without_values({"env": view["env_vars"]}, engine.config.privacy.redact_env)["env"]
    return [view if viewer.looks_into(view["owner_uid"]) else redacted_job(view) for view in views]


async def stored_workflow(engine: Engine, workflow_id: int) -> StoredWorkflow:
    """A workflow as it is on disk. Raises WorkflowNotFound."""
    rows = await engine.queries.run(workflows.by_ids, [workflow_id])
    if not rows:
        raise no_workflow(engine, workflow_id)
    return rows[0]


def no_workflow(engine: Engine, workflow_id: int) -> WorkflowNotFound:
    removed = REMOVED if workflow_id <= engine.memory.workflows.last_id else ""
    return WorkflowNotFound(f"there is no workflow {workflow_id}{removed}", hint="stoker workflow ls", id=workflow_id)


def change_view(change: Change, hidden: tuple[str, ...]) -> RecordedChange:
    """`hidden`: the names of variables whose values are not shown."""
    details = msgspec.json.decode(change.payload) if isinstance(change.payload, msgspec.Raw) else change.payload
    details.pop("note", None)
    return {**change_fields(change), "details": without_values(details, hidden)}
