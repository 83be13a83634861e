"""The edges in the terminal: which node is connected to which, read back from the drawing."""

from __future__ import annotations

import random

import pytest

from stoker.cli import graph
from stoker.cli.kit import graph_edges, graph_shape
from stoker.cli.kit.drawings import Node


def nodes(edges: dict[str, str]) -> list[Node]:
    """Nodes in the order of their layers; `edges`: the needs of each, by letters."""
    nodes = [Node(name, [(need, "ok") for need in needs], None) for name, needs in edges.items()]
    return [node for layer in graph_shape.layered(nodes) for node in layer]


def drawing(edges: dict[str, str]) -> list[str]:
    ordered = nodes(edges)
    return graph_edges.edge_columns(ordered, [node.name for node in ordered]) or []


def read_back(lines: list[str]) -> dict[str, set[str]]:
    """The needs of each node, read by following the lines that end in it."""
    return {char: _needs(lines, row, column) for row, line in enumerate(lines) for column, char in enumerate(line)
            if char.isalpha()}  # fmt: skip


def _needs(lines: list[str], row: int, column: int) -> set[str]:
    """The nodes at the upper ends of all lines that touch this one from above, left or right."""
    needed = set()
    if row and (above := _up(lines, row - 1, column)):
        needed.add(above)
    for step in (-1, 1):
        at = column + step
        while 0 <= at < len(lines[row]) and lines[row][at] in "─│┼┴├╰┤╯":
            joins = lines[row][at] in ("┼┴├╰" if step < 0 else "┼┴┤╯")
            if joins and (above := _up(lines, row - 1, at)):
                needed.add(above)
            if lines[row][at] in "├╰┤╯":
                break
            at += step
    return needed


def _up(lines: list[str], row: int, column: int) -> str:
    """The node that the line in this place comes from."""
    while row >= 0 and column < len(lines[row]):
        char = lines[row][column]
        if char.isalpha():
            return char
        if char not in "│├┤┼":
            return ""
        row -= 1
    return ""


@pytest.mark.parametrize(
    ("edges", "lines"),
    [
        ({"a": "", "b": "a", "c": "b"}, ["a", "b", "c"]),
        ({"a": "", "b": "a", "c": "a", "d": "bc"}, ["a  ", "├─b", "c │", "d─╯"]),
        ({"a": "", "b": "", "c": "ab"}, ["a  ", "│ b", "c─╯"]),
        ({"a": "", "b": "", "c": "", "d": "ac", "e": "b"}, ["a    ", "│ b  ", "│ │ c", "d─│─╯", "  e  "]),
        ({"a": "", "b": ""}, []),
    ],
)
def test_drawing_when_steps_need_one_another_then_each_edge_is_a_line(edges: dict[str, str], lines: list[str]) -> None:
    assert drawing(edges) == lines


def test_drawing_when_graphs_are_random_then_the_same_edges_are_read_back() -> None:
    dice = random.Random(14)
    drawn = 0
    for _ in range(500):
        names = "abcdefghijkl"[: dice.randint(2, 12)]
        edges = {
            name: "".join(sorted(dice.sample(names[:at], min(at, dice.choice([0, 1, 1, 2, 3])))))
            for at, name in enumerate(names)
        }
        lines = drawing(edges)
        drawn += bool(lines)
        layer_of = {
            node.name: number for number, layer in enumerate(graph_shape.layered(nodes(edges))) for node in layer
        }
        read = {} if not lines else read_back(lines)
        for name, needs in read.items():
            # Two steps of one layer may stand below each other; the number of the layer says that they are apart.
            assert {need for need in needs if layer_of[need] < layer_of[name]} == set(edges[name]), "\n".join(lines)
    assert drawn > 300


def test_drawing_when_too_many_columns_would_be_open_then_no_edges_are_drawn() -> None:
    many = [Node(str(number), [], None) for number in range(graph_edges.MOST_COLUMNS + 1)]
    last = Node("last", [(node.name, "ok") for node in many], None)

    assert graph_edges.edge_columns([*many, last], ["*"] * (len(many) + 1)) is None
    assert graph_edges.edge_columns([*many[1:], last], ["*"] * len(many)) is not None


def test_text_when_it_has_edges_then_signs_stand_in_them_and_labels_in_a_column() -> None:
    nodes = [Node("a", [], "succeeded"), Node("b", [("a", "ok")], "running"), Node("c", [("a", "any")], "waiting"),
            Node("d", [("b", "ok"), ("c", "ok")], "waiting")]  # fmt: skip

    lines = [line for line, _ in graph.text_lines("t", graph_shape.layered(nodes), unfolded=False)]

    assert lines[1:] == [
        "1  ✓   a  succeeded",
        "2  ├─▶ b  running    ← a",
        "   · │ c  waiting    ← a(any)",
        "3  ·─╯ d  waiting    ← b c",
    ]
