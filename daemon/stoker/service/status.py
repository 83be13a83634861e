"""Views and streams that combine several parts: jobs, status, queues, resources, history, logs.

Owns their fields. Everything here only reads.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stoker.core.clock import Now
from stoker.core.errors import AttemptNotFound, JobNotFound, LogUnreadable, WorkflowNotFound
from stoker.core.job.admission import paused
from stoker.core.job.model import Change, ExecutionMode, Job, State
from stoker.core.shortage import Shortage
from stoker.core.workflow import strategies
from stoker.engine.memory import LiveState
from stoker.engine.subscriptions import change_fields
from stoker.process.attempt_logs import Chunk, log_path, tail_offset
from stoker.process.attempt_logs import follow as follow_log
from stoker.service.assembly import Engine
from stoker.service.views import job_view, laid_over
from stoker.store import attempts, jobs, workflows
from stoker.store.workflows import StoredWorkflow

if TYPE_CHECKING:
    from stoker.core.daemon_views import EngineStatus, LauncherView, QueueView, ResourceView, ShortageView
    from stoker.core.views import JobView, RecordedChange


REMOVED = " any more: it ended long ago and was removed ([retention], stoker purge)"


class LogFeed(NamedTuple):
    """The log of one attempt; the generator ends with the log."""

    attempt: int
    chunks: AsyncGenerator[Chunk, None]


async def job_now(engine: Engine, job_id: int) -> Job:
    """The committed job, with what memory adds. Raises JobNotFound."""
    rows = await engine.queries.run(jobs.by_ids, [job_id])
    if job_id not in rows:
        removed = REMOVED if job_id <= engine.memory.last_id else ""
        raise JobNotFound(f"there is no job {job_id}{removed}", hint="stoker ls --all", id=job_id)
    return laid_over(rows[job_id], engine.memory)[0]


async def job_views(engine: Engine, shown: Sequence[Job]) -> list[JobView]:
    """Jobs as `job.get` and `job.list` show them."""
    ids = [job.id for job in shown]
    stale = await engine.staleness.ages(ids)
    silent = await engine.queries.run(attempts.silent, ids)

    def log(job: Job) -> Path | None:
        has_log = job.attempts and job.id not in silent and job.spec.execution_mode is ExecutionMode.SUBPROCESS
        return log_path(engine.state_dir, job.id, job.attempts) if has_log else None

    return [job_view(job, engine.memory, log(job), stale.get(job.id)) for job in shown]


async def stored_workflow(engine: Engine, workflow_id: int) -> StoredWorkflow:
    """A workflow as it is on disk. Raises WorkflowNotFound."""
    rows = await engine.queries.run(workflows.by_ids, [workflow_id])
    if not rows:
        removed = REMOVED if workflow_id <= engine.memory.workflows.last_id else ""
        message = f"there is no workflow {workflow_id}{removed}"
        raise WorkflowNotFound(message, hint="stoker workflow ls", id=workflow_id)
    return rows[0]


def change_view(change: Change) -> RecordedChange:
    details = msgspec.json.decode(change.payload) if isinstance(change.payload, msgspec.Raw) else change.payload
    note = details.pop("note", None)
    return {**change_fields(change), "note": note, "details": details}


def queue_views(engine: Engine) -> list[QueueView]:
    memory, throttled = engine.memory, engine.throttle.pressure.throttled
    return [
        {
            "name": queue.name,
            "class": queue.queue_class,
            "max_running": queue.max_running,
            "min_running": queue.min_running,
            "narrowed_to": memory.narrowed[queue.name].limit if queue.name in memory.narrowed else None,
            "max_queued": queue.max_queued,
            "paused": queue.paused,
            "throttled": not queue.paused and paused(queue, throttled=throttled),
            "defaults": queue.defaults,
            "queued": memory.counts[queue.name, State.QUEUED],
            "waiting": memory.counts[queue.name, State.WAITING],
            "held": memory.counts[queue.name, State.HELD],
            "running": memory.running[queue.name],
        }
        for queue in sorted(memory.queues.values(), key=lambda queue: queue.name)
    ]


def resource_views(memory: LiveState) -> list[ResourceView]:
    return [
        {"name": name, "capacity": resource.capacity, "used": memory.used[name], "holders": memory.holders(name)}
        for name, resource in sorted(memory.resources.items())
    ]


def _mode(engine: Engine) -> str:
    refusal = engine.refusals.current()
    return (engine.dispatcher.closed or "running") if refusal is None else refusal.message


def status_view(engine: Engine) -> EngineStatus:
    """The part of `system.status` that comes from the engine."""
    memory, pressure, safe_mode = engine.memory, engine.throttle.pressure, engine.safe_mode.state
    return {
        "mode": _mode(engine) if safe_mode is None else "safe",
        "safe_mode": None if safe_mode is None else safe_mode.why,
        "safe_mode_next": None if safe_mode is None else safe_mode.next,
        "max_running": engine.dispatcher.slots,
        "running": len(memory.runs),
        "queued": memory.total(State.QUEUED),
        "waiting": memory.total(State.WAITING),
        "held": memory.total(State.HELD),
        "queues": queue_views(engine),
        "resources": resource_views(memory),
        "memory": memory_view(engine),
        "slow_turns": engine.stalls.turns,
        "slow_callbacks": engine.stalls.callbacks,
        "pressure": {
            "levels": {gauge.value: round(level, 1) for gauge, level in pressure.levels.items()},
            "throttled": pressure.throttled,
            "causes": [cause.value for cause in pressure.causes],
            "since": pressure.since,
            "throttle_events": pressure.events,
        },
        "strategies": strategies.all_names(),
        "host_shortage": shortage_view(memory.shortage, engine.clock.now()),
        "last_seq": engine.subscriptions.seq,  # of the newest committed change, not of memory
    }


def shortage_view(shortage: Shortage, now: Now) -> ShortageView | None:
    """The reason why the host can start no process; None while it can."""
    if not shortage.lasts:
        return None
    next_try_ms = max(0, shortage.try_at - now.steady)
    return {"error": shortage.error, "since": shortage.since, "next_try_in_ms": next_try_ms}


def memory_view(engine: Engine) -> dict[str, int]:
    """The number of objects of each kind in memory: live ones, and a bounded front of the queues."""
    memory = engine.memory
    return {
        "attempts": len(memory.runs),
        "ready_jobs": sum(ready.held for ready in memory.ready.values()),
        "workflows": len(memory.workflows.runs),
        "workers_heard": len(memory.worker_status),
        "alarms": len(engine.timers),
        "needed_jobs": len(memory.needed),
    }


def launcher_views(engine: Engine) -> list[LauncherView]:
    """The launchers of `system.status`."""
    launchers = engine.local.launchers
    running = Counter(run.attempt.launcher for run in engine.memory.runs.values())
    return [
        {
            "id": client.launcher,
            "pid": client.pid,
            "state": "stuck" if launchers.silent(client.launcher) else "ok",
            "running": running[client.launcher],
            "leaked": client.leaked,
        }
        for client in launchers.all
    ]


async def log_feed(
    engine: Engine, job: Job, ordinal: int | None, offset: int | None, tail_lines: int | None, *, follow: bool
) -> LogFeed:
    """The log of one attempt, by default the newest. With `follow` also that of the next attempt, before it begins.

    Raises AttemptNotFound.
    """
    wanted = max(job.attempts, int(follow)) if ordinal is None else ordinal
    if wanted > job.attempts + int(follow) or wanted == 0:
        problem = f"has no attempt {wanted}; its newest is {job.attempts}" if job.attempts else "has not started yet"
        raise AttemptNotFound(f"job {job.id} {problem}", hint=f"stoker why {job.id}", id=job.id)
    return LogFeed(wanted, _chunks(engine, job, wanted, offset, tail_lines, follow=follow))


async def _chunks(
    engine: Engine, job: Job, ordinal: int, offset: int | None, tail_lines: int | None, *, follow: bool
) -> AsyncGenerator[Chunk, None]:
    closed = asyncio.Event()
    watcher = asyncio.ensure_future(_close_when_over(engine, job.id, ordinal, closed)) if follow else None
    path = log_path(engine.state_dir, job.id, ordinal)
    loop = asyncio.get_running_loop()
    try:
        if watcher is None:
            closed.set()
        start = offset or 0
        if tail_lines is not None:
            start = await loop.run_in_executor(engine.log_threads, tail_offset, path, tail_lines)
        async for chunk in follow_log(path, offset=start, closed=closed, threads=engine.log_threads):
            yield chunk
        if watcher is not None:
            await watcher  # raises the error that ended the watcher
        if not await loop.run_in_executor(engine.log_threads, os.path.lexists, path):
            await _refuse_lost_log(engine, job, ordinal)
    except OSError as error:
        raise LogUnreadable(
            f"the log of job {job.id}, attempt {ordinal}, cannot be read: {error.strerror}", hint=f"ls -l {path}"
        ) from error
    finally:
        if watcher is not None:
            watcher.cancel()


async def _refuse_lost_log(engine: Engine, job: Job, ordinal: int) -> None:
    """Raises LogUnreadable if the log of an attempt that wrote one is missing. Without output there is no log."""
    newest = await engine.queries.run(attempts.page, job.id, ordinal + 1, 1)
    outcome = newest[0].outcome if newest and newest[0].ordinal == ordinal else None
    if outcome is not None and outcome.log_bytes:
        raise LogUnreadable(
            f"the log of job {job.id}, attempt {ordinal}, is gone: {outcome.log_bytes} bytes were written to it",
            hint=f"ls -l {log_path(engine.state_dir, job.id, ordinal).parent}",
        )


async def _close_when_over(engine: Engine, job_id: int, ordinal: int, closed: asyncio.Event) -> None:
    """Set `closed` when that attempt has ended or will never begin, and also when the watch itself fails."""
    feed = engine.subscriptions.watch(engine.subscriptions.seq, job_id)
    try:
        if not _over(engine, await job_now(engine, job_id), ordinal):
            async for _ in feed.changes:
                if _over(engine, await job_now(engine, job_id), ordinal):
                    break
    finally:
        closed.set()


def _over(engine: Engine, job: Job, ordinal: int) -> bool:
    run = engine.memory.runs.get(job.id)
    open_ordinal = run.attempt.ordinal if run is not None else None
    started = job.attempts >= ordinal
    return (started and open_ordinal != ordinal) or (not started and (job.final or job.state is State.HELD))
