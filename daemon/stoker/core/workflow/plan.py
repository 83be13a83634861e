"""The plan of a workflow: its steps in order, made of a flow before anything is stored.

Owns the order of the graph and the mistakes in it. The engine checks queues and resources. Invariants: a plan has at
most `MAX_STEPS` steps; without mistakes it has no cycle and no unknown need, and its steps are in an order in which
they can run. A plan with mistakes also has steps: the engine checks them against the host, so that one answer lists all
mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter

import msgspec
from msgspec import UNSET, Struct

from stoker.core.job.dependencies import OVER_ALL
from stoker.core.job.model import When
from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.cycles import cycle_mistake, find_cycles
from stoker.core.workflow.definition import (
    MAX_DEPTH,
    MAX_KEY,
    MAX_STEPS,
    Concurrency,
    Flow,
    FlowLimits,
    FlowRequest,
    ItemSource,
    StepNeed,
    StepParams,
)
from stoker.core.workflow.entry_needs import EntryNeeds, entry_needs
from stoker.core.workflow.expression import Scope, mistakes_in, references
from stoker.core.workflow.fan_out import EMPTY, Inner, Planned, fan_out, groups_needed, names_of
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.nesting import unfold, wrong_fields, wrong_outputs
from stoker.core.workflow.phases import layers, phase_in
from stoker.core.workflow.state import Edge
from stoker.core.workflow.step_secrets import wrong_secrets
from stoker.core.workflow.template import TemplateNames, filled_text, named

WHOLE = ""  # in place of a group: the width of all steps of a workflow
MAX_EDGES = 100_000  # each is a row, and a need in the spec of a step


class Plan(Struct, frozen=True, kw_only=True):
    """Steps in an order in which they can run; `widths`: how many of a group may run at once; `inner_limits`: those of
    time of nested workflows, by what the names of their steps begin with.

    `layers`: the names of those that can run at the same time; empty if there are mistakes.
    """

    steps: tuple[Planned, ...]
    widths: dict[str, int] = {}
    inner_limits: dict[str, FlowLimits] = {}
    layers: list[list[str]] = []
    mistakes: tuple[Mistake, ...] = ()
    concurrency: Concurrency | None = None
    labels: dict[str, str] = {}


def plan_flow(request: FlowRequest, strategies: Collection[str] | None, depth: int = 1) -> Plan:
    """Fill in parameters, fan out, order. `strategies` is None if their names are not known, as in the client.

    `depth`: how many flows are inside each other, with this one.
    """
    flow = request.flow
    mistakes = [*request.mistakes, *_unknown_parameters(flow, request.parameters)]
    for name, step in flow.entries.items():
        _judge(flow, name, step, strategies, mistakes)
        if name not in request.unsure:
            mistakes += _wrong_items(flow, name, step)
        if step.run_if is not UNSET and len(mistakes) < MAX_MISTAKES:
            mistakes += _wrong_if(request, name, step, step.run_if)
    mistakes += wrong_outputs(flow)
    table = flow.handlers.get
    others = {
        name: [need.step for need in edges if need.step != name and table(need.step) is table(name)]
        for name, edges in flow.edges.items()
    }
    mistakes += (
        one._replace(path=f"{flow.path(one.cycle[1])}.needs") for one in map(cycle_mistake, find_cycles(others))
    )
    excess = _too_many(flow)
    mistakes += excess
    groups = fan_out(request, mistakes, of_each=1 if excess else None)
    if not mistakes:
        mistakes += _too_many_needs(flow, groups)
    sure = {} if excess else {name: step for name, step in flow.entries.items() if name not in request.unsure}
    names = names_of(flow, request.parameters)
    needs = {name: entry_needs(name, sure, groups, names) if name in sure else EntryNeeds() for name in flow.entries}
    for name, own in needs.items():
        mistakes += (one._replace(path=f"{flow.path(name)}.{one.path}") for one in own.mistakes)
    concurrency = _filled(flow.concurrency, names, mistakes)
    labels = {key: filled_text(f"labels.{key}", text, names, mistakes) for key, text in flow.labels.items()}
    widths, limits = _widths(flow, inner=depth > 1), dict[str, FlowLimits]()
    for name, group in groups.items():
        groups[name] = [with_inner(flow.entries[name], step, strategies, depth, mistakes) for step in group]
        widths |= widths_of(groups[name])
        limits |= limits_of(groups[name])
    if mistakes:
        steps = tuple(one for group in groups.values() for step in group for one in unfold(step, (), None))
        return Plan(steps=steps, mistakes=tuple(dict.fromkeys(mistakes)))
    steps = _ordered(flow, groups, needs)
    if depth == 1 and all(step.sent.command == EMPTY for step in steps):
        hint = "a list with items, or a step without one"
        return Plan(steps=steps, mistakes=(Mistake("steps", "all lists are empty, so there is no step to run", hint),))
    if (edges := sum(len(step.needs) for step in steps)) > MAX_EDGES:
        return Plan(steps=steps, mistakes=(_too_many_edges(edges),))
    return Plan(
        steps=steps,
        widths=widths,
        inner_limits=limits,
        layers=layered(steps),
        concurrency=concurrency,
        labels=labels,
    )


def _filled(concurrency: Concurrency | None, names: TemplateNames, mistakes: list[Mistake]) -> Concurrency | None:
    """With every name in its key replaced."""
    if concurrency is None:
        return None
    path = "concurrency.key"
    key = filled_text(path, concurrency.key, names, mistakes)
    if not 0 < len(key) <= MAX_KEY:
        mistakes.append(Mistake(path, f"filled in, it has {len(key)} characters; 1 to {MAX_KEY} are allowed"))
    return msgspec.structs.replace(concurrency, key=key)


def _widths(flow: Flow, *, inner: bool) -> dict[str, int]:
    """A nested workflow with a limit of time has a width, so that it can be closed."""
    widths = {name: width for name, step in flow.entries.items() if (width := _width(flow, step)) is not None}
    whole = MAX_STEPS if flow.max_running is None and inner and flow.limits.timed else flow.max_running
    return widths if whole is None else widths | {WHOLE: whole}


def _width(flow: Flow, step: StepParams) -> int | None:
    """How many of its group may run at once. A group that fails fast has a width, so that it can be closed."""
    if not step.fans_out:
        return None
    width = flow.defaults.width if step.width is UNSET else step.width
    fails_fast = flow.defaults.fail_fast if step.fail_fast is UNSET else step.fail_fast
    return width if isinstance(width, int) else MAX_STEPS if fails_fast is True else None


def with_inner(
    entry: StepParams, planned: Planned, strategies: Collection[str] | None, depth: int, mistakes: list[Mistake]
) -> Planned:
    """A step of `entry` with the steps of its nested workflow, if it is one."""
    if entry.workflow is UNSET or planned.given is None:
        return planned
    if depth >= MAX_DEPTH:
        message = f"more than {MAX_DEPTH} flows inside each other"
        mistakes.append(Mistake(f"{planned.path}.workflow", message, "move steps up into an outer flow"))
        return planned
    request = FlowRequest(flow=entry.workflow, raw=msgspec.Raw(), parameters=planned.given)
    plan = plan_flow(request, strategies, depth + 1)
    for one in plan.mistakes:
        within = planned.path if one.path.startswith("parameters.") else f"{planned.path}.workflow"
        mistakes.append(one._replace(path=f"{within}.{one.path}"))
    own = {WHOLE: entry.workflow.limits} if entry.workflow.limits.timed else {}
    return msgspec.structs.replace(planned, inner=Inner(plan.steps, plan.widths, own | plan.inner_limits))


def widths_of(steps: Iterable[Planned]) -> dict[str, int]:
    """The widths of the groups in nested workflows."""
    return {
        f"{step.name}/{group}": width
        for step in steps
        if step.inner is not None
        for group, width in step.inner.widths.items()
    }


def limits_of(steps: Iterable[Planned]) -> dict[str, FlowLimits]:
    """The limits of time of nested workflows."""
    inner = ((step.name, step.inner.limits) for step in steps if step.inner is not None)
    return {f"{name}/{outer}": limits for name, of_step in inner for outer, limits in of_step.items()}


def _unknown_parameters(flow: Flow, given: Mapping[str, str]) -> list[Mistake]:
    names = named(flow.parameters)
    return [
        Mistake(f"parameters.{name}", f"the flow has no such parameter (it has: {names})")
        for name in given
        if name not in flow.parameters
    ]


def _too_many(flow: Flow) -> list[Mistake]:
    """Count the steps before any is made, as a few bytes can ask for millions."""
    if (total := sum(step.size for step in flow.entries.values())) > MAX_STEPS:
        return [Mistake("steps", f"{total} steps; the limit is {MAX_STEPS}", "split the flow")]
    return []


def _too_many_needs(flow: Flow, groups: Mapping[str, Sequence[Planned]]) -> list[Mistake]:
    """Count the needs before any is made."""
    edges = sum(
        len(groups[name]) * sum(1 if need.is_single else len(groups[need.group]) for need in step.own_needs)
        for name, step in flow.entries.items()
    )
    if edges > MAX_EDGES:
        return [_too_many_edges(edges)]
    return []


def _too_many_edges(edges: int) -> Mistake:
    return Mistake("steps", f"{edges} needs between steps; the limit is {MAX_EDGES}", "put one step in between")


def _judge(
    flow: Flow, name: str, step: StepParams, strategies: Collection[str] | None, mistakes: list[Mistake]
) -> None:
    """Add the mistakes of one step against the rest of its flow."""
    path = flow.path(name)
    mistakes += wrong_fields(path, step)
    mistakes += wrong_secrets(flow, path, step)
    seen: dict[str, set[str]] = {}  # by entry: what of it is needed
    for need, where in _named_needs(step, flow.edges[name], path):
        wrong = _wrong_need(flow, name, need, seen, hinted=len(mistakes) < MAX_MISTAKES)
        if wrong is not None:
            mistakes.append(wrong._replace(path=where))
        seen.setdefault(need.group, set()).add(need.name)
    if strategies is not None and step.resume is not UNSET and step.resume not in strategies:
        message = f"there is no resume strategy {step.resume!r} (there are: {', '.join(sorted(strategies))})"
        mistakes.append(Mistake(f"{path}.resume", message))
    mistakes += _wrong_ends(flow, name, step)
    if step.when is not UNSET:
        mistakes += _wrong_when(path, step)
    source = step.each.step if isinstance(step.each, ItemSource) else UNSET
    if source in flow.steps and source != name and flow.steps[str(source)].fans_out:
        message = f"step {source!r} is a group, and each of its steps hands on outputs of its own"
        mistakes.append(Mistake(f"{path}.each.step", message, "take the list from a single step"))
    if step.counting in OVER_ALL and isinstance(step.each, ItemSource):
        message = f"a group whose list comes from a step does not run by {step.when!s} of its needs"
        mistakes.append(Mistake(f"{path}.when", message, "put a step with this `when` before it"))


def _named_needs(step: StepParams, edges: Sequence[Edge], path: str) -> Iterator[tuple[StepNeed, str]]:
    """The needs of a step, each with its path; the last is the step whose output is its list."""
    yield from ((need, f"{path}.needs[{index}]") for index, need in enumerate(step.own_needs))
    for edge in edges[len(step.needs) :]:
        yield StepNeed(step=edge.step), f"{path}.each.step"


def _wrong_items(flow: Flow, name: str, step: StepParams) -> Iterator[Mistake]:
    path = flow.path(name)
    if step.matrix is not UNSET and step.each is not UNSET:
        yield Mistake(f"{path}.matrix", "a step has either `each` or `matrix`", "leave out one of the two")
    if isinstance(step.each, ItemSource):
        yield from _wrong_source(f"{path}.each", step.each, handler=name in flow.handlers)


def _wrong_source(path: str, source: ItemSource, *, handler: bool) -> Iterator[Mistake]:
    """A list that is known only later is an output of a step; one that stands in a file is read by the client."""
    if source.file is not UNSET:
        yield Mistake(path, "only the client reads a file", "send the list itself in place of { file }")
    elif source.step is UNSET or source.output is UNSET:
        yield Mistake(path, "`step` and `output` belong together", '{ step = "list", output = "files" }')
    elif handler:
        yield Mistake(path, "the list of a handler is known at the submit", "give the list itself")


def _wrong_ends(flow: Flow, name: str, step: StepParams) -> Iterator[Mistake]:
    """Fields of a group, and those that say what a failure of the step ends."""
    path = flow.path(name)
    if step.width is not UNSET and not step.fans_out:
        yield Mistake(f"{path}.width", "only a step with `each` or `matrix` has a width")
    if step.fail_fast is not UNSET and not step.fans_out:
        message = "only a step with `each` or `matrix` has others of its group"
        yield Mistake(f"{path}.fail_fast", message, "leave it out")
    if name in flow.handlers and step.workflow is not UNSET:
        yield Mistake(f"{path}.workflow", "a handler is one step", "submit the workflow in its command")
    if step.abort_on is UNSET:
        return
    good = {0} if step.success_exit_codes is UNSET else {*step.success_exit_codes}
    if both := good.intersection(step.abort_on):
        codes = ", ".join(map(str, sorted(both)))
        yield Mistake(f"{path}.abort_on", f"exit code {codes} is a success (success_exit_codes)", "name another code")
    if name in flow.handlers:
        yield Mistake(f"{path}.abort_on", "a handler runs after all steps, so it ends none", "leave it out")


def _wrong_need(flow: Flow, name: str, need: StepNeed, seen: Mapping[str, set[str]], *, hinted: bool) -> Mistake | None:
    """The mistake in a need of the step `name`, without its path. `seen`: what is needed already, by entry."""
    group = need.group
    if len(need.targets) != 1:
        return Mistake("", "a need names one of `step`, `job` and `workflow`", "as in { job = 41 }")
    if group == name:
        return Mistake("", "a step cannot need itself")
    if need.outside is None and (group not in flow.entries or group in flow.outside):
        # A hint takes long to find, and only the first mistakes are shown.
        return Mistake("", f"there is no step {group!r}", did_you_mean(group, flow.entries) if hinted else None)
    if flow.handlers.get(group) is not flow.handlers.get(name):
        return _of_another_table(flow, name, group)
    if need.name in seen.get(group, ()) or (group in seen and (group in seen[group] or need.name == group)):
        return Mistake("", f"step {need.name!r} is named twice")
    return None


def _of_another_table(flow: Flow, name: str, need: str) -> Mistake:
    """Handlers run after all steps, so a need between them and a step says nothing, or can never be met."""
    if name in flow.handlers:
        return Mistake("", f"a handler can need only handlers of [{flow.handlers[name]}]", "leave out this need")
    return Mistake("", f"{need!r} is a handler, which runs after all steps", "leave out this need")


def _wrong_when(path: str, step: StepParams) -> Iterator[Mistake]:
    """There is one way to say when a step runs: `when`, or `on` in each need."""
    if not step.needs:
        yield Mistake(f"{path}.when", "only a step with needs has a condition", "add `needs`, or leave `when` out")
    for index, need in enumerate(step.needs):
        if isinstance(need, StepNeed) and need.on is not UNSET:
            yield Mistake(
                f"{path}.needs[{index}].on", "`when` speaks for all needs of the step", "leave out `on`, or `when`"
            )


def _wrong_if(request: FlowRequest, name: str, step: StepParams, text: str) -> Iterator[Mistake]:
    """A step with another mistake may have lost its needs: there each step of the flow may be named."""
    steps = request.flow.entries
    known = references(text)["needs"] if name in request.unsure else [edge.step for edge in step.edges]
    several = groups_needed(request.flow, step)
    scope = Scope(
        parameters=request.flow.parameters,
        needs={need: need in several for need in known if need in steps},
        has_item=step.fans_out,
        item_fields=_item_fields(step),
    )
    for mistake in mistakes_in(text, scope):
        yield Mistake(f"{request.flow.path(name)}.if", mistake.message, mistake.hint)


def _item_fields(step: StepParams) -> Collection[str] | None:
    """The fields that each of its items has; None if they are not known, or some items are tables and others not."""
    if not isinstance(step.each, tuple):
        return None
    tables = [frozenset(item) for item in step.each if isinstance(item, Mapping)]
    if not tables:
        return ()
    return frozenset.intersection(*tables) if len(tables) == len(step.each) else None


def _ordered(flow: Flow, groups: Mapping[str, list[Planned]], needs: Mapping[str, EntryNeeds]) -> tuple[Planned, ...]:
    """Every step after all that it needs; to need a step with `each` is to need all steps made from it."""
    entries = {name: [edge.step for edge in own] for name, own in flow.edges.items()}
    ordered: list[Planned] = []
    for name in TopologicalSorter(entries).static_order():
        step = flow.entries[name]
        later = isinstance(step.each, ItemSource)
        edges = {"": _of_list(flow, step)} if later else needs[name].edges(groups)
        when = When.EACH if later else step.counting
        for planned in groups[name]:
            own = edges.get(planned.name, edges[""])
            ordered += unfold(planned, own, when if own else None)
    return tuple(sorted(ordered, key=lambda one: phase_in(WHOLE, one.name, one.handler)))


def layered(steps: Sequence[Planned]) -> list[list[str]]:
    """The names of those that can run at the same time: the handlers after all steps, `finally` last."""
    tables = {one.name: one.handler.value for one in steps if one.handler is not None}
    return [*layers({one.name: [need.step for need in one.needs] for one in steps}, tables)]


def _of_list(flow: Flow, step: StepParams) -> tuple[Edge, ...]:
    """The needs of the step that will expand a group: its list and the groups that it is paired with by their items.

    The steps of the group wait for all other needs.
    """
    paired = [need.group for need in step.own_needs if need.same is not UNSET]
    expanded = [group for group in paired if isinstance(flow.entries[group].each, ItemSource)]
    source = step.each.step if isinstance(step.each, ItemSource) else UNSET
    return tuple(map(Edge, dict.fromkeys(expanded if source is UNSET else [source, *expanded])))
