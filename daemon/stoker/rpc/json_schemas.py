"""JSON Schemas (draft 2020-12) of what people and programs write and read, made from the types that Stoker reads with.

Owns the table of schemas. A schema accepts all that Stoker accepts. Only the daemon checks the rest: that a program
exists, two fields agree, a time zone is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from stoker.config.hook_section import HookSection
from stoker.config.loading import OF_A_REQUEST, QUEUE_NAME
from stoker.config.quota_section import QuotaSection
from stoker.config.settings import SECTIONS, KeepSection, QueueSection, RateSection
from stoker.core import field_help
from stoker.core.requests import JobDefaults, JobParams, JobWork, LimitParams
from stoker.core.schedule.request import ScheduleParams
from stoker.core.workflow.definition import Flow, StepDefaults, StepParams
from stoker.core.workflow.handlers import STEPS, Handler
from stoker.rpc.answer_types import ANSWERS, NOTIFICATIONS
from stoker.rpc.flows import STEP_NAME, FlowHead
from stoker.rpc.frames import MAX_BATCH, MAX_ID_CHARS
from stoker.rpc.methods import METHODS

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PLACE: Final = "#/$defs/"
_END: Final = r"\Z"  # of a text, in Python's patterns
TEXT: Final = {"type": "string"}
VERSION: Final = {"const": "2.0"}
REQUEST_ID: Final = {"type": ["integer", "string", "null"], "maxLength": MAX_ID_CHARS}


class FlowFile(FlowHead, frozen=True, kw_only=True):
    """A flow as a file has it. The daemon reads its steps one by one, to report every mistake."""

    steps: dict[str, StepParams]
    on_failure: dict[str, StepParams] = msgspec.field(default_factory=dict)
    on_success: dict[str, StepParams] = msgspec.field(default_factory=dict)
    finally_: dict[str, StepParams] = msgspec.field(default_factory=dict, name="finally")
    defaults: StepDefaults = msgspec.field(default_factory=StepDefaults)


# The help of fields whose types have none.
HELP: Final[dict[type[msgspec.Struct], Mapping[str, str]]] = {
    JobDefaults: field_help.JOB,
    JobWork: field_help.JOB,
    JobParams: field_help.JOB,
    StepParams: field_help.STEP,
    StepDefaults: field_help.STEP,
    FlowFile: field_help.FLOW,
    LimitParams: field_help.LIMITS,
}


def spec() -> Schema:
    """A job, as `stoker submit --batch` and `job.submit` take it."""
    (job,), types = _components([JobParams])
    return _document("A job of Stoker", job, types)


def workflow() -> Schema:
    """A flow, as `stoker workflow submit` takes it."""
    (flow,), types = _components([FlowFile])
    return _document("A workflow of Stoker", flow, types)


def settings() -> Schema:
    """The settings file of stokerd."""
    named = (KeepSection, QuotaSection, QueueSection, RateSection, ScheduleParams, HookSection, FlowFile)
    references, types = _components([*SECTIONS.values(), *named])
    keep, quota, queue, rate, schedule, hook, flow = references[len(SECTIONS) :]
    closed: list[type] = [*SECTIONS.values(), KeepSection, QuotaSection, QueueSection, RateSection, HookSection]
    for section in closed:
        types[section.__name__]["additionalProperties"] = False
    types["RetentionSettings"]["properties"] |= {"queues": _table(keep), "workflows": _table(keep)}
    types["QuotaSettings"]["properties"] |= {"users": _table(quota)}
    _as_section(types["ScheduleParams"], flow)
    properties = dict(zip(SECTIONS, references, strict=False)) | {
        "queues": _table(queue, QUEUE_NAME),
        "rates": _table(rate),
        "schedules": _table(schedule),
        "hooks": _table(hook, QUEUE_NAME),
    }
    return _document("Settings of stokerd", _object(properties), types)


def protocol() -> Schema:
    """A line of the socket, in either direction (JSON-RPC 2.0). `result NAME` in it is the result of a method."""
    params, types = _components([method.params for method in METHODS.values()])
    defs = {f"request {name}": _request(name, kind) for name, kind in zip(METHODS, params, strict=True)}
    for name, kinds in ANSWERS.items():
        references, more = _components(kinds)
        types |= more
        defs[f"result {name}"] = references[0] if len(references) == 1 else {"anyOf": list(references)}
    for name, kind in NOTIFICATIONS.items():
        (reference,), more = _components([kind])
        types |= more
        defs[f"notification {name}"] = _notification(name, reference)
    defs["request"] = {"anyOf": [_named(f"request {name}") for name in METHODS]}
    defs["answer"] = {"anyOf": [_answer({"result": {}}), _answer({"error": ERROR})]}
    notifications = [_named(f"notification {name}") for name in NOTIFICATIONS]
    line = {"anyOf": [_named("request"), _named("answer"), *notifications, _batch("request"), _batch("answer")]}
    return _document("The protocol of stokerd", line, {**types, **defs})


SCHEMAS: Final[dict[str, Callable[[], Schema]]] = {
    "spec": spec,
    "workflow": workflow,
    "settings": settings,
    "protocol": protocol,
}

# --- the parts of a schema ------------------------------------------------------------------------------------------


def _object(properties: Schema, required: Iterable[str] = ()) -> Schema:
    return {"type": "object", "properties": properties, "required": sorted(required), "additionalProperties": False}


ERROR: Final = _object(
    {
        "code": {"type": "integer"},
        "message": TEXT,
        "data": {
            "type": "object",
            "properties": {"code": TEXT, "transient": {"type": "boolean"}, "hint": TEXT},
            "required": ["code", "transient"],
        },
    },
    ("code", "message", "data"),
)


def _named(definition: str) -> Schema:
    return {"$ref": f"{PLACE}{definition}"}


def _request(name: str, params: Schema) -> Schema:
    properties = {"jsonrpc": VERSION, "id": REQUEST_ID, "method": {"const": name}, "params": params}
    return _object(properties, ("jsonrpc", "method"))


def _answer(content: Schema) -> Schema:
    return _object({"jsonrpc": VERSION, "id": REQUEST_ID, **content}, ("jsonrpc", "id", *content))


def _notification(name: str, params: Schema) -> Schema:
    return _object({"jsonrpc": VERSION, "method": {"const": name}, "params": params}, ("jsonrpc", "method", "params"))


def _batch(what: str) -> Schema:
    return {"type": "array", "items": _named(what), "minItems": 1, "maxItems": MAX_BATCH}


def _table(value: Schema, name: re.Pattern[str] | None = None) -> Schema:
    """A table of sections that have names."""
    names = {} if name is None else {"propertyNames": _named_as(name)}
    return {"type": "object", **names, "additionalProperties": value}


def _named_as(name: re.Pattern[str]) -> Schema:
    """A text that matches from its beginning to its end."""
    return {"pattern": f"^{name.pattern.removesuffix(_END)}$"}


def _as_section(schedule: Schema, flow: Schema) -> None:
    """Turn the parameters of `schedule.add` into the section of a schedule."""
    for name in OF_A_REQUEST:
        del schedule["properties"][name]
    schedule["properties"]["flow"] = flow
    schedule["required"] = ["timing"]
    schedule["oneOf"] = [{"required": ["job"]}, {"required": ["flow"]}]


def _components(kinds: Iterable[Any]) -> tuple[tuple[Schema, ...], dict[str, Schema]]:
    """A reference to each type, and the types by their names."""
    references, types = msgspec.json.schema_components(kinds, ref_template=f"{PLACE}{{name}}")
    types = _portable(types)
    for kind, texts in HELP.items():
        for name, field in types.get(kind.__name__, {}).get("properties", {}).items():
            field.setdefault("description", texts[name])
    if flow := types.get(FlowFile.__name__):
        flow["properties"]["steps"] |= {"minProperties": 1}
        for table in (STEPS, *Handler):
            flow["properties"][table] |= {"propertyNames": _named_as(STEP_NAME)}
        step = types[StepParams.__name__]
        step["properties"]["workflow"] |= {"anyOf": [TEXT, _named(FlowFile.__name__)]}  # in a file the name of another
        del step["properties"]["workflow"]["$ref"], types[Flow.__name__]
        step["anyOf"] = [{"required": ["command"]}, {"required": ["workflow"]}]
    return references, types


def _portable(value: Any) -> Any:
    """As other languages read it: the end of a text is `$` in a pattern, where Python has `\\Z`."""
    match value:
        case {"pattern": str(pattern), **rest}:
            return {"pattern": pattern.replace(_END, "$"), **_portable(rest)}
        case dict():
            return {key: _portable(item) for key, item in value.items()}
        case list():
            return [_portable(item) for item in value]
    return value


def _document(title: str, root: Schema, types: dict[str, Schema]) -> Schema:
    return {"$schema": DIALECT, "title": title, **root, "$defs": dict(sorted(types.items()))}
