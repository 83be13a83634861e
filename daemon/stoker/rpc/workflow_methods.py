"""The rows of the table of methods for workflows and checkpoints.

Owns their handlers, by the same rules as methods.py: read the parameters, call the service, return what it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.core.errors import InvalidParams
from stoker.core.job.model import Actor
from stoker.core.requests import CheckpointPart, WorkflowParams
from stoker.core.workflow.definition import FlowRequest
from stoker.core.workflow.resume import ResumeOptions
from stoker.core.workflow.state import WorkflowFilter
from stoker.rpc import schema
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.rpc.peer import Peer
from stoker.rpc.table import Method, MethodKind
from stoker.service.service import Service
from stoker.service.workflows import WorkflowService


def _submit(service: Service, peer: Peer, request: FlowRequest) -> object:
    return service.workflows.submit(request, peer.viewer)


def _verb(params: type[WorkflowParams], act: Callable[[WorkflowService, Any, Actor], object]) -> Method[Any]:
    """A change of a workflow, which is recorded with the person and the reason."""
    return Method(params, lambda service, peer, sent: act(service.workflows, sent, Actor(peer.uid, sent.reason)))


def _retry(workflows: WorkflowService, sent: schema.WorkflowRetryParams, actor: Actor) -> object:
    budget = {"timeout_ms": sent.timeout_ms, "max_attempts": sent.max_attempts}
    names = (*(() if sent.step is None else (sent.step,)), *sent.steps)
    return workflows.retry(sent.id, sent.again, names, actor, **budget)


def _rollback(workflows: WorkflowService, sent: schema.WorkflowRollbackParams, actor: Actor) -> object:
    to = None if sent.to == "latest" else sent.to
    return workflows.rollback(sent.id, to, actor, redo=sent.redo, resume=sent.resume)


def _get_checkpoint(service: Service, _peer: Peer, params: schema.CheckpointGetParams) -> object:
    if params.context:
        return service.checkpoints.context(params.id)
    if params.offset is not None:
        return service.checkpoints.piece(params.id, params.offset)
    return service.checkpoints.get(params.id)


def _list_checkpoints(service: Service, _peer: Peer, params: schema.CheckpointListParams) -> object:
    if (params.workflow is None) == (params.job is None):
        raise InvalidParams("params: name one of workflow and job", path="workflow", hint="stoker checkpoint ls 7")
    return service.checkpoints.list(params.workflow, params.job or 0, params.before_seq, params.limit)


WORKFLOW_METHODS: dict[str, Method[Any]] = {
    "workflow.submit": Method(WorkflowSubmitParams, _submit, brings_work=True, reader=read_flow),
    "workflow.get": Method(
        schema.WorkflowGetParams,
        lambda service, _peer, sent: service.workflows.get(sent.id, analysed=sent.analyse),
        MethodKind.READ,
    ),
    "workflow.steps": Method(
        schema.WorkflowStepsParams,
        lambda service, _peer, sent: service.workflows.steps(sent.id, sent.step),
        MethodKind.READ,
    ),
    "workflow.list": Method(
        WorkflowFilter, lambda service, peer, wanted: service.workflows.list(wanted, peer.viewer), MethodKind.READ
    ),
    "workflow.pause": _verb(WorkflowParams, lambda workflows, sent, actor: workflows.pause(sent.id, actor)),
    "workflow.cancel": _verb(WorkflowParams, lambda workflows, sent, actor: workflows.cancel(sent.id, actor)),
    "checkpoint.save": Method(
        CheckpointPart, lambda service, peer, part: service.checkpoints.save(part, peer.connection)
    ),
    "checkpoint.get": Method(schema.CheckpointGetParams, _get_checkpoint, MethodKind.READ),
    "checkpoint.list": Method(schema.CheckpointListParams, _list_checkpoints, MethodKind.READ),
    "workflow.retry": _verb(schema.WorkflowRetryParams, _retry),
    "workflow.skip": _verb(
        schema.WorkflowStepParams, lambda workflows, sent, actor: workflows.skip(sent.id, sent.step, actor)
    ),
    "workflow.add_need": _verb(
        schema.WorkflowAddNeedParams,
        lambda workflows, sent, actor: workflows.add_need(sent.id, sent.step, sent.need, sent.on, actor),
    ),
    "workflow.remove_need": _verb(
        schema.WorkflowNeedParams,
        lambda workflows, sent, actor: workflows.remove_need(sent.id, sent.step, sent.need, actor),
    ),
    "workflow.resume": _verb(ResumeOptions, lambda workflows, options, actor: workflows.resume(options, actor)),
    "workflow.rollback": _verb(schema.WorkflowRollbackParams, _rollback),
}
