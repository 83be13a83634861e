"""The edges of a graph as box-drawing characters, a line for each node, as `git log --graph` has them.

Owns the columns: a node that others need keeps its column until the last of them was drawn. A node stands right below
the one that it needs, or is joined to it from the side; a line that passes behind a column touches nothing (`─│─`).
Refuses more columns than a person can follow. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stoker.cli.kit.drawings import Node

MOST_COLUMNS = 16
# How a column is joined to the node: by the side of it that the node is on, and whether its line goes on there.
GOES_ON = {"left": "├", "middle": "┼", "right": "┤"}
ENDS = {"left": "╰", "middle": "┴", "right": "╯"}


def drawn(nodes: Sequence[Node], signs: Sequence[str]) -> list[str] | None:
    """Each node's part of the drawing, all of one width; a node must stand behind all that it needs.

    Needs of nodes that are not there are left out. None where there are no edges, or too many at once.
    """
    shown = {node.name for node in nodes}
    needs = [[need for need, _ in node.needs if need in shown] for node in nodes]
    if not any(needs):
        return None
    last_use = {need: index for index, needed in enumerate(needs) for need in needed}
    columns: list[str | None] = []
    lines: list[str] = []
    above = -1  # the column of the node in the line before, unless others need it
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
    """A column that nobody uses; not the one right below a node that has nothing to do with this one."""
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
