"""Reads a flow: from the JSON of a workflow to `core.workflow.definition.Flow`, with a list of every mistake in it.

Each step is read on its own, and a wrong one field by field, so that a person sees all mistakes at once. Needs and
cycles are checked later, by `core.workflow.plan`. Invariant: the valid parts of a flow are read, whatever
else is wrong; full messages are built only for as many mistakes as the answer holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from stoker.core.command_limits import MAX_SHOWN
from stoker.core.errors import InvalidParams
from stoker.core.job.secret_values import SecretName, Secrets
from stoker.core.requests import (
    Budget,
    Duration,
    JobParams,
    Name,
    Params,
    Priority,
    Text,
    Title,
)
from stoker.core.similar_names import nearest
from stoker.core.workflow.definition import (
    MAX_DEPTH,
    Concurrency,
    Flow,
    FlowRequest,
    Labels,
    Part,
    Reused,
    StepDefaults,
    StepNames,
    StepParams,
)
from stoker.core.workflow.handlers import STEPS, Handler
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake, refuse
from stoker.core.workflow.plan import Plan, plan_flow
from stoker.rpc.param_errors import takes_list
from stoker.rpc.schema import read_params

STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}\Z")
_STEP_NAME_HINT = "letters, digits and . _ -, at most 48, the first a letter or digit"
# The fields that locate a program: if one is wrong, the step's program cannot be looked up.
_OF_PROGRAM = frozenset({"command", "working_dir", "env", "execution_mode", "each", "matrix"})

K = TypeVar("K", bound=Params)


class WorkflowSubmitParams(Params, frozen=True, kw_only=True):
    """`flow` is read separately, so that all of its mistakes are reported at once.

    `target`: submit these steps and all that they need; `from`: these and all that need them; both: what lies between.
    `secrets`: the values of the secrets that the flow declares.
    `reuse`: take over the steps of this workflow, or of the newest one of that name, that are unchanged.
    """

    flow: dict[str, Any]
    parameters: dict[Name, Text] = msgspec.field(default_factory=dict)
    idempotency_key: Title | None = None
    dry_run: bool = False
    target: StepNames = ()
    start: StepNames = field(default=(), name="from")
    reuse: Reused | None = None
    secrets: Secrets = field(default_factory=dict)


class FlowHead(Params, frozen=True, kw_only=True):
    name: Name
    steps: dict[str, Any]
    parameters: dict[Name, Text] = msgspec.field(default_factory=dict)
    defaults: Any = msgspec.field(default_factory=dict)
    verify: bool = False
    labels: Labels = msgspec.field(default_factory=dict)
    priority: Priority | UnsetType = UNSET
    outputs: dict[Name, Text] = msgspec.field(default_factory=dict)
    secrets: dict[SecretName, Text] = msgspec.field(default_factory=dict)
    timeout_ms: Duration | None = None
    deadline_ms: Duration | None = None
    max_running: Budget | None = None
    concurrency: Concurrency | None = None
    on_failure: dict[str, Any] = msgspec.field(default_factory=dict)
    on_success: dict[str, Any] = msgspec.field(default_factory=dict)
    finally_: dict[str, Any] = msgspec.field(default_factory=dict, name="finally")

    @property
    def tables(self) -> dict[Handler | None, dict[str, Any]]:
        """Its steps, and the tables of its handlers."""
        return {
            None: self.steps,
            Handler.ON_FAILURE: self.on_failure,
            Handler.ON_SUCCESS: self.on_success,
            Handler.FINALLY: self.finally_,
        }


class _Part(NamedTuple, Generic[K]):
    """The valid fields of a value, and the names of the wrong ones."""

    read: K
    wrong: frozenset[str] = frozenset()


class _ReadFlow(NamedTuple):
    """The valid parts of a flow. The steps with a mistake are `unsure`: which of their fields were missed."""

    flow: Flow
    unsure: dict[str, frozenset[str]]


def read_flow(params: WorkflowSubmitParams) -> FlowRequest:
    """The valid parts of the request, and the mistakes in the others."""
    mistakes: list[Mistake] = []
    flow, unsure = _read_flow(params.flow, "", mistakes)
    return FlowRequest(
        flow=flow,
        raw=msgspec.Raw(msgspec.json.encode(params.flow)),
        parameters=params.parameters,
        idempotency_key=params.idempotency_key,
        dry_run=params.dry_run,
        part=Part(params.target, params.start),
        reuse=params.reuse,
        secrets=params.secrets,
        mistakes=tuple(mistakes),
        unsure=frozenset(unsure),
        unlocatable=frozenset(name for name, fields in unsure.items() if _hides_program(fields)),
    )


def _read_flow(sent: dict[str, Any], place: str, mistakes: list[Mistake], depth: int = 1) -> _ReadFlow:
    """The flow at this place (with a dot at its end), and those that are nested in it."""
    head, wrong = _read(sent, FlowHead, place.removesuffix("."), mistakes)
    defaults, hidden = _read(head.defaults, StepDefaults, f"{place}defaults", mistakes)
    if len(hidden) > MAX_MISTAKES:
        hidden = _OF_PROGRAM  # checking this many fields against every step would take too long
    tables: dict[Handler | None, dict[str, StepParams]] = {table: {} for table in head.tables}
    paths: dict[str, str] = {}
    unsure: dict[str, frozenset[str]] = {}
    for table, name, step in ((table, *entry) for table, of_table in head.tables.items() for entry in of_table.items()):
        path = f"{place}{table or STEPS}.{name}"
        if not STEP_NAME.match(name):
            shown = f"{place}{table or STEPS}.{name[:MAX_SHOWN]}"
            mistakes.append(Mistake(shown, "not a valid name for a step", _STEP_NAME_HINT))
        if paths.setdefault(name, path) != path:
            mistakes.append(Mistake(path, f"{paths[name]} has this name already", "all names of a file are one set"))
            continue
        if isinstance(step, dict) and "workflow" in step:
            tables[table][name], own = _read_nested(step, path, mistakes, depth)
        else:
            tables[table][name], own = _read(step, StepParams, path, mistakes)
        fields = step if isinstance(step, dict) else {}
        if missed := own | {field for field in hidden if field == "env" or field not in fields}:
            unsure[name] = missed
    if not head.steps and "steps" not in wrong:
        mistakes.append(Mistake(f"{place}steps", "a workflow has at least one step", _OF_HEAD["steps"]))
    flow = Flow(
        name=head.name,
        steps=tables[None],
        on_failure=tables[Handler.ON_FAILURE],
        on_success=tables[Handler.ON_SUCCESS],
        finally_=tables[Handler.FINALLY],
        defaults=defaults,
        verify=head.verify,
        labels=head.labels,
        priority=head.priority,
        timeout_ms=head.timeout_ms,
        deadline_ms=head.deadline_ms,
        max_running=head.max_running,
        concurrency=head.concurrency,
        outputs=head.outputs,
        secrets=head.secrets,
        parameters=_declared(sent["parameters"]) if "parameters" in wrong else head.parameters,
    )
    return _ReadFlow(flow, unsure)


def _read_nested(sent: dict[str, Any], path: str, mistakes: list[Mistake], depth: int) -> _Part[StepParams]:
    """A step that is a workflow. With a mistake in that it is read as a step with a command, which is unsure."""
    rest = {field: value for field, value in sent.items() if field != "workflow"}
    before = len(mistakes)
    step, wrong = _read({"command": _STAND_IN, **rest}, StepParams, path, mistakes)
    if "command" in sent and "command" not in wrong:
        mistakes.append(Mistake(f"{path}.command", "a step has a command or is a workflow, not both", "leave out one"))
    flow = sent["workflow"]
    if isinstance(flow, str):
        message = "only the client reads a file"
        mistakes.append(Mistake(f"{path}.workflow", message, "send the flow itself in place of its name"))
    elif not isinstance(flow, dict):
        mistakes.append(Mistake(f"{path}.workflow", "expected a flow, as an object", None))
    elif depth >= MAX_DEPTH:
        message = f"more than {MAX_DEPTH} flows inside each other"
        mistakes.append(Mistake(f"{path}.workflow", message, "move steps up into an outer flow"))
    else:
        inner, _ = _read_flow(flow, f"{path}.workflow.", mistakes, depth + 1)
        if len(mistakes) == before:
            return _Part(msgspec.structs.replace(step, command="", workflow=inner))
    return _Part(msgspec.structs.replace(step, parameters=UNSET), wrong | {"command", "workflow"})


def planned(flow: dict[str, Any]) -> Plan:
    """The plan of a flow that is not submitted. Raises FlowInvalid with every mistake that is not about the host."""
    result = plan_flow(read_flow(WorkflowSubmitParams(flow=flow)), None)
    refuse(list(result.mistakes))
    return result


def _declared(parameters: object) -> dict[str, str]:
    """The parameters as text although one of them is wrong, so that the templates of the steps can be checked."""
    return {name: str(value) for name, value in parameters.items()} if isinstance(parameters, dict) else {}


def _hides_program(fields: Collection[str]) -> bool:
    """Whether one of the wrong fields, or the field that an unknown name resembles, locates the program."""
    return len(fields) > MAX_MISTAKES or any(_meant(field[:MAX_SHOWN]) in _OF_PROGRAM for field in fields)


@lru_cache
def _meant(field: str) -> str:
    """The field that a name resembles; "env", which locates programs, if it resembles no field."""
    fields = StepParams.__struct_encode_fields__
    return field if field in fields else nearest(field, fields) or "env"


# --- reading field by field ---------------------------------------------------------------------------------

_STAND_IN = "true"
# Valid values of the required fields: they replace wrong ones, and complete a value while one field is checked.
_STAND_INS: dict[type[Any], dict[str, Any]] = {
    StepParams: {"command": _STAND_IN},
    FlowHead: {"name": "flow", "steps": {}},
    StepDefaults: {},
}
_OF_HEAD = {
    "name": 'a name for the flow, as in name = "build"',
    "steps": 'at least one step: a table [steps.NAME] in TOML, "steps": {"NAME": {...}} in JSON',
}
_ITEMS: dict[str, str] = {}  # replaces a wrong list: items that are not known, so that any of their words may exist


def _read(value: Any, kind: type[K], place: str, mistakes: list[Mistake]) -> _Part[K]:
    """The valid fields of `value` as a `kind`; every mistake is added to `mistakes`."""
    stand_ins = _STAND_INS[kind]
    read = _converted(value, kind)
    if read is not None and stand_ins.keys() <= value.keys():
        return _Part(read)
    if not isinstance(value, dict):
        _add(value, kind, place, mistakes)
        return _Part(msgspec.convert(stand_ins, kind), frozenset(kind.__struct_encode_fields__))
    wrong = {name for name in value if not _fits({**stand_ins, name: value[name]}, kind)}
    for name in (name for name in value if name in wrong):
        _add_each(name, value[name], stand_ins, kind, place, mistakes)
    missing = [name for name in stand_ins if name not in value]
    for name in missing:
        strict = JobParams if kind is StepParams else kind  # of a step only the plan knows what it may leave out
        _add({other: stand_ins[other] for other in stand_ins if other != name}, strict, place, mistakes)
    sound = {**stand_ins, **{name: value[name] for name in value if name not in wrong}}
    if wrong & {"each", "matrix"}:
        sound.pop("matrix", None)
        sound["each"] = _ITEMS
    if not _fits(sound, kind):  # each field is valid, but the arguments are too long for the command
        _add(sound, kind, place, mistakes)
        wrong.add("args")
        del sound["args"]
    return _Part(msgspec.convert(sound, kind), frozenset({*wrong, *missing}))


def _fits(value: Any, kind: type[Params]) -> bool:
    return _converted(value, kind) is not None


def _converted(value: Any, kind: type[K]) -> K | None:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, InvalidParams):
        return None


def _add_each(
    name: str, value: Any, stand_ins: dict[str, Any], kind: type[Params], place: str, mistakes: list[Mistake]
) -> None:
    """Add a mistake for each wrong part of a list or mapping; or one for the whole value, as when it is too large."""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [{key: inner} for key, inner in value.items()]
    elif isinstance(value, list) and takes_list(kind, name):
        parts = [[inner] for inner in value]
    wrong = [index for index, part in enumerate(parts) if not _fits({**stand_ins, name: part}, kind)]
    for index in wrong:
        _add({**stand_ins, name: parts[index]}, kind, place, mistakes, (f"{name}[0]", f"{name}[{index}]"))
    if not wrong:
        _add({**stand_ins, name: value}, kind, place, mistakes)


def _add(
    value: Any, kind: type[Params], place: str, mistakes: list[Mistake], moved: tuple[str, str] = ("", "")
) -> None:
    """Add the mistake in `value`. The full text is slow to build: mistakes over the limit are only counted."""
    if len(mistakes) >= MAX_MISTAKES:
        mistakes.append(Mistake(place, "is wrong"))
        return
    try:
        read_params(value, kind)
    except InvalidParams as error:
        path = str(error.details["path"])
        problem = error.message.removeprefix(f"{path}: ")
        before, after = moved
        if path.startswith(before):
            path = after + path.removeprefix(before)
        where = f"{place}.{path}".lstrip(".") if path != "params" else place
        mistakes.append(Mistake(where, problem, error.hint or _OF_HEAD.get(where)))
