"""The table of methods: every method of the protocol has one row in `METHODS`.

Owns one short handler a method: it reads the parameters, calls the service and renders the result. It decides nothing
and waits for nothing. A handler returns a value, a future of the engine (alone, or as `Later` with a function that
renders its result) or a coroutine, which becomes a task; that of a streaming method returns a `Stream`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stoker.core.answers import SubmitAnswer
from stoker.core.errors import InvalidParams, StokerError
from stoker.core.job.model import Actor
from stoker.core.requests import (
    JobChanges,
    JobFilter,
    JobParam,
    JobParams,
    Purge,
    QueueSettings,
    RateSettings,
    RestartParams,
    RetryParams,
    Verb,
    VerbParams,
)
from stoker.core.standstill import Wait
from stoker.core.workflow.mistakes import MAX_MISTAKES
from stoker.engine.intake import Places, Seeker
from stoker.engine.subscriptions import ChangeFeed
from stoker.process.attempt_logs import Chunk
from stoker.rpc import schema
from stoker.rpc.event_methods import EVENT_METHODS
from stoker.rpc.hook_methods import HOOK_METHODS
from stoker.rpc.overview_methods import OVERVIEW_METHODS
from stoker.rpc.peer import Peer
from stoker.rpc.quota_methods import QUOTA_METHODS
from stoker.rpc.schedule_methods import SCHEDULE_METHODS
from stoker.rpc.table import Later, Method, MethodKind, Reply, Stream
from stoker.rpc.workflow_methods import WORKFLOW_METHODS
from stoker.service.logs import LogFeed, LogStart
from stoker.service.service import Service

RENDERED_AT_ONCE = 500  # answers of a batch; a thread renders more of them, as ten thousand errors take 0.2 s

# --- jobs ---------------------------------------------------------------------------------------------------


def _submit(service: Service, peer: Peer, params: JobParams) -> Later:
    return Later(service.submit([params], peer.viewer, atomic=True), _only)


def _only(answers: list[SubmitAnswer | StokerError]) -> SubmitAnswer:
    (answer,) = answers
    if isinstance(answer, StokerError):
        raise answer
    return answer


class JobBatch(NamedTuple):
    """The jobs of a batch: each one is valid, or the error that it is refused with."""

    jobs: list[JobParams | StokerError]
    atomic: bool


def _read_jobs(params: schema.SubmitManyParams) -> JobBatch:
    """A full sentence for a mistake is slow to build: only the first ones get it, the others msgspec's short text."""
    read: list[JobParams | StokerError] = []
    wrong = 0
    for index, job in enumerate(params.jobs):
        try:
            read.append(schema.read_params(job, JobParams, f"jobs[{index}]", full_text=wrong < MAX_MISTAKES))
        except InvalidParams as error:
            if params.atomic:
                raise
            read.append(error.as_value())
            wrong += 1
    return JobBatch(read, params.atomic)


def _submit_many(service: Service, peer: Peer, batch: JobBatch) -> object:
    good = [job for job in batch.jobs if isinstance(job, JobParams)]
    submitted = service.submit(good, peer.viewer, atomic=batch.atomic) if good else None
    if len(batch.jobs) > RENDERED_AT_ONCE:
        return _rendered(batch.jobs, submitted)
    render = partial(_slots, batch.jobs)
    return render([]) if submitted is None else Later(submitted, render)


async def _rendered(
    read: list[JobParams | StokerError], submitted: asyncio.Future[list[SubmitAnswer | StokerError]] | None
) -> Reply:
    return await asyncio.to_thread(_slots, read, [] if submitted is None else await submitted)


def _slots(read: list[JobParams | StokerError], answers: list[SubmitAnswer | StokerError]) -> Reply:
    """One answer a job, in the order sent: its own error, or the engine's next answer."""
    answered = iter(answers)
    return {"jobs": [_slot(job if isinstance(job, StokerError) else next(answered), i) for i, job in enumerate(read)]}


def _slot(answer: SubmitAnswer | StokerError, index: int) -> object:
    if not isinstance(answer, StokerError):
        return answer
    placed = str(answer.details.get("path", "")).startswith("jobs[")
    return {"error": (answer if placed else answer.within(f"jobs[{index}]")).to_wire()}


