"""A workflow as it is sent, and what becomes of it before anything is stored: a plan of steps, and every mistake.

Owns the shape of a flow, fan-out (`each`), and the order of the graph. Refuses the host and the database: queues and
resources are looked up by the engine. Invariants: a plan has at most `MAX_STEPS` steps and `MAX_CHARACTERS` of text;
one without mistakes has no cycle and no unknown need, and its steps stand in an order in which they could run. A plan
with mistakes has steps so that the host can be asked about them, too: one answer tells all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from stoker.core.job.model import NeedOn
from stoker.core.raw_bytes import RawBytes
from stoker.core.requests import (
    MAX_NEEDS,
    AbsolutePath,
    Budget,
    JobDefaults,
    JobWork,
    Name,
    Params,
    Text,
    Umask,
)
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge, Strategy
from stoker.core.workflow.template import Filled, Template, TemplateNames, named

MAX_STEPS = 10_000
MAX_EDGES = 100_000  # each is a row, and a need in the spec of a step
MAX_CHARACTERS = 64 << 20  # of all steps, filled in: a list in a flow of 1 MiB can ask for gigabytes
ENDS_TOLD = 10  # steps at either end of a cycle: all of them are in the details of the error
MOST_SEARCHED = 1_000  # names, for the one that was meant


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

    working_dir: AbsolutePath | RawBytes | UnsetType = UNSET
    umask: Umask | UnsetType | None = UNSET
    env: dict[Text, Text | RawBytes] | UnsetType = UNSET
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
    """A request to accept a flow; `raw` is its JSON as it was sent.

    `mistakes` are those of its shape. Where they touch a step, it is `unsure`: not all that was meant is in it; of one
    that is `unlocatable`, nobody knows where its program is.
    """

    flow: Flow
    raw: msgspec.Raw
    parameters: dict[str, str] = {}
    idempotency_key: str | None = None
    dry_run: bool = False
    mistakes: tuple[Mistake, ...] = ()
    unsure: frozenset[str] = frozenset()
    unlocatable: frozenset[str] = frozenset()


class Planned(Struct, frozen=True, kw_only=True):
    """One step to be made: the job as sent, its needs by name, and which `each` it came from.

    `sure`: it says all that was meant. `locatable`: at least what says where its program is does.
    """

    name: str
    sent: StepParams
    needs: tuple[Edge, ...] = ()
    group: str | None = None
    sure: bool = True
    locatable: bool = True


class Plan(Struct, frozen=True, kw_only=True):
    """Steps in an order in which they could run; `widths`: how many of a group may run at once."""

    steps: tuple[Planned, ...]
    widths: dict[str, int] = {}
    mistakes: tuple[Mistake, ...] = ()


def plan(request: FlowRequest, strategies: Collection[str] | None) -> Plan:
    """Fill in parameters, fan out, order. `strategies` are those that are known; None where nobody can say."""
    flow = request.flow
    mistakes = [*request.mistakes, *_unknown_parameters(flow, request.parameters)]
    for name, step in flow.steps.items():
        _judge(flow, name, step, strategies, mistakes)
    others = {name: [need.step for need in _edges(step) if need.step != name] for name, step in flow.steps.items()}
    if cycle := find_cycle(others):
        mistakes.append(cycle_mistake(cycle))
    excess = _too_many(flow)
    mistakes += excess
    groups = _fan_out(request, mistakes, of_each=1 if excess else None)
    if mistakes:
        steps = tuple(step for group in groups.values() for step in group)
        return Plan(steps=steps, mistakes=tuple(dict.fromkeys(mistakes)))
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
    """The mistake that names a cycle step by step; of a very long one both ends."""
    first = cycle[1]
    between = len(cycle) - 2 * ENDS_TOLD
    told = cycle if between <= 0 else [*cycle[:ENDS_TOLD], f"… {between} more …", *cycle[-ENDS_TOLD:]]
    return Mistake(
        f"steps.{first}.needs",
        f"a cycle: {' -> '.join(told)}, each needed by the next",
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


def _unknown_parameters(flow: Flow, given: Mapping[str, str]) -> list[Mistake]:
    known = named(flow.parameters)
    return [
        Mistake(f"parameters.{name}", f"the flow has no such parameter (it has: {known})")
        for name in given
        if name not in flow.parameters
    ]


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


def _judge(
    flow: Flow, name: str, step: StepParams, strategies: Collection[str] | None, mistakes: list[Mistake]
) -> None:
    """What of a step does not go with the rest of its flow."""
    path = f"steps.{name}"
    seen: set[str] = set()
    for index, need in enumerate(edge.step for edge in _edges(step)):
        if need == name:
            mistakes.append(Mistake(f"{path}.needs[{index}]", "a step cannot need itself"))
        elif need not in flow.steps:
            # What is not shown needs no hint, and it takes long to find one.
            hint = _nearest(need, flow.steps) if len(mistakes) < MAX_MISTAKES else None
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"there is no step {need!r}", hint))
        elif need in seen:
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"step {need!r} is named twice"))
        seen.add(need)
    if strategies is not None and step.resume not in strategies:
        told = f"there is no resume strategy {step.resume!r} (there are: {', '.join(sorted(strategies))})"
        mistakes.append(Mistake(f"{path}.resume", told))
    if step.width is not UNSET and step.each is UNSET:
        mistakes.append(Mistake(f"{path}.width", "only a step with `each` has a width"))


def _nearest(word: str, known: Collection[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only when something is wrong

    near = difflib.get_close_matches(word, known, 1) if len(known) <= MOST_SEARCHED else []
    return f"did you mean {near[0]}?" if near else None


def _fan_out(request: FlowRequest, mistakes: list[Mistake], of_each: int | None) -> dict[str, list[Planned]]:
    """The steps that each entry of the flow becomes, without their needs; of every `each` the first `of_each`."""
    flow = request.flow
    words = TemplateNames({name: request.parameters.get(name, said) for name, said in flow.parameters.items()})
    groups: dict[str, list[Planned]] = {}
    size = 0
    for name, step in islice(flow.steps.items(), MAX_STEPS):
        sent = _with_defaults(flow, step)
        found: dict[Mistake, None] = {}  # in order, and of an `each` those of all its items once
        groups[name] = []
        template = Template(sent, words, of_items=sent.each is not UNSET)
        for number, item in enumerate([None] if sent.each is UNSET else sent.each[:of_each], 1):
            made = template.fill(item)
            groups[name].append(_planned(request, name, None if sent.each is UNSET else number, made))
            if len(found) < MAX_MISTAKES:
                found.update((one._replace(path=f"steps.{name}.{one.path}"), None) for one in made.mistakes)
            size += made.size
            if size > MAX_CHARACTERS:
                told = f"all of their texts together, filled in, have more than {MAX_CHARACTERS} characters"
                mistakes += [*found, Mistake("steps", told, "split the flow, or let steps read files")]
                return groups
        mistakes += found
    return groups


def _planned(request: FlowRequest, name: str, number: int | None, made: Filled[StepParams]) -> Planned:
    return Planned(
        name=name if number is None else f"{name}:{number}",
        sent=made.step,
        group=None if number is None else name,
        sure=name not in request.unsure,
        locatable=made.locatable and name not in request.unlocatable,
    )


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


def _ordered(flow: Flow, groups: Mapping[str, list[Planned]]) -> tuple[Planned, ...]:
    """Every step behind all that it needs; a need of an `each` is one of each of its steps."""
    needs = {name: _edges(step) for name, step in flow.steps.items()}
    ordered: list[Planned] = []
    for name in TopologicalSorter({name: [edge.step for edge in own] for name, own in needs.items()}).static_order():
        edges = tuple(Edge(other.name, edge.on) for edge in needs[name] for other in groups[edge.step])
        ordered += (msgspec.structs.replace(planned, needs=edges) for planned in groups[name])
    return tuple(ordered)
