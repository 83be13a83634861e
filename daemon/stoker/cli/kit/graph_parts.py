"""A graph as its drawings show it: by steps, groups of steps, nested workflows or whole layers. Pure.

Owns how much a drawing may hold: a graph with more nodes or needs than a person can follow, or a browser can draw well,
is drawn by larger parts with counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from stoker.cli.kit.drawings import Node
from stoker.cli.kit.graph_shape import URGENT, fold, layered
from stoker.core.workflow.step_names import group_of, path_of, without_label

MOST_NODES = 150
MOST_NEEDS = 500


class GraphParts(NamedTuple):
    """`members`: the names of the steps that each node stands for. `by_layer`: each node is a layer, or several."""

    nodes: list[Node]
    members: Mapping[str, frozenset[str]]
    by_layer: bool


def parts_of(steps: list[Node], most_nodes: int = MOST_NODES, most_needs: int = MOST_NEEDS) -> GraphParts:
    """The finest parts that are few enough. Raises CycleError."""
    for parts in (fold(steps, group_of), fold(steps, outermost, within=True)):
        if len(parts.nodes) <= most_nodes and sum(len(node.needs) for node in parts.nodes) <= most_needs:
            return GraphParts(parts.nodes, parts.members, by_layer=False)
    return _by_layer(steps, most_nodes)


def outermost(name: str) -> str:
    """`build` for `build[x]/link`: a nested workflow as one part."""
    return without_label(path_of(name)[0])


def _by_layer(single: list[Node], most_nodes: int) -> GraphParts:
    """One node for each layer; for each few, if there are very many layers."""
    layers = layered(single)
    size = -(-len(layers) // most_nodes)
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
