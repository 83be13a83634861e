"""The rows of the table of methods for workflows and checkpoints.

Owns their handlers, by the same rules as methods.py: read the parameters, call the service, return what it gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.core.errors import InvalidParams
from stoker.core.job.model import Actor
from stoker.core.requests import CheckpointPart
from stoker.core.workflow.resume import Wish
from stoker.core.workflow.state import WorkflowFilter
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
from stoker.rpc.table import Method, MethodKind

if TYPE_CHECKING:
    from stoker.core.workflow.definition import FlowRequest
    from stoker.rpc.table import Peer
    from stoker.service.service import Service


def _submit(service: Service, peer: Peer, request: FlowRequest) -> object:
    return service.workflows.submit(request, peer.uid)


def _get(service: Service, _peer: Peer, params: WorkflowGetParams) -> object:
    return service.workflows.get(params.id, analysed=params.analyse)


def _list(service: Service, _peer: Peer, params: WorkflowListParams) -> object:
    wanted = WorkflowFilter(states=params.states, before=params.before, limit=params.limit)
    return service.workflows.list(wanted)


def _pause(service: Service, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.pause(params.id, Actor(peer.uid, params.reason))


def _cancel(service: Service, peer: Peer, params: WorkflowParams) -> object:
    return service.workflows.cancel(params.id, Actor(peer.uid, params.reason))


def _retry(service: Service, peer: Peer, params: WorkflowRetryParams) -> object:
    budget = {"timeout_ms": params.timeout_ms, "max_attempts": params.max_attempts}
    return service.workflows.retry(params.id, params.again, params.step, Actor(peer.uid, params.reason), **budget)


def _skip(service: Service, peer: Peer, params: WorkflowStepParams) -> object:
    return service.workflows.skip(params.id, params.step, Actor(peer.uid, params.reason))


def _add_need(service: Service, peer: Peer, params: WorkflowAddNeedParams) -> object:
    actor = Actor(peer.uid, params.reason)
    return service.workflows.add_need(params.id, params.step, params.need, params.on, actor)


def _remove_need(service: Service, peer: Peer, params: WorkflowNeedParams) -> object:
    return service.workflows.remove_need(params.id, params.step, params.need, Actor(peer.uid, params.reason))


def _resume(service: Service, peer: Peer, params: WorkflowResumeParams) -> object:
    wish = Wish(
        strategy=params.strategy,
        start=params.start,
        explain=params.explain,
        timeout_ms=params.timeout_ms,
        max_attempts=params.max_attempts,
        verify=params.verify,
    )
    return service.workflows.resume(params.id, wish, Actor(peer.uid, params.reason))


def _rollback(service: Service, peer: Peer, params: WorkflowRollbackParams) -> object:
    to = None if params.to == "latest" else params.to
    actor = Actor(peer.uid, params.reason)
    return service.workflows.rollback(params.id, to, actor, redo=params.redo, resume=params.resume)


def _save_checkpoint(service: Service, peer: Peer, part: CheckpointPart) -> object:
    return service.checkpoints.save(part, peer.connection)


def _get_checkpoint(service: Service, _peer: Peer, params: CheckpointGetParams) -> object:
    return (
        service.checkpoints.context(params.id) if params.context else service.checkpoints.get(params.id, params.offset)
    )


def _list_checkpoints(service: Service, _peer: Peer, params: CheckpointListParams) -> object:
    if (params.workflow is None) == (params.job is None):
        raise InvalidParams("params: name one of workflow and job", path="workflow", hint="stoker checkpoint ls 7")
    return service.checkpoints.list(params.workflow, params.job or 0, params.before_seq, params.limit)


WORKFLOW_METHODS: dict[str, Method[Any]] = {
    "workflow.submit": Method(WorkflowSubmitParams, _submit, brings_work=True, reader=read_flow),
    "workflow.get": Method(WorkflowGetParams, _get, MethodKind.READ),
    "workflow.list": Method(WorkflowListParams, _list, MethodKind.READ),
    "workflow.pause": Method(WorkflowParams, _pause),
    "workflow.cancel": Method(WorkflowParams, _cancel),
    "checkpoint.save": Method(CheckpointPart, _save_checkpoint),
    "checkpoint.get": Method(CheckpointGetParams, _get_checkpoint, MethodKind.READ),
    "checkpoint.list": Method(CheckpointListParams, _list_checkpoints, MethodKind.READ),
    "workflow.retry": Method(WorkflowRetryParams, _retry),
    "workflow.skip": Method(WorkflowStepParams, _skip),
    "workflow.add_need": Method(WorkflowAddNeedParams, _add_need),
    "workflow.remove_need": Method(WorkflowNeedParams, _remove_need),
    "workflow.resume": Method(WorkflowResumeParams, _resume),
    "workflow.rollback": Method(WorkflowRollbackParams, _rollback),
}
