"""The expansion of a group whose list is known only at run time: from the text of an output to the steps of the group.

Owns how such a list is written, and which needs the new steps have. The workflow changes elsewhere (`workflows`).
Invariant: the same flow and the same list always give the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from stoker.core.errors import FlowInvalid
from stoker.core.job.model import When
from stoker.core.leaves import leaves, nul_problem
from stoker.core.workflow.definition import MAX_STEPS, Flow, FlowLimits, FlowRequest, StepParams
from stoker.core.workflow.fan_out import Planned, fan_out, step_of_item
from stoker.core.workflow.items import Item, step_name
from stoker.core.workflow.mistakes import Mistake, refuse
from stoker.core.workflow.plan import limits_of, widths_of, with_inner
from stoker.core.workflow.state import Edge, Step
from stoker.core.workflow.step_names import entries_of, fan_out_of

SHOWN = 80  # characters of a text that is no list

_items = msgspec.json.Decoder(list[Item]).decode


class GroupPlan(Struct, frozen=True):
    """The steps of a group, with the needs of its entry: those by name, and those of the same item (by group).

    `paired`: the groups whose steps need the step of the same item here. `widths`: those of groups in nested workflows;
    `inner_limits`: those of time of these.
    """

    name: str
    steps: tuple[Planned, ...]
    when: When
    needs: tuple[Edge, ...]
    same: tuple[Edge, ...] = ()
    paired: frozenset[str] = frozenset()
    widths: dict[str, int] = {}
    inner_limits: dict[str, FlowLimits] = {}


class EntryPlace(Struct, frozen=True):
    """Where an entry stands: in a flow with these parameters. `outer` comes before the names of the steps there."""

    flow: Flow
    parameters: Mapping[str, str]
    entry: str
    outer: str = ""
    critical: bool = True

    @property
    def step(self) -> StepParams:
        return self.flow.steps[self.entry]


def read_list(text: str, where: str) -> list[Item]:
    """The items in a text: a JSON list, or one text in each line. Raises FlowInvalid."""
    items = _read_items(text, where)
    for path, leaf in leaves(items):
        if problem := nul_problem(leaf):
            raise FlowInvalid(f"{where}: item {path}: {problem}", path=where)
    return items


def _read_items(text: str, where: str) -> list[Item]:
    if text.lstrip()[:1] not in ("[", "{", '"'):
        return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    try:
        return _items(text)
    except msgspec.MsgspecError as error:
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
        raise FlowInvalid(
            f"{where}: no list of items: {shown!r} ({str(error).replace('`', '')})",
            hint="a JSON list of texts, whole numbers or flat tables, or one text in each line",
            path=where,
        ) from error


def listed(outputs: str | None, step: str, output: str, where: str) -> list[Item]:
    """The list that a step handed on; `outputs`: all that it handed on, as JSON. Raises FlowInvalid."""
    values: dict[str, str] = {} if outputs is None else msgspec.json.decode(outputs)
    if output not in values:
        names = ", ".join(sorted(values)) or "none"
        raise FlowInvalid(
            f"{where}: step {step!r} handed on no output {output!r} (it handed on: {names})",
            hint=f"""in the step: printf '{output}=["a", "b"]\\n' >> "$STOKER_OUTPUT" """.strip(),
            path=where,
        )
    items = read_list(values[output], f"{where}: output {output!r} of step {step!r}")
    if len(items) > MAX_STEPS:
        raise FlowInvalid(
            f"{where}: output {output!r} of step {step!r} has {len(items)} items; the limit is {MAX_STEPS}",
            hint="hand on fewer items, each with more work",
            path=where,
        )
    return items


def place_of(flow: Flow, parameters: Mapping[str, str], name: str) -> EntryPlace:
    """The place of the entry that became the step `name`, at any depth."""
    *before, (entry, _) = entries_of(name)
    outer, critical = "", True
    for over, label in before:
        step = flow.steps[over]
        of_item = step_of_item(flow, parameters, over, label)
        assert step.workflow is not UNSET, "only a nested workflow has steps of its own"
        flow, parameters = step.workflow, of_item.given or {}
        outer, critical = f"{outer}{of_item.name}/", critical and of_item.critical
    return EntryPlace(flow, parameters, entry, outer, critical)


def group_of(place: EntryPlace, items: Sequence[Item]) -> GroupPlan:
    """The steps of a group, filled in as at a submit. Raises FlowInvalid with every mistake."""
    mistakes: list[Mistake] = []
    entry = replace(place.step, each=tuple(map(_literal, items)))
    steps = _alone(place.flow, place.parameters, place.entry, entry, mistakes)
    steps = [step for step in steps if step.group]  # without items there is one step, which is in no group
    steps = [with_inner(entry, step, None, 1, mistakes) for step in steps]
    refuse(list(dict.fromkeys(mistakes)))
    same = _same_groups(entry)
    paired = (place.outer + name for name, other in place.flow.steps.items() if place.entry in _same_groups(other))
    edges = [(edge.step in same, Edge(place.outer + edge.step, edge.on)) for edge in entry.edges]
    return GroupPlan(
        place.outer + place.entry,
        tuple(_placed(step, place) for step in steps),
        entry.counting,
        tuple(edge for of_item, edge in edges if not of_item),
        tuple(edge for of_item, edge in edges if of_item),
        frozenset(paired),
        {place.outer + group: width for group, width in widths_of(steps).items()},
        {place.outer + outer: limits for outer, limits in limits_of(steps).items()},
    )


def _same_groups(entry: StepParams) -> set[str]:
    """The groups of which its steps need the one of the same item."""
    return {need.group for need in entry.own_needs if need.same is not UNSET}


def _alone(
    flow: Flow, parameters: Mapping[str, str], name: str, entry: StepParams, mistakes: list[Mistake]
) -> list[Planned]:
    """The steps of one entry of a flow."""
    known = replace(flow, steps={**flow.steps, name: entry})
    request = FlowRequest(flow=known, raw=msgspec.Raw(), parameters=dict(parameters))
    return fan_out(request, mistakes, None, only=name)[name]


def _placed(step: Planned, place: EntryPlace) -> Planned:
    """A step with its name and its weight in the whole workflow."""
    return replace(
        step,
        name=place.outer + step.name,
        group=step.group and place.outer + step.group,
        parent=place.outer.removesuffix("/") or None,
        run_if=None if step.run_if is None else step.run_if.inside(place.outer),
        contained=not place.critical,
    )


def _literal(item: Item) -> Item:
    """An item that the fan-out leaves as it is: only a flow has templates, not what a step hands on."""
    if isinstance(item, Mapping):
        return {key: value.replace("{{", "{{{{") if isinstance(value, str) else value for key, value in item.items()}
    return item.replace("{{", "{{{{") if isinstance(item, str) else item


def members(names: Iterable[str]) -> dict[str, list[str]]:
    """The steps of each group, by its name: those called GROUP[LABEL]."""
    found: dict[str, list[str]] = {}
    for name in names:
        if (group := fan_out_of(name)) is not None:
            found.setdefault(group, []).append(name)
    return found


def needs_of(
    group: GroupPlan, planned: Planned, there: Mapping[str, list[str]], names: Callable[[str], bool]
) -> list[Edge]:
    """The needs of a step of the group in a workflow that has these groups and steps. Raises FlowInvalid."""
    edges = [Edge(group.name)]  # the step that expands: it orders all, and a retry of the list finds them behind it
    for edge in group.needs:
        targets = there.get(edge.step) or ([edge.step] if names(edge.step) else [])
        edges += (Edge(target, edge.on) for target in targets)
    for edge in group.same:
        target = step_name(edge.step, planned.label or "")
        if not names(target):
            raise FlowInvalid(
                f"steps.{group.name}.needs: there is no step {target!r} for {planned.name!r}",
                hint="both groups must have the same items",
                path=f"steps.{group.name}.needs",
            )
        edges.append(Edge(target, edge.on))
    return edges


def rewired(step: Step, group: str, before: Collection[str], now: Sequence[str]) -> Step:
    """A step that needs the group, with needs on the steps that the group has now; itself if nothing changes."""
    ons = [edge.on for edge in step.needs if edge.step == group or edge.step in before]
    if not ons:
        return step
    kept = tuple(edge for edge in step.needs if edge.step != group and edge.step not in before)
    # Without an item the group is the step that expanded it, which a later expansion finds again.
    needs = (*kept, *(Edge(name, ons[0]) for name in now or [group]))
    return step if set(needs) == set(step.needs) else replace(step, needs=needs)
