"""The one table of methods: a name without a row in `METHODS` does not exist.

Owns what rpc/ needs of the engine (`Service`) and one short handler a method: read what was sent, call the service,
render what comes back. Refuses decisions and waiting: a handler returns a value, a future of the engine (alone or as
`Later`, with what renders it), or a coroutine, which becomes a task; one that streams, a coroutine of a `Stream`.

Roles say who may call once users other than the daemon's own are let in: owner (own jobs), operator (all jobs,
queues, resources), admin (the daemon itself).
"""

from __future__ import annotations

import base64
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stoker.core.errors import InvalidParams, StokerError
from stoker.core.requests import (
    ChangeFeed,
    CommandOptions,
    JobChanges,
    JobFilter,
    JobParams,
    JobStanding,
    LogChunk,
    LogFeed,
    QueueSettings,
    SubmitAnswer,
    Verb,
)
from stoker.core.workflow.mistakes import MAX_MISTAKES
from stoker.rpc.schema import (
    DrainParams,
    EditParams,
    FindParams,
    GetParams,
    HistoryParams,
    JobParam,
    ListParams,
    LogsParams,
    NoParams,
    QueueParams,
    QueueSetParams,
    ResourceSetParams,
    RestartParams,
    RetryParams,
    SubmitManyParams,
    VerbParams,
    WaitParams,
    WatchParams,
    read_params,
)
from stoker.rpc.table import Later, Method, MethodKind, Peer, Reply, Role, Stream
from stoker.rpc.worker_methods import WORKER_METHODS, WorkerCalls
from stoker.rpc.workflow_methods import WORKFLOW_METHODS, CheckpointCalls, WorkflowCalls

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Awaitable, Sequence


class ServiceCalls(Protocol):
    """What the engine offers. Futures and awaitables fail with a StokerError, or with a bug of ours."""

    def submit(
        self, jobs: list[JobParams], peer_uid: int, *, atomic: bool
    ) -> asyncio.Future[list[SubmitAnswer | StokerError]]: ...
    def edit(
        self, job_id: int, changes: JobChanges, peer_uid: int, note: str | None
    ) -> asyncio.Future[JobStanding]: ...
    def command(
        self, verb: Verb, job_id: int, peer_uid: int, options: CommandOptions
    ) -> asyncio.Future[JobStanding]: ...
    def get(self, job_id: int, before: int | None, limit: int) -> Awaitable[Reply]: ...
    def find(self, peer_uid: int, key: str) -> Awaitable[Reply]: ...
    def list(self, wanted: JobFilter) -> Awaitable[Reply]: ...
    def history(self, job_id: int, after: int, limit: int) -> Awaitable[Reply]: ...
    def why(self, job_id: int) -> Awaitable[Reply]: ...
    def wait(
        self, job_ids: Sequence[int], *, any_one: bool, timeout_ms: int | None
    ) -> Awaitable[Sequence[JobStanding]]: ...
    def logs(
        self, job_id: int, ordinal: int | None, offset: int | None, tail_lines: int | None, *, follow: bool
    ) -> Awaitable[LogFeed]: ...
    def watch(self, after_seq: int | None, job_id: int | None) -> Awaitable[ChangeFeed]: ...
    def queues(self) -> Awaitable[Reply]: ...
    def set_queue(self, settings: QueueSettings, peer_uid: int, note: str | None) -> Awaitable[Reply]: ...
    def pause_queue(self, name: str, peer_uid: int, note: str | None, *, paused: bool) -> Awaitable[Reply]: ...
    def resources(self) -> Awaitable[Reply]: ...
    def set_resource(self, name: str, capacity: int, peer_uid: int, note: str | None) -> Awaitable[Reply]: ...
    def status(self) -> Awaitable[Reply]: ...
    def health(self) -> Awaitable[Reply]: ...
    def drain(self, *, stop: bool) -> Awaitable[Reply]: ...
    def reload(self) -> Awaitable[Reply]: ...
    def hung_up(self, connection: int) -> None: ...
    @property
    def workflows(self) -> WorkflowCalls: ...
    @property
    def workers(self) -> WorkerCalls: ...
    @property
    def checkpoints(self) -> CheckpointCalls: ...


# --- jobs ---------------------------------------------------------------------------------------------------


