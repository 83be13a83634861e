"""A workflow as it is sent (a flow), and the plan that is made of it before anything is stored.

Owns the shape of a flow, fan-out (`each`), the order of the graph, and the mistakes in these. The engine checks queues
and resources. Invariants: a plan has at most `MAX_STEPS` steps and `MAX_CHARACTERS` of text; without mistakes it has no
cycle and no unknown need, and its steps are in an order in which they can run. A plan with mistakes also has steps: the
engine checks them against the host, so that one answer lists all mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from stoker.core.job.conditions import texts
from stoker.core.job.model import NeedOn, When
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
from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge, Strategy
from stoker.core.workflow.template import Filled, Template, TemplateNames, filled_items, named

MAX_STEPS = 10_000
MAX_EDGES = 100_000  # each is a row, and a need in the spec of a step
MAX_CHARACTERS = 64 << 20  # of all steps, filled in: a list in a flow of 1 MiB can ask for gigabytes
CYCLE_ENDS = 10  # steps shown at either end of a cycle; the details of the error have all of them


class StepNeed(Params, frozen=True, kw_only=True):
    step: Name
    on: NeedOn | UnsetType = UNSET


class StepWhen(StrEnum):
    """The condition of a step as it is sent."""

    ALL_OK = "all_ok"
    ANY_FAILED = "any_failed"
    ALL_FAILED = "all_failed"
    ANY_OK = "any_ok"
    ALWAYS = "always"


# The `on` that a condition gives to every need, and how these count together.
_CONDITIONS = {
    StepWhen.ALL_OK: (NeedOn.OK, When.EACH),
    StepWhen.ANY_FAILED: (NeedOn.ANY, When.ANY_FAILED),
    StepWhen.ALL_FAILED: (NeedOn.FAILED, When.EACH),
    StepWhen.ANY_OK: (NeedOn.ANY, When.ANY_OK),
    StepWhen.ALWAYS: (NeedOn.ANY, When.EACH),
}


class StepParams(JobWork, frozen=True, kw_only=True):
    """A step as it is sent: the fields of a job, and those of a step. `each` makes one step of each item."""

    needs: Annotated[tuple[Name | StepNeed, ...], Meta(max_length=MAX_NEEDS)] = ()
    when: StepWhen | UnsetType = UNSET
    critical: bool = True
    resume: Name = Strategy.FROM_CHECKPOINT.value
    verify: bool | UnsetType = UNSET
    each: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_STEPS)] | UnsetType = UNSET
    width: Budget | UnsetType = UNSET

    @property
    def edges(self) -> list[Edge]:
        usual = NeedOn.OK if self.when is UNSET else _CONDITIONS[self.when][0]
        return [
            Edge(need, usual) if isinstance(need, str) else Edge(need.step, usual if need.on is UNSET else need.on)
            for need in self.needs
        ]

    @property
    def counting(self) -> When:
        """How its needs count together."""
        return When.EACH if self.when is UNSET else _CONDITIONS[self.when][1]


class StepDefaults(JobDefaults, frozen=True, kw_only=True):
    """Fields that a flow sets for all its steps."""

    working_dir: AbsolutePath | RawBytes | UnsetType = UNSET
    umask: Umask | UnsetType | None = UNSET
    env: dict[Text, Text | RawBytes] | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    resume: Name | UnsetType = UNSET


class Flow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    steps: Annotated[dict[str, StepParams], Meta(min_length=1)]
    parameters: dict[str, str] = {}
    defaults: StepDefaults = StepDefaults()
    verify: bool = False


class FlowRequest(Struct, frozen=True, kw_only=True):
    """A request to accept a flow; `raw` is its JSON as it was sent.

    `mistakes` are those of its shape. A step with such a mistake is `unsure`, because some of its fields are missing;
    it is `unlocatable` if these decide where its program is.
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
    """One step to be made. `when` is None without needs; `group`, `item`: what it was made from, if that has `each`.

    `sure`: all its fields are valid. `locatable`: the fields that decide where its program is are valid.
    """

    name: str
    sent: StepParams
    needs: tuple[Edge, ...] = ()
    when: When | None = None
    group: str | None = None
    item: str | None = None
    sure: bool = True
    locatable: bool = True

    @property
    def conditions(self) -> list[str]:
        """Its conditions, which it waits for beside its needs."""
        return texts(self.sent.wait_for or None)


