"""Reading a flow: from the JSON of a workflow to `core.flow.Flow`, or every mistake of shape at once.

Owns the walk over the steps: each is read on its own, field by field once it is known to be wrong, so that a person
hears of all mistakes in one go. Refuses the graph: `core.flow.plan` sees to needs and cycles.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from stoker.core.errors import InvalidParams
from stoker.core.flow import Flow, FlowRequest, StepDefaults, StepParams
from stoker.core.mistakes import Mistake, refuse
from stoker.core.requests import Name, Params, Text, Title
from stoker.rpc.schema import read_params


class WorkflowSubmitParams(Params, frozen=True, kw_only=True):
    """`flow` is read by itself, so that all of its mistakes are told at once."""

    flow: dict[str, Any]
    parameters: dict[Name, Text] = msgspec.field(default_factory=dict)
    idempotency_key: Title | None = None
    dry_run: bool = False


class FlowHead(Params, frozen=True, kw_only=True):
    """A flow without its steps."""

    name: Name
    steps: dict[str, Any]
    parameters: dict[Name, Text] = msgspec.field(default_factory=dict)
    defaults: Any = UNSET
    verify: bool = False


class _StepName(Params, frozen=True, kw_only=True):
    step: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}\Z")]


def read_flow(params: WorkflowSubmitParams) -> FlowRequest:
    """The request, each part of the right shape, and the mistakes of those that were not: the graph is judged as well.

    Raises FlowInvalid where so much is wrong that there is no flow to judge.
    """
    mistakes: list[Mistake] = []
    head = _head(params.flow, mistakes)
    defaults = StepDefaults()
    if head.defaults is not UNSET:
        defaults = _read(head.defaults, StepDefaults, "defaults", mistakes) or defaults
    steps = {}
    for name, sent in head.steps.items():
        _read({"step": name}, _StepName, f"steps.{name}", mistakes)
        steps[name] = _read(sent, StepParams, f"steps.{name}", mistakes) or _sound_part(sent)
    if not head.steps:
        refuse([*mistakes, Mistake("steps", "a workflow has at least one step")])
    flow = Flow(name=head.name, steps=steps, parameters=head.parameters, defaults=defaults, verify=head.verify)
    return FlowRequest(
        flow=flow, raw=msgspec.Raw(msgspec.json.encode(params.flow)), parameters=params.parameters,
        idempotency_key=params.idempotency_key, dry_run=params.dry_run, mistakes=tuple(mistakes),
    )  # fmt: skip


def _sound_part(sent: Any) -> StepParams:
    """What of a step can be read, for the graph to be judged: with a broken `each`, its needs alone."""
    fields = sent if isinstance(sent, dict) else {}
    stand_ins = _STAND_INS[StepParams]
    sound = {name: value for name, value in fields.items() if not _alone({**stand_ins, name: value}, StepParams, "")}
    if "each" in fields and "each" not in sound:
        sound = {name: sound[name] for name in ("needs",) if name in sound}
    try:
        return msgspec.convert({**stand_ins, **sound}, StepParams)
    except (msgspec.ValidationError, InvalidParams):  # fields that are sound only one by one
        return StepParams(command=stand_ins["command"])


def _head(sent: dict[str, Any], mistakes: list[Mistake]) -> FlowHead:
    head: FlowHead | None = _read(sent, FlowHead, "", mistakes)
    refuse(mistakes if head is None else [])
    assert head is not None, "what could not be read was refused"
    return head


def _read(value: Any, kind: type[Any], place: str, mistakes: list[Mistake]) -> Any:
    """`value` as `kind`, or None and its mistakes, one for each field that is wrong."""
    try:
        return read_params(value, kind, place)
    except InvalidParams as first:
        found = _each_field(value, kind, place) if isinstance(value, dict) else []
        mistakes += found or [_mistake(first)]
        return None


def _each_field(value: dict[str, Any], kind: type[Any], place: str) -> list[Mistake]:
    """What is wrong with each field alone, and which fields are missing."""
    stand_ins = _STAND_INS.get(kind, {})
    found = [mistake for name in value for mistake in _alone({**stand_ins, name: value[name]}, kind, place)]
    missing = [f"{place}.{name}".lstrip(".") for name in stand_ins if name not in value]
    return list(dict.fromkeys([*found, *(Mistake(path, "this field is missing") for path in missing)]))


def _alone(value: dict[str, Any], kind: type[Any], place: str) -> list[Mistake]:
    try:
        read_params(value, kind, place)
    except InvalidParams as error:
        return [_mistake(error)]
    return []


# The required fields, and what stands for them while another field is looked at.
_STAND_INS: dict[type[Any], dict[str, Any]] = {
    StepParams: {"command": "true"},
    FlowHead: {"name": "flow", "steps": {}},
}


def _mistake(error: InvalidParams) -> Mistake:
    path = str(error.details.get("path", ""))
    return Mistake(path, error.message.removeprefix(f"{path}: "), error.hint)