def _get(service: Service, peer: Peer, params: schema.GetParams) -> object:
    return service.get(params.id, params.before, params.limit, peer.viewer)


def _history(service: Service, _peer: Peer, params: schema.HistoryParams) -> object:
    return service.history(params.id, params.after, params.limit)


def _verb(verb: Verb, params: type[VerbParams] = VerbParams) -> Method[Any]:
    return Method(params, lambda service, peer, sent: service.command(verb, sent, peer.uid))


def _edit(service: Service, peer: Peer, params: schema.EditParams) -> object:
    changes = JobChanges(**{name: getattr(params, name) for name in JobChanges.__struct_fields__})
    return service.edit(params.id, changes, peer.uid, params.reason)


async def _wait(service: Service, _peer: Peer, params: schema.WaitParams) -> Reply:
    token = params.token if params.timeout_ms is None else None  # a wait with a limit ends by itself
    with service.waiting(token, Wait(jobs=params.ids)):
        return {"jobs": await service.wait(params.ids, any_one=params.any, timeout_ms=params.timeout_ms)}


# --- streams ------------------------------------------------------------------------------------------------


async def _logs(service: Service, _peer: Peer, params: schema.LogsParams) -> Stream:
    start = LogStart(params.offset, params.tail_lines, params.tail_bytes)
    feed = await service.logs(params.id, params.attempt, start, follow=params.follow)
    waiting = service.waiting(params.token, Wait(jobs=(params.id,)))
    return Stream({"attempt": feed.attempt}, _log_notifications(feed, waiting))


async def _log_notifications(feed: LogFeed, waiting: AbstractContextManager[None]) -> AsyncGenerator[Reply, None]:
    with waiting:
        async with aclosing(feed.chunks) as chunks:
            async for chunk in chunks:
                yield _log_notification(feed.attempt, chunk)


def _log_notification(attempt: int, chunk: Chunk) -> Reply:
    where = {"attempt": attempt, "offset": chunk.offset}
    if chunk.data is None:
        return {**where, "hole": chunk.hole_bytes}
    return {**where, "data": base64.b64encode(chunk.data).decode()}


async def _watch(service: Service, peer: Peer, params: schema.WatchParams) -> Stream:
    feed = await service.watch(params.after, params.history, params.job, params.workflow, peer.viewer)
    jobs = () if params.job is None else (params.job,)
    waiting = service.waiting(params.token, Wait(jobs=jobs, workflow=params.workflow))
    return Stream({"seq": feed.seq}, _change_notifications(feed, waiting))


async def _change_notifications(feed: ChangeFeed, waiting: AbstractContextManager[None]) -> AsyncGenerator[Reply, None]:
    with waiting:
        async with aclosing(feed.changes) as batches:
            async for changes in batches:
                yield {"changes": changes}


async def _backup(service: Service, _peer: Peer, params: schema.BackupParams) -> Stream:
    return Stream({}, _backup_notifications(service, params))


async def _backup_notifications(service: Service, params: schema.BackupParams) -> AsyncGenerator[Reply, None]:
    async with aclosing(service.backups.make(None if params.to is None else Path(params.to))) as steps:
        async for progress in steps:
            yield {**progress}


# --- queues and resources -------------------------------------------------------------------------------------


def _seeker(peer: Peer, params: schema.QueueWaitParams) -> Seeker:
    wanted = Places(params.places, max(params.places, params.places_in_all))
    return Seeker(wanted, peer.uid, params.workflow)


def _pause(service: Service, peer: Peer, params: schema.QueueParams) -> object:
    return service.pause_queue(params.name, peer.uid, params.reason, paused=True)


def _resume(service: Service, peer: Peer, params: schema.QueueParams) -> object:
    return service.pause_queue(params.name, peer.uid, params.reason, paused=False)


def _set_resource(service: Service, peer: Peer, params: schema.ResourceSetParams) -> object:
    return service.set_resource(params.name, params.capacity, peer.uid, params.reason)