class Plan(Struct, frozen=True, kw_only=True):
    """Steps in an order in which they can run; `widths`: how many of a group may run at once.

    `layers`: the names of those that can run at the same time; empty if there are mistakes.
    """

    steps: tuple[Planned, ...]
    widths: dict[str, int] = {}
    layers: list[list[str]] = []
    mistakes: tuple[Mistake, ...] = ()


def plan(request: FlowRequest, strategies: Collection[str] | None) -> Plan:
    """Fill in parameters, fan out, order. `strategies` is None if their names are not known, as in the client."""
    flow = request.flow
    mistakes = [*request.mistakes, *_unknown_parameters(flow, request.parameters)]
    for name, step in flow.steps.items():
        _judge(flow, name, step, strategies, mistakes)
    others = {name: [need.step for need in step.edges if need.step != name] for name, step in flow.steps.items()}
    mistakes += map(cycle_mistake, find_cycles(others))
    excess = _too_many(flow)
    mistakes += excess
    groups = _fan_out(request, mistakes, of_each=1 if excess else None)
    if mistakes:
        steps = tuple(step for group in groups.values() for step in group)
        return Plan(steps=steps, mistakes=tuple(dict.fromkeys(mistakes)))
    widths = {name: step.width for name, step in flow.steps.items() if isinstance(step.width, int)}
    steps = _ordered(flow, groups)
    return Plan(
        steps=steps, widths=widths, layers=layers({one.name: [need.step for need in one.needs] for one in steps})
    )


def find_cycle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The steps of a cycle, each needed by the next, the first again at the end; empty without a cycle."""
    try:
        TopologicalSorter({name: [need for need in own if need in needs] for name, own in needs.items()}).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def find_cycles(needs: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Cycles that have no step in common, at most as many as an answer shows."""
    left = dict(needs)
    for _ in range(MAX_MISTAKES):
        cycle = find_cycle(left)
        if not cycle:
            return
        yield cycle
        for name in set(cycle):
            del left[name]


def cycle_mistake(cycle: list[str]) -> Mistake:
    """The mistake that lists the steps of a cycle; of a very long one both ends."""
    first = cycle[1]
    between = len(cycle) - 2 * CYCLE_ENDS
    shown = cycle if between <= 0 else [*cycle[:CYCLE_ENDS], f"… {between} more …", *cycle[-CYCLE_ENDS:]]
    return Mistake(
        f"steps.{first}.needs",
        f"a cycle: {' -> '.join(shown)}, each needed by the next",
        "take one of these needs out",
        tuple(cycle),
    )


