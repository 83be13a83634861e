"""The rows of the table of methods that are about workflows.

Owns what rpc/ needs of the engine for them (`Workflows`) and their handlers. Refuses decisions, as `methods` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stoker.core.model import Actor
from stoker.core.workflow import Again, WorkflowFilter
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.rpc.schema import WorkflowListParams, WorkflowParams, WorkflowRetryParams
from stoker.rpc.table import Method, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stoker.core.flow import FlowRequest
    from stoker.rpc.table import Peer, Reply


class Workflows(Protocol):
    """What the engine offers about workflows."""

    def submit(self, request: FlowRequest, peer_uid: int) -> Awaitable[object]: ...
    def get(self, workflow_id: int) -> Awaitable[Reply]: ...
    def list(self, wanted: WorkflowFilter) -> Awaitable[Reply]: ...
    def pause(self, workflow_id: int, actor: Actor) -> Awaitable[Reply]: ...
    def cancel(self, workflow_id: int, actor: Actor) -> Awaitable[Reply]: ...
    def retry(self, workflow_id: int, again: Again, step: str | None, actor: Actor) -> Awaitable[Reply]: ...


class Service(Protocol):
    """The part of `methods.Service` that these rows use."""

    @property
    def workflows(self) -> Workflows: ...


def _submit(service: Service, peer: Peer, params: WorkflowSubmitParams) -> object:
    return service.workflows.submit(read_flow(params), peer.uid)


def _list(service: Service, _peer: Peer, params: WorkflowListParams) -> object:
    wanted = WorkflowFilter(states=params.states, before=params.before, limit=params.limit)
    return service.workflows.list(wanted)


def _pause(service: Service, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.pause(params.id, Actor(peer.uid, params.reason))


def _cancel(service: Service, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.cancel(params.id, Actor(peer.uid, params.reason))


def _retry(service: Service, peer: Peer, params: WorkflowRetryParams) -> object:
    return service.workflows.retry(params.id, params.again, params.step, Actor(peer.uid, params.reason))


WORKFLOW_METHODS: dict[str, Method[Any]] = {
    "workflow.submit": Method(WorkflowSubmitParams, Role.OWNER, _submit),
    "workflow.get": Method(WorkflowParams, Role.OWNER, lambda service, _, params: service.workflows.get(params.id)),
    "workflow.list": Method(WorkflowListParams, Role.OWNER, _list),
    "workflow.pause": Method(WorkflowParams, Role.OWNER, _pause),
    "workflow.cancel": Method(WorkflowParams, Role.OWNER, _cancel),
    "workflow.retry": Method(WorkflowRetryParams, Role.OWNER, _retry),
}
