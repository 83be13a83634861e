"""The layout of a graph on a page, for any graph."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.kit.drawings import Node
from stoker.cli.pages.graph_layout import BOX_HEIGHT, LAYER_GAP, GraphLayout, laid_out

BOX_WIDTH = 200
ENDS = re.compile(r"^M(-?\d+) (-?\d+)(?:V(-?\d+)|v(\d+)|C.* (-?\d+) (-?\d+))$")


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Nodes that need only earlier ones, in any order."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 14))):
        needs = draw(st.lists(st.integers(0, number - 1), max_size=4, unique=True)) if number else []
        nodes.append(Node(f"s{number}", [(f"s{need}", draw(st.sampled_from(["ok", "any"]))) for need in needs], None))
    return draw(st.permutations(nodes))


def ends(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an edge begins and ends."""
    found = ENDS.match(path)
    assert found, path
    x, y, to_y, by, curve_x, curve_y = (None if text is None else int(text) for text in found.groups())
    assert x is not None
    assert y is not None
    end_y = next(value for value in (to_y, None if by is None else y + by, curve_y) if value is not None)
    return (x, y), (x if curve_x is None else curve_x, end_y)


def reached(layout: GraphLayout, name: str) -> set[str]:
    """The boxes to which the edges lead from the bottom of a box, each along its kind."""
    boxes = {(one.left + BOX_WIDTH // 2, one.top): one.node.name for one in layout.nodes}
    begin = next((one.left + BOX_WIDTH // 2, one.top + BOX_HEIGHT) for one in layout.nodes if one.node.name == name)
    found: set[str] = set()
    ahead, seen = [(begin, "ok"), (begin, "any")], set()
    while ahead:
        at, on = ahead.pop()
        for edge in layout.edges:
            start, end = ends(edge.path)
            if start == at and edge.on == on and (end, on) not in seen:
                seen.add((end, on))
                if edge.tip:
                    found.add(boxes[end])
                else:
                    ahead.append((end, on))
    return found


@given(graphs())
def test_layout_when_it_is_of_any_graph_then_each_node_stands_once_and_alone(nodes: list[Node]) -> None:
    layout = laid_out(nodes, BOX_WIDTH)

    assert sorted(one.node.name for one in layout.nodes) == sorted(node.name for node in nodes)
    for one, other in combinations(layout.nodes, 2):
        assert one.top != other.top or abs(one.left - other.left) >= BOX_WIDTH
    assert all(0 <= one.left <= layout.width - BOX_WIDTH for one in layout.nodes)
    assert all(0 <= one.top <= layout.height - BOX_HEIGHT for one in layout.nodes)


@given(graphs())
def test_layout_when_it_is_of_any_graph_then_edges_go_down_to_each_dependent(nodes: list[Node]) -> None:
    layout = laid_out(nodes, BOX_WIDTH)

    assert all(start[1] < end[1] for start, end in (ends(edge.path) for edge in layout.edges))
    for node in nodes:
        dependents = {other.name for other in nodes if node.name in [need for need, _ in other.needs]}
        assert reached(layout, node.name) == dependents


@given(graphs())
def test_layout_when_an_edge_passes_a_layer_then_it_runs_beside_its_boxes(nodes: list[Node]) -> None:
    layout = laid_out(nodes, BOX_WIDTH)

    for edge in layout.edges:
        (x, y), (_, end_y) = ends(edge.path)
        assert end_y - y in (BOX_HEIGHT, LAYER_GAP)
        if end_y - y == BOX_HEIGHT and "v" in edge.path:
            assert not [one for one in layout.nodes if one.top == y and one.left <= x <= one.left + BOX_WIDTH]


def test_layout_when_states_change_then_nothing_moves() -> None:
    def placed(state: str) -> list[tuple[str, int, int]]:
        nodes = [Node("a", [], state), Node("b", [("a", "ok")], "waiting"), Node("c", [("a", "ok")], state)]
        return [(one.node.name, one.left, one.top) for one in laid_out(nodes, BOX_WIDTH).nodes]

    assert placed("running") == placed("succeeded")


def test_layout_when_a_node_has_two_dependents_then_it_stands_between_them() -> None:
    nodes = [Node("a", [], None), Node("b", [("a", "ok")], None), Node("c", [("a", "ok")], None)]

    layout = laid_out(nodes, BOX_WIDTH)

    lefts = {one.node.name: one.left for one in layout.nodes}
    assert lefts["b"] < lefts["a"] < lefts["c"]
    assert abs(lefts["b"] + lefts["c"] - 2 * lefts["a"]) <= 1