def layers(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of steps that can run at the same time, in order."""
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    groups = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        groups.append(ready)
        sorter.done(*ready)
    return groups


def _unknown_parameters(flow: Flow, given: Mapping[str, str]) -> list[Mistake]:
    names = named(flow.parameters)
    return [
        Mistake(f"parameters.{name}", f"the flow has no such parameter (it has: {names})")
        for name in given
        if name not in flow.parameters
    ]


def _too_many(flow: Flow) -> list[Mistake]:
    """Count the steps before any is made, as a few bytes can ask for millions."""
    sizes = {name: 1 if step.each is UNSET else len(step.each) for name, step in flow.steps.items()}
    if (total := sum(sizes.values())) > MAX_STEPS:
        return [Mistake("steps", f"{total} steps; the limit is {MAX_STEPS}", "split the flow")]
    edges = sum(sizes[name] * sum(sizes.get(need.step, 0) for need in step.edges) for name, step in flow.steps.items())
    if edges > MAX_EDGES:
        return [Mistake("steps", f"{edges} needs between steps; the limit is {MAX_EDGES}", "put one step in between")]
    return []


def _judge(
    flow: Flow, name: str, step: StepParams, strategies: Collection[str] | None, mistakes: list[Mistake]
) -> None:
    """Add the mistakes of one step against the rest of its flow."""
    path = f"steps.{name}"
    seen: set[str] = set()
    for index, need in enumerate(edge.step for edge in step.edges):
        if need == name:
            mistakes.append(Mistake(f"{path}.needs[{index}]", "a step cannot need itself"))
        elif need not in flow.steps:
            # A hint takes long to find, and only the first mistakes are shown.
            hint = did_you_mean(need, flow.steps) if len(mistakes) < MAX_MISTAKES else None
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"there is no step {need!r}", hint))
        elif need in seen:
            mistakes.append(Mistake(f"{path}.needs[{index}]", f"step {need!r} is named twice"))
        seen.add(need)
    if strategies is not None and step.resume not in strategies:
        message = f"there is no resume strategy {step.resume!r} (there are: {', '.join(sorted(strategies))})"
        mistakes.append(Mistake(f"{path}.resume", message))
    if step.width is not UNSET and step.each is UNSET:
        mistakes.append(Mistake(f"{path}.width", "only a step with `each` has a width"))
    if step.when is not UNSET:
        mistakes += _wrong_when(path, step)


def _wrong_when(path: str, step: StepParams) -> Iterator[Mistake]:
    """There is one way to say when a step runs: `when`, or `on` in each need."""
    if not step.needs:
        yield Mistake(f"{path}.when", "only a step with needs has a condition", "add `needs`, or leave `when` out")
    for index, need in enumerate(step.needs):
        if isinstance(need, StepNeed) and need.on is not UNSET:
            yield Mistake(
                f"{path}.needs[{index}].on", "`when` speaks for all needs of the step", "leave out `on`, or `when`"
            )


def _fan_out(request: FlowRequest, mistakes: list[Mistake], of_each: int | None) -> dict[str, list[Planned]]:
    """The steps of each entry of the flow, without their needs; of every `each` the first `of_each`."""
    flow = request.flow
    names = TemplateNames({name: request.parameters.get(name, default) for name, default in flow.parameters.items()})
    groups: dict[str, list[Planned]] = {}
    size = 0
    for name, step in islice(flow.steps.items(), MAX_STEPS):
        sent = _with_defaults(flow, step)
        of_step: dict[Mistake, None] = {}  # in order, and a mistake of several items only once
        groups[name] = []
        template = Template(sent, names, of_items=sent.each is not UNSET)
        items: Sequence[str | None] = [None]
        if sent.each is not UNSET:
            items, wrong = filled_items(sent.each[:of_each], names)
            of_step.update((one._replace(path=f"steps.{name}.{one.path}"), None) for one in wrong[:MAX_MISTAKES])
        for number, item in enumerate(items, 1):
            filled = template.fill(item)
            groups[name].append(_planned(request, name, number, item, filled))
            if len(of_step) < MAX_MISTAKES:
                of_step.update((one._replace(path=f"steps.{name}.{one.path}"), None) for one in filled.mistakes)
            size += filled.size
            if size > MAX_CHARACTERS:
                message = f"all of their texts together, filled in, have more than {MAX_CHARACTERS} characters"
                mistakes += [*of_step, Mistake("steps", message, "split the flow, or let steps read files")]
                return groups
        mistakes += of_step
    return groups


def _planned(request: FlowRequest, name: str, number: int, item: str | None, filled: Filled[StepParams]) -> Planned:
    return Planned(
        name=name if item is None else f"{name}:{number}",
        sent=filled.step,
        group=None if item is None else name,
        item=item,
        sure=name not in request.unsure,
        locatable=filled.locatable and name not in request.unlocatable,
    )


def _with_defaults(flow: Flow, step: StepParams) -> StepParams:
    defaults = flow.defaults
    changes: dict[str, Any] = {
        name: value
        for name in defaults.__struct_fields__
        if (value := getattr(defaults, name)) is not UNSET and getattr(step, name) is UNSET
    }
    if defaults.env is not UNSET and step.env is not UNSET:
        changes["env"] = defaults.env | step.env
    if defaults.resume is not UNSET and step.resume == Strategy.FROM_CHECKPOINT:
        changes["resume"] = defaults.resume
    if step.verify is UNSET:
        changes["verify"] = flow.verify
    return msgspec.structs.replace(step, **changes)


def _ordered(flow: Flow, groups: Mapping[str, list[Planned]]) -> tuple[Planned, ...]:
    """Every step after all that it needs; to need a step with `each` is to need all steps made from it."""
    needs = {name: step.edges for name, step in flow.steps.items()}
    ordered: list[Planned] = []
    for name in TopologicalSorter({name: [edge.step for edge in own] for name, own in needs.items()}).static_order():
        edges = tuple(Edge(other.name, edge.on) for edge in needs[name] for other in groups[edge.step])
        when = flow.steps[name].counting if edges else None
        ordered += (msgspec.structs.replace(planned, needs=edges, when=when) for planned in groups[name])
    return tuple(ordered)
