"""The plan of a workflow: its steps in order, made of a flow before anything is stored.

Owns the order of the graph and the mistakes in it. The engine checks queues and resources. Invariants: a plan has at
most `MAX_STEPS` steps; without mistakes it has no cycle and no unknown need, and its steps are in an order in which
they can run. A plan with mistakes also has steps: the engine checks them against the host, so that one answer lists all
mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter

import msgspec
from msgspec import UNSET, Struct

from stoker.core.job.dependencies import OVER_ALL
from stoker.core.job.model import When
from stoker.core.requests import Name
from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.cycles import cycle_mistake, find_cycles, layers
from stoker.core.workflow.definition import MAX_STEPS, Flow, FlowRequest, ItemSource, StepNeed, StepParams
from stoker.core.workflow.fan_out import Planned, fan_out
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge
from stoker.core.workflow.template import named

MAX_EDGES = 100_000  # each is a row, and a need in the spec of a step


class Plan(Struct, frozen=True, kw_only=True):
    """Steps in an order in which they can run; `widths`: how many of a group may run at once.

    `layers`: the names of those that can run at the same time; empty if there are mistakes.
    """

    steps: tuple[Planned, ...]
    widths: dict[str, int] = {}
    layers: list[list[str]] = []
    mistakes: tuple[Mistake, ...] = ()


def plan_flow(request: FlowRequest, strategies: Collection[str] | None) -> Plan:
    """Fill in parameters, fan out, order. `strategies` is None if their names are not known, as in the client."""
    flow = request.flow
    mistakes = [*request.mistakes, *_unknown_parameters(flow, request.parameters)]
    for name, step in flow.steps.items():
        _judge(flow, name, step, strategies, mistakes)
        if isinstance(step.each, ItemSource) and name not in request.unsure:
            mistakes += _wrong_source(f"steps.{name}.each", step.each)
    others = {name: [need.step for need in step.edges if need.step != name] for name, step in flow.steps.items()}
    mistakes += map(cycle_mistake, find_cycles(others))
    excess = _too_many(flow)
    mistakes += excess
    groups = fan_out(request, mistakes, of_each=1 if excess else None)
    if mistakes:
        steps = tuple(step for group in groups.values() for step in group)
        return Plan(steps=steps, mistakes=tuple(dict.fromkeys(mistakes)))
    widths = {name: step.width for name, step in flow.steps.items() if isinstance(step.width, int)}
    steps = _ordered(flow, groups)
    return Plan(
        steps=steps, widths=widths, layers=layers({one.name: [need.step for need in one.needs] for one in steps})
    )


def _unknown_parameters(flow: Flow, given: Mapping[str, str]) -> list[Mistake]:
    names = named(flow.parameters)
    return [
        Mistake(f"parameters.{name}", f"the flow has no such parameter (it has: {names})")
        for name in given
        if name not in flow.parameters
    ]


def _too_many(flow: Flow) -> list[Mistake]:
    """Count the steps before any is made, as a few bytes can ask for millions."""
    sizes = {name: step.size for name, step in flow.steps.items()}
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
        where = f"{path}.needs[{index}]" if index < len(step.needs) else f"{path}.each.step"
        if need == name:
            mistakes.append(Mistake(where, "a step cannot need itself"))
        elif need not in flow.steps:
            # A hint takes long to find, and only the first mistakes are shown.
            hint = did_you_mean(need, flow.steps) if len(mistakes) < MAX_MISTAKES else None
            mistakes.append(Mistake(where, f"there is no step {need!r}", hint))
        elif need in seen:
            mistakes.append(Mistake(where, f"step {need!r} is named twice"))
        seen.add(need)
    if strategies is not None and step.resume not in strategies:
        message = f"there is no resume strategy {step.resume!r} (there are: {', '.join(sorted(strategies))})"
        mistakes.append(Mistake(f"{path}.resume", message))
    if step.width is not UNSET and not step.fans_out:
        mistakes.append(Mistake(f"{path}.width", "only a step with `each` has a width"))
    if step.when is not UNSET:
        mistakes += _wrong_when(path, step)
    if step.counting in OVER_ALL and isinstance(step.each, ItemSource):
        message = f"a group whose list comes from a step does not run by {step.when!s} of its needs"
        mistakes.append(Mistake(f"{path}.when", message, "put a step with this `when` before it"))


def _wrong_source(path: str, source: ItemSource) -> Iterator[Mistake]:
    """A list that is known only later is an output of a step; one that stands in a file is read by the client."""
    if source.file is not UNSET:
        yield Mistake(path, "only the client reads a file", "send the list itself in place of { file }")
    elif source.step is UNSET or source.output is UNSET:
        yield Mistake(path, "`step` and `output` belong together", '{ step = "list", output = "files" }')


def _wrong_when(path: str, step: StepParams) -> Iterator[Mistake]:
    """There is one way to say when a step runs: `when`, or `on` in each need."""
    if not step.needs:
        yield Mistake(f"{path}.when", "only a step with needs has a condition", "add `needs`, or leave `when` out")
    for index, need in enumerate(step.needs):
        if isinstance(need, StepNeed) and need.on is not UNSET:
            yield Mistake(
                f"{path}.needs[{index}].on", "`when` speaks for all needs of the step", "leave out `on`, or `when`"
            )


def _ordered(flow: Flow, groups: Mapping[str, list[Planned]]) -> tuple[Planned, ...]:
    """Every step after all that it needs; to need a step with `each` is to need all steps made from it."""
    needs = {name: step.edges for name, step in flow.steps.items()}
    ordered: list[Planned] = []
    for name in TopologicalSorter({name: [edge.step for edge in own] for name, own in needs.items()}).static_order():
        edges = tuple(Edge(other.name, edge.on) for edge in needs[name] for other in groups[edge.step])
        when = flow.steps[name].counting if edges else None
        source = flow.steps[name].each
        if isinstance(source, ItemSource):
            edges, when = _of_list(flow.steps[name].needs, source), When.EACH
        ordered += (msgspec.structs.replace(planned, needs=edges, when=when) for planned in groups[name])
    return tuple(ordered)


def _of_list(needs: Sequence[Name | StepNeed], source: ItemSource) -> tuple[Edge, ...]:
    """The needs of the step that will expand a group: its list alone, as the steps of the group wait for the others."""
    groups = [need.step for need in needs if isinstance(need, StepNeed) and getattr(need, "same", None)]
    steps = groups if source.step is UNSET else [source.step, *groups]
    return tuple(map(Edge, dict.fromkeys(steps)))
