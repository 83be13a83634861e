"""The rows of the table of methods that are about workflows and checkpoints.

Owns what rpc/ needs of the engine for them (`Workflows`) and their handlers. Refuses decisions, as `methods` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stoker.core.errors import InvalidParams
from stoker.core.job.model import Actor, NeedOn
from stoker.core.requests import CheckpointPart
from stoker.core.workflow.resume import Wish
from stoker.core.workflow.state import Again, WorkflowFilter
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.rpc.schema import (
    CheckpointGetParams,
    CheckpointListParams,
    WorkflowAddNeedParams,
    WorkflowGetParams,
    WorkflowListParams,
    WorkflowNeedParams,
    WorkflowParams,
    WorkflowResumeParams,
    WorkflowRetryParams,
    WorkflowRollbackParams,
    WorkflowStepParams,
)
from stoker.rpc.table import Method, MethodKind, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stoker.core.workflow.definition import FlowRequest
    from stoker.rpc.table import Peer, Reply


class WorkflowCalls(Protocol):
    """What the engine offers about workflows."""

    def submit(self, request: FlowRequest, peer_uid: int) -> Awaitable[object]: ...
    def get(self, workflow_id: int, *, analysed: bool) -> Awaitable[Reply]: ...
    def list(self, wanted: WorkflowFilter) -> Awaitable[Reply]: ...
    def pause(self, workflow_id: int, actor: Actor) -> Awaitable[Reply]: ...
    def cancel(self, workflow_id: int, actor: Actor) -> Awaitable[Reply]: ...
    def retry(
        self, workflow_id: int, again: Again, step: str | None, actor: Actor, **budget: int | None
    ) -> Awaitable[Reply]: ...
    def skip(self, workflow_id: int, step: str, actor: Actor) -> Awaitable[Reply]: ...
    def add_need(self, workflow_id: int, step: str, need: str, on: NeedOn, actor: Actor) -> Awaitable[Reply]: ...
    def remove_need(self, workflow_id: int, step: str, need: str, actor: Actor) -> Awaitable[Reply]: ...
    def resume(self, workflow_id: int, wish: Wish, actor: Actor) -> Awaitable[Reply]: ...
    def rollback(
        self, workflow_id: int, to: int | None, actor: Actor, *, redo: bool, resume: bool
    ) -> Awaitable[Reply]: ...


class CheckpointCalls(Protocol):
    """What the engine offers about checkpoints."""

    def save(self, part: CheckpointPart, connection: int) -> Awaitable[Reply]: ...
    def get(self, ident: int, offset: int | None) -> Awaitable[Reply]: ...
    def context(self, ident: int) -> Awaitable[Reply]: ...
    def list(self, workflow: int | None, job: int, before_seq: int | None, limit: int) -> Awaitable[Reply]: ...


class WorkflowServiceCalls(Protocol):
    """The part of `methods.Service` that these rows use."""

    @property
    def workflows(self) -> WorkflowCalls: ...
    @property
    def checkpoints(self) -> CheckpointCalls: ...


def _submit(service: WorkflowServiceCalls, peer: Peer, request: FlowRequest) -> object:
    return service.workflows.submit(request, peer.uid)


def _get(service: WorkflowServiceCalls, _peer: Peer, params: WorkflowGetParams) -> object:
    return service.workflows.get(params.id, analysed=params.analyse)


def _list(service: WorkflowServiceCalls, _peer: Peer, params: WorkflowListParams) -> object:
    wanted = WorkflowFilter(states=params.states, before=params.before, limit=params.limit)
    return service.workflows.list(wanted)


def _pause(service: WorkflowServiceCalls, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.pause(params.id, Actor(peer.uid, params.reason))


def _cancel(service: WorkflowServiceCalls, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.cancel(params.id, Actor(peer.uid, params.reason))


def _retry(service: WorkflowServiceCalls, peer: Peer, params: WorkflowRetryParams) -> object:
    budget = {"timeout_ms": params.timeout_ms, "max_attempts": params.max_attempts}
    return service.workflows.retry(params.id, params.again, params.step, Actor(peer.uid, params.reason), **budget)


def _skip(service: WorkflowServiceCalls, peer: Peer, params: WorkflowStepParams) -> object:
    return service.workflows.skip(params.id, params.step, Actor(peer.uid, params.reason))


def _add_need(service: WorkflowServiceCalls, peer: Peer, params: WorkflowAddNeedParams) -> object:
    actor = Actor(peer.uid, params.reason)
    return service.workflows.add_need(params.id, params.step, params.need, params.on, actor)


def _remove_need(service: WorkflowServiceCalls, peer: Peer, params: WorkflowNeedParams) -> object:
    return service.workflows.remove_need(params.id, params.step, params.need, Actor(peer.uid, params.reason))


def _resume(service: WorkflowServiceCalls, peer: Peer, params: WorkflowResumeParams) -> object:
    wish = Wish(
        strategy=params.strategy, start=params.start, explain=params.explain, timeout_ms=params.timeout_ms,
        max_attempts=params.max_attempts, verify=params.verify,
    )  # fmt: skip
    return service.workflows.resume(params.id, wish, Actor(peer.uid, params.reason))


def _rollback(service: WorkflowServiceCalls, peer: Peer, params: WorkflowRollbackParams) -> object:
    to = None if params.to == "latest" else params.to
    actor = Actor(peer.uid, params.reason)
    return service.workflows.rollback(params.id, to, actor, redo=params.redo, resume=params.resume)


def _save_checkpoint(service: WorkflowServiceCalls, peer: Peer, part: CheckpointPart) -> object:
    return service.checkpoints.save(part, peer.connection)


def _get_checkpoint(service: WorkflowServiceCalls, _peer: Peer, params: CheckpointGetParams) -> object:
    return (
        service.checkpoints.context(params.id) if params.context else service.checkpoints.get(params.id, params.offset)
    )


def _list_checkpoints(service: WorkflowServiceCalls, _peer: Peer, params: CheckpointListParams) -> object:
    if (params.workflow is None) == (params.job is None):
        raise InvalidParams("params: name one of workflow and job", path="workflow", hint="stoker checkpoint ls 7")
    return service.checkpoints.list(params.workflow, params.job or 0, params.before_seq, params.limit)


WORKFLOW_METHODS: dict[str, Method[Any]] = {
    "workflow.submit": Method(WorkflowSubmitParams, Role.OWNER, _submit, brings_work=True, reader=read_flow),
    "workflow.get": Method(WorkflowGetParams, Role.OWNER, _get, MethodKind.READ),
    "workflow.list": Method(WorkflowListParams, Role.OWNER, _list, MethodKind.READ),
    "workflow.pause": Method(WorkflowParams, Role.OWNER, _pause),
    "workflow.cancel": Method(WorkflowParams, Role.OWNER, _cancel),
    "checkpoint.save": Method(CheckpointPart, Role.OWNER, _save_checkpoint),
    "checkpoint.get": Method(CheckpointGetParams, Role.OWNER, _get_checkpoint, MethodKind.READ),
    "checkpoint.list": Method(CheckpointListParams, Role.OWNER, _list_checkpoints, MethodKind.READ),
    "workflow.retry": Method(WorkflowRetryParams, Role.OWNER, _retry),
    "workflow.skip": Method(WorkflowStepParams, Role.OWNER, _skip),
    "workflow.add_need": Method(WorkflowAddNeedParams, Role.OWNER, _add_need),
    "workflow.remove_need": Method(WorkflowNeedParams, Role.OWNER, _remove_need),
    "workflow.resume": Method(WorkflowResumeParams, Role.OWNER, _resume),
    "workflow.rollback": Method(WorkflowRollbackParams, Role.OWNER, _rollback),
}
