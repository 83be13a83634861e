"""The rows of the table of methods for schedules.

Owns their handlers, which follow the rules of methods.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stoker.core.job.model import Actor
from stoker.core.schedule.request import ScheduleParams
from stoker.core.workflow.definition import FlowRequest
from stoker.rpc import schema
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.rpc.peer import Peer
from stoker.rpc.table import Method, MethodKind
from stoker.service.service import Service


class ScheduleRequest(NamedTuple):
    """A schedule as it was sent, and its flow as it was read."""

    sent: ScheduleParams
    flow: FlowRequest | None


def _read(sent: ScheduleParams) -> ScheduleRequest:
    if sent.flow is None:
        return ScheduleRequest(sent, None)
    asked = WorkflowSubmitParams(flow=sent.flow, target=sent.target, start=sent.start, reuse=sent.reuse, dry_run=True)
    return ScheduleRequest(sent, read_flow(asked))


def _add(service: Service, peer: Peer, request: ScheduleRequest) -> object:
    return service.schedules.add(request.sent, request.flow, peer.viewer)


SCHEDULE_METHODS: dict[str, Method[Any]] = {
    "schedule.add": Method(ScheduleParams, _add, reader=_read),
    "schedule.list": Method(
        schema.ScheduleListParams,
        lambda service, peer, sent: service.schedules.list(sent.after, sent.limit, peer.viewer),
        MethodKind.READ,
    ),
    "schedule.get": Method(
        schema.ScheduleParam, lambda service, peer, sent: service.schedules.get(sent.name, peer.viewer), MethodKind.READ
    ),
    "schedule.next": Method(
        schema.ScheduleNextParams,
        lambda service, peer, sent: service.schedules.next(sent.name, sent.count, peer.viewer),
        MethodKind.READ,
    ),
    "schedule.remove": Method(
        schema.ScheduleVerbParams,
        lambda service, peer, sent: service.schedules.remove(sent.name, Actor(peer.uid, sent.reason), peer.viewer),
    ),
    "schedule.pause": Method(
        schema.ScheduleVerbParams,
        lambda service, peer, sent: service.schedules.pause(sent.name, Actor(peer.uid, sent.reason), peer.viewer),
    ),
    "schedule.resume": Method(
        schema.ScheduleVerbParams,
        lambda service, peer, sent: service.schedules.resume(sent.name, Actor(peer.uid, sent.reason), peer.viewer),
    ),
    "schedule.run": Method(
        schema.ScheduleVerbParams,
        lambda service, peer, sent: service.schedules.run(sent.name, Actor(peer.uid, sent.reason), peer.viewer),
        brings_work=True,
    ),
}