def _remove_rate(service: Service, peer: Peer, params: schema.RateParams) -> object:
    return service.rates.remove(params.key, Actor(peer.uid, params.reason))


METHODS: dict[str, Method[Any]] = {
    "job.submit": Method(JobParams, _submit, brings_work=True),
    "job.submit_many": Method(schema.SubmitManyParams, _submit_many, brings_work=True, reader=_read_jobs),
    "job.get": Method(schema.GetParams, _get, MethodKind.READ),
    "job.find": Method(
        schema.FindParams,
        lambda service, peer, sent: service.find(peer.uid, sent.idempotency_key),
        MethodKind.READ,
    ),
    "job.list": Method(JobFilter, lambda service, peer, wanted: service.list(wanted, peer.viewer), MethodKind.READ),
    "job.edit": Method(schema.EditParams, _edit),
    "job.cancel": _verb(Verb.CANCEL),
    "job.retry": _verb(Verb.RETRY, RetryParams),
    "job.skip": _verb(Verb.SKIP),
    "job.hold": _verb(Verb.HOLD),
    "job.release": _verb(Verb.RELEASE),
    "job.restart": _verb(Verb.RESTART, RestartParams),
    "job.wait": Method(schema.WaitParams, _wait, MethodKind.WAIT),
    "job.logs": Method(schema.LogsParams, _logs, MethodKind.STREAM),
    "job.why": Method(JobParam, lambda service, peer, job: service.why(job.id, peer.viewer), MethodKind.READ),
    "job.environment": Method(JobParam, lambda service, _, job: service.workers.environment(job.id), MethodKind.READ),
    "worker.get": Method(
        schema.WorkerParams, lambda service, _, params: service.workers.get(params.job), MethodKind.READ
    ),
    "job.history": Method(schema.HistoryParams, _history, MethodKind.READ),
    "queue.list": Method(schema.NoParams, lambda service, _peer, _: service.queues(), MethodKind.READ),
    "queue.set": Method(QueueSettings, lambda service, peer, settings: service.set_queue(settings, peer.uid)),
    "queue.wait": Method(
        schema.QueueWaitParams,
        lambda service, peer, params: service.wait_for_room(params.name, _seeker(peer, params), params.timeout_ms),
        MethodKind.WAIT,
    ),
    "queue.pause": Method(schema.QueueParams, _pause),
    "queue.resume": Method(schema.QueueParams, _resume),
    "resource.list": Method(schema.NoParams, lambda service, peer, _: service.resources(peer.viewer), MethodKind.READ),
    "resource.set": Method(schema.ResourceSetParams, _set_resource),
    "rate.list": Method(schema.NoParams, lambda service, _peer, _: service.rates.list(), MethodKind.READ),
    "rate.set": Method(RateSettings, lambda service, peer, settings: service.rates.set(settings, peer.uid)),
    "rate.remove": Method(schema.RateParams, _remove_rate),
    "system.status": Method(schema.NoParams, lambda service, peer, _: service.status(peer.viewer), MethodKind.READ),
    "system.health": Method(schema.NoParams, lambda service, _peer, _: service.health(), MethodKind.READ),
    "system.settings": Method(schema.NoParams, lambda service, _peer, _: service.settings(), MethodKind.READ),
    "system.reload": Method(schema.NoParams, lambda service, _peer, _: service.reload()),
    "system.drain": Method(
        schema.DrainParams, lambda service, _, params: service.drain(stop=params.stop), MethodKind.DIRECT
    ),
    "system.backup": Method(schema.BackupParams, _backup, MethodKind.STREAM),
    "system.backups": Method(schema.NoParams, lambda service, _peer, _: service.backups.list(), MethodKind.READ),
    "system.purge": Method(Purge, lambda service, peer, asked: service.purge(asked, peer.uid)),
    "watch": Method(schema.WatchParams, _watch, MethodKind.STREAM),
    **WORKFLOW_METHODS,
    **SCHEDULE_METHODS,
    **EVENT_METHODS,
    **HOOK_METHODS,
    **OVERVIEW_METHODS,
    **QUOTA_METHODS,
}
