"""The parts of a workflow as its graph shows them: steps, the steps of one `each`, or whole layers. Pure.

Owns how much a drawing may hold: a graph with more nodes or needs than a person can follow, or a browser can draw well,
is drawn by layers with counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stoker.cli.kit.drawings import Node
from stoker.cli.kit.graph_shape import URGENT, folded, layered, of_step
from stoker.core.workflow.step_names import group_of

if TYPE_CHECKING:
    from stoker.core.views import StepView

MOST_NODES = 150
MOST_NEEDS = 500


class GraphParts(NamedTuple):
    """`members`: the names of the steps that each node stands for. `by_layer`: each node is a layer, or several."""

    nodes: list[Node]
    members: Mapping[str, frozenset[str]]
    by_layer: bool


def parts_of(steps: Sequence[StepView]) -> GraphParts:
    """Raises CycleError."""
    single = [of_step(step) for step in steps]
    nodes = folded(single)
    if len(nodes) <= MOST_NODES and sum(len(node.needs) for node in nodes) <= MOST_NEEDS:
        return GraphParts(nodes, _members(nodes, single), by_layer=False)
    return _by_layer(single)


def _members(nodes: Iterable[Node], single: Iterable[Node]) -> dict[str, frozenset[str]]:
    members: dict[str, set[str]] = {node.name: set() for node in nodes}
    for step in single:
        members[step.name if step.name in members else group_of(step.name)].add(step.name)
    return {name: frozenset(steps) for name, steps in members.items()}


def _by_layer(single: list[Node]) -> GraphParts:
    """One node for each layer; for each few, if there are very many layers."""
    layers = layered(single)
    size = -(-len(layers) // MOST_NODES)
    nodes: list[Node] = []
    members: dict[str, frozenset[str]] = {}
    for first in range(0, len(layers), size):
        chosen = [node for layer in layers[first : first + size] for node in layer]
        last = min(first + size, len(layers))
        name = f"layer {last}" if last == first + 1 else f"layers {first + 1} to {last}"
        states = Counter(node.state for node in chosen if node.state)
        worst = min(states, key=URGENT.index, default=None)
        needs = [(nodes[-1].name, "ok")] if nodes else []
        nodes.append(Node(name, needs, worst, count=len(chosen), states=dict(states)))
        members[name] = frozenset(node.name for node in chosen)
    return GraphParts(nodes, members, by_layer=True)