def _submit(service: ServiceCalls, peer: Peer, params: JobParams) -> Later:
    return Later(service.submit([params], peer.uid, atomic=True), _only)


def _only(answers: list[SubmitAnswer | StokerError]) -> SubmitAnswer:
    (answer,) = answers
    if isinstance(answer, StokerError):
        raise answer
    return answer


class JobBatch(NamedTuple):
    """The jobs of a batch, each read or with its own mistake."""

    jobs: list[JobParams | StokerError]
    atomic: bool


def _read_jobs(params: SubmitManyParams) -> JobBatch:
    """Words are slow to find: the first mistakes get them, the others are told in those of the decoder."""
    read: list[JobParams | StokerError] = []
    wrong = 0
    for index, job in enumerate(params.jobs):
        try:
            read.append(read_params(job, JobParams, f"jobs[{index}]", in_words=wrong < MAX_MISTAKES))
        except InvalidParams as error:
            if params.atomic:
                raise
            read.append(error)
            wrong += 1
    return JobBatch(read, params.atomic)


def _submit_many(service: ServiceCalls, peer: Peer, batch: JobBatch) -> object:
    good = [job for job in batch.jobs if isinstance(job, JobParams)]
    render = partial(_slots, batch.jobs)
    return Later(service.submit(good, peer.uid, atomic=batch.atomic), render) if good else render([])


def _slots(read: list[JobParams | StokerError], answers: list[SubmitAnswer | StokerError]) -> Reply:
    """One answer a job, in the order sent: its own mistake, or the next of the engine's answers."""
    answered = iter(answers)
    return {"jobs": [_slot(job if isinstance(job, StokerError) else next(answered), i) for i, job in enumerate(read)]}


def _slot(answer: SubmitAnswer | StokerError, index: int) -> object:
    if not isinstance(answer, StokerError):
        return answer
    placed = str(answer.details.get("path", "")).startswith("jobs[")
    return {"error": (answer if placed else answer.within(f"jobs[{index}]")).to_wire()}


def _get(service: ServiceCalls, _peer: Peer, params: GetParams) -> object:
    return service.get(params.id, params.before, params.limit)


def _history(service: ServiceCalls, _peer: Peer, params: HistoryParams) -> object:
    return service.history(params.id, params.after, params.limit)


def _list(service: ServiceCalls, _peer: Peer, params: ListParams) -> object:
    key, _, value = (params.label or "").partition("=")
    wanted = JobFilter(
        states=params.states,
        queue=params.queue,
        name=params.name,
        label=(key, value) if params.label else None,
        before=params.before,
        limit=params.limit,
    )
    return service.list(wanted)


def _verb(verb: Verb, params: type[VerbParams] = VerbParams) -> Method[Any]:
    def handler(service: ServiceCalls, peer: Peer, sent: VerbParams) -> object:
        options = CommandOptions(
            reason_note=sent.reason,
            yes=getattr(sent, "yes", False),
            timeout_ms=getattr(sent, "timeout_ms", None),
            deadline=getattr(sent, "deadline", None),
            force=getattr(sent, "force", False),
            reassign=getattr(sent, "reassign", False),
        )
        return service.command(verb, sent.id, peer.uid, options)

    return Method(params, Role.OWNER, handler)


def _edit(service: ServiceCalls, peer: Peer, params: EditParams) -> object:
    changes = JobChanges(**{name: getattr(params, name) for name in JobChanges.__struct_fields__})
    return service.edit(params.id, changes, peer.uid, params.reason)


async def _wait(service: ServiceCalls, _peer: Peer, params: WaitParams) -> Reply:
    return {"jobs": await service.wait(params.ids, any_one=params.any, timeout_ms=params.timeout_ms)}


# --- streams ------------------------------------------------------------------------------------------------


async def _logs(service: ServiceCalls, _peer: Peer, params: LogsParams) -> Stream:
    feed = await service.logs(params.id, params.attempt, params.offset, params.tail_lines, follow=params.follow)
    return Stream({"attempt": feed.attempt}, _log_notifications(feed))


async def _log_notifications(feed: LogFeed) -> AsyncGenerator[Reply, None]:
    async with aclosing(feed.chunks) as chunks:
        async for chunk in chunks:
            yield _log_notification(feed.attempt, chunk)


