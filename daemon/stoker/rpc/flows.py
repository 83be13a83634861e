"""Reading a flow: from the JSON of a workflow to `core.workflow.definition.Flow`, or every mistake of shape at once.

Owns the walk over the steps: each is read on its own, field by field once it is known to be wrong, so that a person
hears of all mistakes in one go. Refuses the graph: `core.workflow.definition.plan` sees to needs and cycles.
Invariant: what is right in a flow is read, whatever else is wrong, and words are found for no more mistakes than are
told.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from stoker.core.errors import InvalidParams
from stoker.core.requests import MAX_SHOWN, Name, Params, Text, Title
from stoker.core.workflow.definition import Flow, FlowRequest, Plan, StepDefaults, StepParams, plan
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake, refuse
from stoker.rpc.schema import read_params

_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}\Z")
_STEP_NAME_HINT = "letters, digits and . _ -, at most 48, the first a letter or digit"
# What says where a program is: with one of these wrong, nobody can say that it is missing.
_OF_PROGRAM = frozenset({"command", "working_dir", "env", "execution_mode", "each"})

K = TypeVar("K", bound=Params)


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
    defaults: Any = msgspec.field(default_factory=dict)
    verify: bool = False


class _Part(NamedTuple, Generic[K]):
    """What of a value could be read, and the names of its fields that could not."""

    read: K
    wrong: frozenset[str] = frozenset()


def read_flow(params: WorkflowSubmitParams) -> FlowRequest:
    """The request, as far as it has the right shape, and what is wrong with the rest."""
    mistakes: list[Mistake] = []
    head, wrong = _read(params.flow, FlowHead, "", mistakes)
    defaults, hidden = _read(head.defaults, StepDefaults, "defaults", mistakes)
    if len(hidden) > MAX_MISTAKES:
        hidden = _OF_PROGRAM  # nobody can say what was meant, and to ask each step about each of them takes long
    steps: dict[str, StepParams] = {}
    unsure: dict[str, frozenset[str]] = {}
    for name, sent in head.steps.items():
        if not _STEP_NAME.match(name):
            mistakes.append(Mistake(f"steps.{name[:MAX_SHOWN]}", "not a name of a step", _STEP_NAME_HINT))
        steps[name], own = _read(sent, StepParams, f"steps.{name}", mistakes)
        said = sent if isinstance(sent, dict) else {}
        if missed := own | {field for field in hidden if field == "env" or field not in said}:
            unsure[name] = missed
    if not head.steps and "steps" not in wrong:
        mistakes.append(Mistake("steps", "a workflow has at least one step", _OF_HEAD["steps"]))
    flow = Flow(
        name=head.name, steps=steps, defaults=defaults, verify=head.verify,
        parameters=_declared(params.flow["parameters"]) if "parameters" in wrong else head.parameters,
    )  # fmt: skip
    return FlowRequest(
        flow=flow, raw=msgspec.Raw(msgspec.json.encode(params.flow)), parameters=params.parameters,
        idempotency_key=params.idempotency_key, dry_run=params.dry_run, mistakes=tuple(mistakes),
        unsure=frozenset(unsure), unlocatable=frozenset(name for name, of in unsure.items() if _hides_program(of)),
    )  # fmt: skip


def planned(flow: dict[str, Any]) -> Plan:
    """The plan of a flow that nobody runs yet. Raises FlowInvalid with every mistake that no host is asked about."""
    made = plan(read_flow(WorkflowSubmitParams(flow=flow)), None)
    refuse(list(made.mistakes))
    return made


def _declared(said: object) -> dict[str, str]:
    """The parameters of a flow where one is wrong: with what was meant by a number, so that words can be judged."""
    return {name: str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def _hides_program(fields: Collection[str]) -> bool:
    """Whether what was wrong, or what was meant by a field that nobody knows, may say where a program is."""
    return len(fields) > MAX_MISTAKES or any(_meant(field[:MAX_SHOWN]) in _OF_PROGRAM for field in fields)


@lru_cache
def _meant(field: str) -> str:
    """The field that nobody knows, or the one that is nearly called so; "env" for one that might be anything."""
    known = StepParams.__struct_fields__
    return field if field in known else next(iter(difflib.get_close_matches(field, known, 1)), "env")


# --- what of it can be read ---------------------------------------------------------------------------------

# The required fields, and what stands for them where they are wrong, or while another field is looked at.
_STAND_INS: dict[type[Any], dict[str, Any]] = {
    StepParams: {"command": "true"},
    FlowHead: {"name": "flow", "steps": {}},
    StepDefaults: {},
}
_OF_HEAD = {
    "name": 'a name for the flow, as in name = "build"',
    "steps": 'at least one step: a table [steps.NAME] in TOML, "steps": {"NAME": {...}} in JSON',
}
_ITEMS = ["item"]  # for a list that is wrong: its word is known all the same


def _read(value: Any, kind: type[K], place: str, mistakes: list[Mistake]) -> _Part[K]:
    """As much of `value` as has the shape of `kind`, and of the rest every mistake."""
    if _fits(value, kind):
        return _Part(msgspec.convert(value, kind))
    stand_ins = _STAND_INS[kind]
    if not isinstance(value, dict):
        _tell(value, kind, place, mistakes)
        return _Part(msgspec.convert(stand_ins, kind), frozenset(kind.__struct_fields__))
    wrong = {name for name in value if not _fits({**stand_ins, name: value[name]}, kind)}
    for name in (name for name in value if name in wrong):
        _tell_each(name, value[name], stand_ins, kind, place, mistakes)
    missing = [name for name in stand_ins if name not in value]
    for name in missing:
        _tell({other: stand_ins[other] for other in stand_ins if other != name}, kind, place, mistakes)
    sound = {**stand_ins, **{name: value[name] for name in value if name not in wrong}}
    if "each" in wrong:
        sound["each"] = _ITEMS
    if not _fits(sound, kind):  # right one by one, but the arguments are too much for their command
        _tell(sound, kind, place, mistakes)
        wrong.add("args")
        del sound["args"]
    return _Part(msgspec.convert(sound, kind), frozenset({*wrong, *missing}))


def _fits(value: Any, kind: type[Params]) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, InvalidParams):
        return False
    return True


def _tell_each(
    name: str, value: Any, stand_ins: dict[str, Any], kind: type[Params], place: str, mistakes: list[Mistake]
) -> None:
    """Of a list or a mapping each part that is wrong alone; anything else, and one that is too large, as a whole."""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [{key: inner} for key, inner in value.items()]
    elif isinstance(value, list):
        parts = [[inner] for inner in value]
    wrong = [index for index, part in enumerate(parts) if not _fits({**stand_ins, name: part}, kind)]
    for index in wrong:
        _tell({**stand_ins, name: parts[index]}, kind, place, mistakes, (f"{name}[0]", f"{name}[{index}]"))
    if not wrong:
        _tell({**stand_ins, name: value}, kind, place, mistakes)


def _tell(
    value: Any, kind: type[Params], place: str, mistakes: list[Mistake], moved: tuple[str, str] = ("", "")
) -> None:
    """What is wrong with `value`. Words are slow to find: what will not be told is only counted."""
    if len(mistakes) >= MAX_MISTAKES:
        mistakes.append(Mistake(place, "is wrong"))
        return
    try:
        read_params(value, kind)
    except InvalidParams as error:
        path = str(error.details["path"])
        told = error.message.removeprefix(f"{path}: ")
        found, stands = moved
        if path.startswith(found):
            path = stands + path.removeprefix(found)
        where = f"{place}.{path}".lstrip(".") if path != "params" else place
        mistakes.append(Mistake(where, told, error.hint or _OF_HEAD.get(where)))
