"""A workflow as it is sent, and what becomes of it before anything is stored: every mistake, or a plan of steps.

Owns the shape of a flow, parameters (`{{name}}`), fan-out (`each`), and the order of the graph. Refuses the host and
the database: queues and resources are looked up by the engine. Invariants: a plan that exists has no cycle, no unknown
need and at most `MAX_STEPS` steps; its steps stand in an order in which they could run one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from stoker.core.mistakes import Mistake, refuse
from stoker.core.model import NeedOn
from stoker.core.requests import (
    MAX_NEEDS,
    AbsolutePath,
    Budget,
    JobDefaults,
    JobWork,
    Name,
    Params,
    Text,
)
from stoker.core.workflow import Edge, Strategy

MAX_STEPS = 10_000
MAX_EDGES = 100_000  # each is a row, and a need in the spec of a step
ITEM = "item"
_WORD = re.compile(r"\{\{\s*([^{}\s]*)\s*\}\}")


class StepNeed(Params, frozen=True, kw_only=True):
    step: Name
    on: NeedOn = NeedOn.OK


class StepParams(JobWork, frozen=True, kw_only=True):
    """A step as it is sent: a job, and what only a step has. `each` makes one step of each item."""

    needs: Annotated[tuple[Name | StepNeed, ...], Meta(max_length=MAX_NEEDS)] = ()
    critical: bool = True
    resume: Name = Strategy.FROM_CHECKPOINT.value
    verify: bool | UnsetType = UNSET
    each: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_STEPS)] | UnsetType = UNSET
    width: Budget | UnsetType = UNSET


class StepDefaults(JobDefaults, frozen=True, kw_only=True):
    """What the steps of a flow may leave out because the flow says it for all."""

    working_dir: AbsolutePath | UnsetType = UNSET
    env: dict[Text, Text] | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    resume: Name | UnsetType = UNSET


class Flow(Struct, frozen=True, kw_only=True):
    """A whole flow, each part of the right shape."""

    name: str
    steps: dict[str, StepParams]
    parameters: dict[str, str] = {}
    defaults: StepDefaults = StepDefaults()
    verify: bool = False


class FlowRequest(Struct, frozen=True, kw_only=True):
    """A request to accept a flow; `raw` is its JSON as it was sent, `mistakes` what is wrong with its shape."""

    flow: Flow
    raw: msgspec.Raw
    parameters: dict[str, str] = {}
    idempotency_key: str | None = None
    dry_run: bool = False
    mistakes: tuple[Mistake, ...] = ()


class Planned(Struct, frozen=True, kw_only=True):
    """One step to be made: the job as sent, its needs by name, and which `each` it came from."""

    name: str
    sent: StepParams
    needs: tuple[Edge, ...]
    group: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """Steps in an order in which they could run; `widths`: how many groups may run at once."""

    steps: tuple[Planned, ...]
    widths: dict[str, int]


def plan(
    flow: Flow, given: Mapping[str, str], strategies: Iterable[str], mistakes_of_shape: Iterable[Mistake] = ()
) -> Plan:
    """Fill in parameters, fan out, order. Raises FlowInvalid with every mistake at once, those of its shape too."""
    words, mistakes_of_parameters = _parameters(flow, given)
    mistakes = [*mistakes_of_shape, *mistakes_of_parameters]
    known = set(strategies)
    refuse(_too_many(flow))
    groups: dict[str, list[Planned]] = {}
    for name, step in flow.steps.items():
        mistakes += _step_mistakes(flow, name, step, known)
        groups[name] = _fan_out(flow, name, step, words, mistakes)
    others = {name: [need.step for need in _edges(step) if need.step != name] for name, step in flow.steps.items()}
    cycle = find_cycle(others)
    if cycle:
        mistakes.append(cycle_mistake(cycle))
    refuse(mistakes)
    widths = {name: step.width for name, step in flow.steps.items() if isinstance(step.width, int)}
    return Plan(steps=_ordered(flow, groups), widths=widths)


def find_cycle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The steps of a cycle, each needed by the next, the first again at the end; empty if there is none."""
    try:
        TopologicalSorter({name: [need for need in own if need in needs] for name, own in needs.items()}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def cycle_mistake(cycle: list[str]) -> Mistake:
    """The mistake that names a cycle step by step."""
    first = cycle[1]
    return Mistake(
        f"steps.{first}.needs",
        f"a cycle: {' -> '.join(cycle)} (each is needed by the next)",
        "take one of these needs out",
        tuple(cycle),
    )


def layers(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Steps that could run at the same time, in order; the longest layer is the width of the graph."""
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found


def _edges(step: StepParams) -> list[Edge]:
    return [Edge(need) if isinstance(need, str) else Edge(need.step, need.on) for need in step.needs]


def _parameters(flow: Flow, given: Mapping[str, str]) -> tuple[dict[str, str], list[Mistake]]:
    known = ", ".join(sorted(flow.parameters)) or "none"
    mistakes = [
        Mistake(f"parameters.{name}", f"the flow has no such parameter (it has: {known})")
        for name in given
        if name not in flow.parameters
    ]
    return {name: given.get(name, default) for name, default in flow.parameters.items()}, mistakes


def _too_many(flow: Flow) -> list[Mistake]:
    """Counted before anything is made of it: a few bytes can ask for millions."""
    sizes = {name: 1 if step.each is UNSET else len(step.each) for name, step in flow.steps.items()}
    if (total := sum(sizes.values())) > MAX_STEPS:
        return [Mistake("steps", f"{total} steps; the limit is {MAX_STEPS}", "split the flow")]
    edges = sum(
        sizes[name] * sum(sizes.get(need.step, 0) for need in _edges(step)) for name, step in flow.steps.items()
    )
    if edges > MAX_EDGES:
        told = f"{edges} needs between steps; the limit is {MAX_EDGES}"
        return [Mistake("steps", told, "put one step between both sides")]
    return []


def _step_mistakes(flow: Flow, name: str, step: StepParams, strategies: set[str]) -> list[Mistake]:
    path = f"steps.{name}"
    mistakes = []
    names = [need.step for need in _edges(step)]
    for index, need in enumerate(names):
        if need == name:
            mistakes.append(Mistake(f"{path}.needs[{index}]", "a step cannot need itself"))
        elif need not in flow.steps:
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"there is no step {need!r}", _nearest(need, flow.steps)))
        elif need in names[:index]:
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"step {need!r} is named twice"))
    if step.resume not in strategies:
        told = f"there is no resume strategy {step.resume!r} (there are: {', '.join(sorted(strategies))})"
        mistakes.append(Mistake(f"{path}.resume", told))
    if step.width is not UNSET and step.each is UNSET:
        mistakes.append(Mistake(f"{path}.width", "only a step with `each` has a width"))
    return mistakes


def _nearest(word: str, known: Iterable[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only when something is wrong

    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else None


def _fan_out(
    flow: Flow, name: str, step: StepParams, words: Mapping[str, str], mistakes: list[Mistake]
) -> list[Planned]:
    """The steps that one entry of the flow becomes; needs are still by entry."""
    sent = _with_defaults(flow, step)
    if sent.each is UNSET:
        return [_planned(name, None, sent, words, mistakes)]
    return [
        _planned(f"{name}:{number}", name, sent, {**words, ITEM: item}, mistakes if number == 1 else [])
        for number, item in enumerate(sent.each, 1)
    ]


def _planned(
    name: str, group: str | None, sent: StepParams, words: Mapping[str, str], mistakes: list[Mistake]
) -> Planned:
    path = f"steps.{group or name}"
    filled = _filled(sent, words, lambda where, word: mistakes.append(_no_word(f"{path}.{where}", word, words)))
    return Planned(name=name, sent=filled, needs=tuple(_edges(sent)), group=group)


def _no_word(path: str, word: str, words: Mapping[str, str]) -> Mistake:
    known = ", ".join(sorted(words)) or "none"
    return Mistake(path, f"{{{{{word}}}}}: no such parameter (there are: {known})", "declare it under [parameters]")


def _with_defaults(flow: Flow, step: StepParams) -> StepParams:
    said = flow.defaults
    changes: dict[str, Any] = {
        name: value
        for name in said.__struct_fields__
        if (value := getattr(said, name)) is not UNSET and getattr(step, name) is UNSET
    }
    if said.env is not UNSET and step.env is not UNSET:
        changes["env"] = said.env | step.env
    if said.resume is not UNSET and step.resume == Strategy.FROM_CHECKPOINT:
        changes["resume"] = said.resume
    if step.verify is UNSET:
        changes["verify"] = flow.verify
    return msgspec.structs.replace(step, **changes)


def _filled(sent: StepParams, words: Mapping[str, str], missing: Callable[[str, str], None]) -> StepParams:
    """The step with every `{{name}}` replaced."""

    def fill(where: str, text: str) -> str:
        def word(match: re.Match[str]) -> str:
            if match[1] not in words:
                missing(where, match[1])
            return words.get(match[1], "")

        return _WORD.sub(word, text) if "{{" in text else text

    changes: dict[str, Any] = {"command": fill("command", sent.command)}
    for field in ("working_dir", "stdin", "name"):
        value = getattr(sent, field)
        if isinstance(value, str):
            changes[field] = fill(field, value)
    if sent.args is not UNSET:
        changes["args"] = tuple(fill(f"args[{index}]", arg) for index, arg in enumerate(sent.args))
    if sent.env is not UNSET:
        changes["env"] = {name: fill(f"env.{name}", value) for name, value in sent.env.items()}
    return msgspec.structs.replace(sent, **changes)


def _ordered(flow: Flow, groups: Mapping[str, list[Planned]]) -> tuple[Planned, ...]:
    """Every step behind all that it needs; a need of an `each` is one of each of its steps."""
    order = TopologicalSorter({name: [edge.step for edge in _edges(step)] for name, step in flow.steps.items()})
    ordered = []
    for name in order.static_order():
        for planned in groups[name]:
            edges = [Edge(other.name, edge.on) for edge in planned.needs for other in groups[edge.step]]
            ordered.append(msgspec.structs.replace(planned, needs=tuple(edges)))
    return tuple(ordered)
