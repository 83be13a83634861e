"""The edges of a graph as box-drawing characters, one line per node, in the manner of `git log --graph`. Pure.

A node keeps its column until the last node that needs it is drawn. A node is drawn right below the one that it needs,
or is joined to it from the side; a line that crosses a column does not touch it (`─│─`). A graph that needs too many
columns is not drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stoker.cli.kit.drawings import Node

MOST_COLUMNS = 16
# The character that joins a column to the line of a node, by the side of the node that the column is on.
GOES_ON = {"left": "├", "middle": "┼", "right": "┤"}
ENDS = {"left": "╰", "middle": "┴", "right": "╯"}


def edge_columns(nodes: Sequence[Node], signs: Sequence[str]) -> list[str] | None:
    """The edges on the line of each node, all of one width. A node must come after all nodes that it needs.

    Needs of nodes that are not in the list are left out. None if there are no edges, or too many columns.
    """
    names = {node.name for node in nodes}
    needs = [[need for need, _ in node.needs if need in names] for node in nodes]
    if not any(needs):
        return None
    last_use = {need: index for index, needed in enumerate(needs) for need in needed}
    columns: list[str | None] = []
    lines: list[str] = []
    above = -1  # the column of the previous node, unless other nodes need that one
    for index, node in enumerate(nodes):
        joined = [at for at, name in enumerate(columns) if name in needs[index]]
        ending = [at for at in joined if last_use[columns[at] or ""] == index]
        own = ending[0] if ending else _free(columns, above if joined else -1)
        if len(columns) > MOST_COLUMNS:
            return None
        lines.append(_line(columns, own, joined, ending, signs[index]))
        for at in ending:
            columns[at] = None
        columns[own] = node.name if node.name in last_use else None
        above = own if columns[own] is None else -1
    width = max(map(len, lines))
    return [line.ljust(width) for line in lines]


def _free(columns: list[str | None], avoided: int) -> int:
    """A free column, but not `avoided`: it is right below a node that this one does not need."""
    for at, name in enumerate(columns):
        if name is None and at != avoided:
            return at
    columns.append(None)
    return len(columns) - 1


def _line(columns: Sequence[str | None], own: int, joined: Collection[int], ending: Collection[int], sign: str) -> str:
    first, last = min(own, *joined, own), max(own, *joined, own)
    out = []
    for at, name in enumerate(columns):
        between = first < at < last
        if at == own:
            out.append(sign)
        elif at in joined:
            side = "middle" if between else "left" if at < own else "right"
            out.append((ENDS if at in ending else GOES_ON)[side])
        else:
            out.append("│" if name is not None else "─" if between else " ")
        out.append("─" if first <= at < last else " ")
    return "".join(out).rstrip()
