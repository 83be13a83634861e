"""The shape of a graph of steps: its layers, and the nodes that stand for several steps. Pure.

Owns the way from the steps that the daemon shows to nodes, and their order within a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, NamedTuple

from stoker.cli.kit.drawings import Node
from stoker.cli.kit.naming import edges
from stoker.core.workflow.phases import layers
from stoker.core.workflow.step_names import fan_out_of, group_of

if TYPE_CHECKING:
    from stoker.core.views import StepView

Layers = list[list[Node]]

# The state of a folded group is the first of these that one of its steps has.
URGENT = (
    "held",
    "failed",
    "expired",
    "cancelled",
    "running",
    "queued",
    "waiting",
    "skipped",
    "superseded",
    "succeeded",
)


def of_step(step: StepView) -> Node:
    """A step as the daemon shows it."""
    return Node(
        step["name"],
        edges(step),
        step["state"],
        critical=step["critical"],
        conditions=step["conditions_open"] if step["state"] == "waiting" else (),
        run_if=step["run_if"],
        handler=step["handler"],
    )


class Fold(NamedTuple):
    """`members`: the names of the steps that each node stands for."""

    nodes: list[Node]
    members: Mapping[str, frozenset[str]]


def folded(nodes: list[Node]) -> list[Node]:
    """The graph with the steps of each group (`compile[lexer]`, `compile[parser]`) as one node."""
    return fold(nodes, group_of).nodes


def fold(nodes: list[Node], place: Callable[[str], str], *, within: bool = False) -> Fold:
    """One node for all steps of the same `place`.

    A need may lead from one step of a place to another one of it: then they stay apart, unless such needs are to be
    hidden `within` their node. The step that stands for a group until its list is known is one of that group.
    """
    apart: set[str] = set()
    while True:
        members: dict[str, list[Node]] = {}
        for node in nodes:
            at = place(node.name)
            members.setdefault(node.name if at in apart else at, []).append(node)
        names = {node.name: at for at, group in members.items() for node in group}
        merged = [_merged(name, group, names, within=within) for name, group in members.items()]
        cycle = _cycle(merged)
        if not cycle:
            return Fold(merged, {at: frozenset(node.name for node in group) for at, group in members.items()})
        apart |= {name for name in cycle if len(members[name]) > 1}


def _cycle(nodes: list[Node]) -> list[str]:
    """The names on a cycle of needs; empty if there is none."""
    try:
        TopologicalSorter({node.name: [need for need, _ in node.needs] for node in nodes}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _merged(name: str, members: list[Node], names: Mapping[str, str], *, within: bool) -> Node:
    needs = dict.fromkeys(
        (names[need], on) for node in members for need, on in node.needs if need != fan_out_of(node.name)
    )
    if within:
        needs = {(need, on): None for need, on in needs if need != name}
    stand_ins = {fan_out_of(node.name) for node in members}
    counted = [node for node in members if node.name not in stand_ins or node.state not in (None, "succeeded")]
    states: dict[str, int] = {}
    for node in counted:
        if node.state:
            states[node.state] = states.get(node.state, 0) + 1
    worst = min(states, key=URGENT.index, default=None)
    first = members[0]
    count = first.count if len(members) == 1 else len(counted)
    conditions = list(dict.fromkeys(text for node in members for text in node.conditions))
    return Node(
        name,
        list(needs),
        worst,
        critical=first.critical,
        count=count,
        states=states,
        conditions=conditions,
        run_if=first.run_if,
        handler=first.handler,
    )


def layered(nodes: list[Node]) -> Layers:
    """Layers of nodes that could run at the same time; each needs only earlier ones, and handlers come last."""
    by_name = {node.name: node for node in nodes}
    needs = {node.name: [need for need, _ in node.needs] for node in nodes}
    found: Layers = []
    rows: dict[str, int] = {}
    for names in layers(needs, {node.name: node.handler for node in nodes if node.handler is not None}):
        found.append(_placed([by_name[name] for name in names], rows))
        rows |= {node.name: row for row, node in enumerate(found[-1])}
    return found


def _placed(nodes: Iterable[Node], rows: Mapping[str, int]) -> list[Node]:
    """The nodes of a layer in order, each near the middle of those it needs, so that few edges cross."""

    def middle(node: Node) -> float:
        return sum(rows[need] for need, _ in node.needs) / len(node.needs) if node.needs else 0.0

    return sorted(nodes, key=middle)
