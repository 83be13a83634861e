"""Where the nodes and edges of a graph stand on a page: layers from top to bottom. Pure.

Each layer needs only the layers above it. An edge that passes a layer gets a lane of its own there, shared by all edges
of the same kind from the same node, so that no edge runs through a box. The order within the layers is by barycenters
(Sugiyama, Tagawa, Toda 1981); the places are as near to the neighbours as the widths allow. Nothing depends on states:
a graph whose steps go on stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from stoker.cli.kit.drawings import Node
from stoker.cli.kit.graph_shape import layered

BOX_HEIGHT = 46
GAP, LAYER_GAP, MARGIN = 16, 38, 8
LANE_WIDTH = 12
SWEEPS = (True, False, True, False)  # whether each goes down


class PlacedNode(NamedTuple):
    node: Node
    left: int
    top: int


class PlacedEdge(NamedTuple):
    """`path`: the value of `d`. `tip`: it ends at a box, with an arrow. `on`: as in a need."""

    path: str
    on: str
    tip: bool


class GraphLayout(NamedTuple):
    nodes: list[PlacedNode]
    edges: list[PlacedEdge]
    width: int
    height: int


class _Cell:
    """A box, or (`node` is None) the lane of an edge in a layer that it passes.

    `place`: its number in the layer; `x`: its middle.
    """

    __slots__ = ("above", "below", "layer", "node", "on", "place", "width", "x")

    def __init__(self, layer: int, width: int, node: Node | None = None, on: str = "ok") -> None:
        self.layer = layer
        self.width = width
        self.node = node
        self.on = on
        self.place = 0
        self.x = 0.0
        self.above: list[_Cell] = []
        self.below: list[_Cell] = []

    @property
    def top(self) -> int:
        return _top_of(self.layer)

    def near(self, *, down: bool) -> list[_Cell]:
        """Its neighbours in the layer that a sweep comes from."""
        return self.above if down else self.below


def laid_out(nodes: list[Node], box_width: int) -> GraphLayout:
    """Every node has a box of this width. Raises CycleError."""
    rows, joints = _cells(nodes, box_width)
    _order(rows)
    _spread(rows)
    cells = [cell for row in rows for cell in row]
    left = min((cell.x - cell.width / 2 for cell in cells), default=0.0) - MARGIN
    right = max((cell.x + cell.width / 2 for cell in cells), default=0.0) + MARGIN
    for cell in cells:
        cell.x -= left
    boxes = [PlacedNode(cell.node, round(cell.x - box_width / 2), cell.top) for cell in cells if cell.node]
    lanes = [_lane(cell) for cell in cells if cell.node is None]
    edges = [_edge(start, end, on) for start, end, on in joints]
    return GraphLayout(boxes, [*lanes, *edges], round(right - left), _top_of(len(rows)) - LAYER_GAP + MARGIN)


Joint = tuple[_Cell, _Cell, str]


def _cells(nodes: list[Node], box_width: int) -> tuple[list[list[_Cell]], list[Joint]]:
    """The cells of each layer, and what is joined."""
    layers = layered(nodes)
    rows = [[_Cell(number, box_width, node) for node in layer] for number, layer in enumerate(layers)]
    boxes = {cell.node.name: cell for row in rows for cell in row if cell.node}
    lanes: dict[tuple[str, str, int], _Cell] = {}
    joints: dict[tuple[int, int, str], Joint] = {}

    def join(start: _Cell, end: _Cell, on: str) -> None:
        if (id(start), id(end), on) not in joints:
            joints[id(start), id(end), on] = (start, end, on)
            start.below.append(end)
            end.above.append(start)

    for box in boxes.values():
        assert box.node is not None
        for need, on in dict.fromkeys(box.node.needs):
            at = boxes[need]
            for number in range(at.layer + 1, box.layer):
                lane = lanes.get((need, on, number))
                if lane is None:
                    lane = lanes[need, on, number] = _Cell(number, LANE_WIDTH, on=on)
                    rows[number].append(lane)
                join(at, lane, on)
                at = lane
            join(at, box, on)
    return rows, list(joints.values())


def _order(rows: list[list[_Cell]]) -> None:
    """Sort each layer by the middle of its neighbours, downwards and upwards."""
    for row in rows:
        _number(row)
    for down in SWEEPS:
        for row in rows if down else reversed(rows):
            row.sort(key=lambda cell: _mean([one.place for one in cell.near(down=down)], cell.place))
            _number(row)


def _number(row: list[_Cell]) -> None:
    for place, cell in enumerate(row):
        cell.place = place


def _spread(rows: list[list[_Cell]]) -> None:
    """Give each cell its middle: as near to its neighbours as the others of its layer allow."""
    for row in rows:
        _settle(row, [0.0] * len(row))
    for down in SWEEPS:
        for row in rows if down else reversed(rows):
            _settle(row, [_mean([one.x for one in cell.near(down=down)], cell.x) for cell in row])


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _settle(row: list[_Cell], wanted: Sequence[float]) -> None:
    """The places in this order, without overlap, with the least squares of the distances to `wanted`.

    Cells that would overlap form a block, which stands at the mean of what its cells want (pool adjacent violators).
    """
    offsets = [0.0]
    for before, cell in pairwise(row):
        offsets.append(offsets[-1] + (before.width + cell.width) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # the place of the first cell, and the number of cells
    for offset, want in zip(offsets, wanted, strict=True):
        place, count = want - offset, 1
        while blocks and blocks[-1][0] >= place:
            earlier, more = blocks.pop()
            place, count = (earlier * more + place * count) / (more + count), more + count
        blocks.append((place, count))
    begins = [place for place, count in blocks for _ in range(count)]
    for cell, offset, begin in zip(row, offsets, begins, strict=True):
        cell.x = offset + begin


def _top_of(layer: int) -> int:
    return MARGIN + layer * (BOX_HEIGHT + LAYER_GAP)


def _edge(start: _Cell, end: _Cell, on: str) -> PlacedEdge:
    """From the bottom of one cell to the top of the other."""
    x1, y1, x2, y2 = round(start.x), start.top + BOX_HEIGHT, round(end.x), end.top
    middle = (y1 + y2) // 2
    path = f"M{x1} {y1}V{y2}" if x1 == x2 else f"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}"
    return PlacedEdge(path, on, tip=end.node is not None)


def _lane(cell: _Cell) -> PlacedEdge:
    return PlacedEdge(f"M{round(cell.x)} {cell.top}v{BOX_HEIGHT}", cell.on, tip=False)