def _log_notification(attempt: int, chunk: LogChunk) -> Reply:
    where = {"attempt": attempt, "offset": chunk.offset}
    if chunk.data is None:
        return {**where, "hole": chunk.hole_bytes}
    return {**where, "data": base64.b64encode(chunk.data).decode()}


async def _watch(service: ServiceCalls, _peer: Peer, params: WatchParams) -> Stream:
    feed = await service.watch(params.after, params.job)
    return Stream({"seq": feed.seq}, _change_notifications(feed))


async def _change_notifications(feed: ChangeFeed) -> AsyncGenerator[Reply, None]:
    async with aclosing(feed.changes) as batches:
        async for changes in batches:
            yield {"changes": changes}


# --- queues and resources -------------------------------------------------------------------------------------


def _set_queue(service: ServiceCalls, peer: Peer, params: QueueSetParams) -> object:
    settings = QueueSettings(
        name=params.name,
        queue_class=params.queue_class,
        max_running=params.max_running,
        max_queued=params.max_queued,
        defaults=params.defaults,
    )
    return service.set_queue(settings, peer.uid, params.reason)


def _pause(service: ServiceCalls, peer: Peer, params: QueueParams) -> object:
    return service.pause_queue(params.name, peer.uid, params.reason, paused=True)


def _resume(service: ServiceCalls, peer: Peer, params: QueueParams) -> object:
    return service.pause_queue(params.name, peer.uid, params.reason, paused=False)


def _set_resource(service: ServiceCalls, peer: Peer, params: ResourceSetParams) -> object:
    return service.set_resource(params.name, params.capacity, peer.uid, params.reason)


METHODS: dict[str, Method[Any]] = {
    "job.submit": Method(JobParams, Role.OWNER, _submit, brings_work=True),
    "job.submit_many": Method(SubmitManyParams, Role.OWNER, _submit_many, brings_work=True, reader=_read_jobs),
    "job.get": Method(GetParams, Role.OWNER, _get, MethodKind.READ),
    "job.find": Method(
        FindParams,
        Role.OWNER,
        lambda service, peer, sent: service.find(peer.uid, sent.idempotency_key),
        MethodKind.READ,
    ),
    "job.list": Method(ListParams, Role.OWNER, _list, MethodKind.READ),
    "job.edit": Method(EditParams, Role.OWNER, _edit),
    "job.cancel": _verb(Verb.CANCEL),
    "job.retry": _verb(Verb.RETRY, RetryParams),
    "job.skip": _verb(Verb.SKIP),
    "job.hold": _verb(Verb.HOLD),
    "job.release": _verb(Verb.RELEASE),
    "job.restart": _verb(Verb.RESTART, RestartParams),
    "job.wait": Method(WaitParams, Role.OWNER, _wait, MethodKind.WAIT),
    "job.logs": Method(LogsParams, Role.OWNER, _logs, MethodKind.STREAM),
    "job.why": Method(JobParam, Role.OWNER, lambda service, _, job: service.why(job.id), MethodKind.READ),
    "job.history": Method(HistoryParams, Role.OWNER, _history, MethodKind.READ),
    "queue.list": Method(NoParams, Role.OWNER, lambda service, _peer, _none: service.queues()),
    "queue.set": Method(QueueSetParams, Role.OPERATOR, _set_queue),
    "queue.pause": Method(QueueParams, Role.OPERATOR, _pause),
    "queue.resume": Method(QueueParams, Role.OPERATOR, _resume),
    "resource.list": Method(NoParams, Role.OWNER, lambda service, _peer, _none: service.resources()),
    "resource.set": Method(ResourceSetParams, Role.OPERATOR, _set_resource),
    "system.status": Method(NoParams, Role.OWNER, lambda service, _peer, _none: service.status()),
    "system.health": Method(NoParams, Role.OWNER, lambda service, _peer, _none: service.health()),
    "system.reload": Method(NoParams, Role.ADMIN, lambda service, _peer, _none: service.reload()),
    "system.drain": Method(DrainParams, Role.ADMIN, lambda service, _, params: service.drain(stop=params.stop)),
    "watch": Method(WatchParams, Role.OWNER, _watch, MethodKind.STREAM),
    **WORKFLOW_METHODS,
    **WORKER_METHODS,
}
