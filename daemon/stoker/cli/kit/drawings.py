"""Drawings of a graph of steps: Mermaid, DOT, SVG. Pure.

Owns nodes, their colours by state, and the escaping of each dialect: a name is text wherever it is used. Mermaid and
DOT lay the graph out themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stoker.cli.kit.naming import few
from stoker.cli.kit.render import cut, visible

SIGNS = {
    "waiting": "·", "queued": "○", "running": "▶", "held": "‖", "succeeded": "✓", "failed": "✗", "cancelled": "⊘",
    "expired": "✗", "superseded": "»", "skipped": "↷",
}  # fmt: skip
# Fill and border, readable on white. The sign in the node shows the state without colours too.
COLOURS = {
    "waiting": ("#f3f4f6", "#9ca3af"), "queued": ("#e5e7eb", "#6b7280"), "running": ("#cffafe", "#0891b2"),
    "held": ("#fef3c7", "#d97706"), "succeeded": ("#dcfce7", "#16a34a"), "failed": ("#fee2e2", "#dc2626"),
    "cancelled": ("#fef9c3", "#ca8a04"), "expired": ("#ffe4e6", "#be123c"), "superseded": ("#ede9fe", "#7c3aed"),
    "skipped": ("#f5f5f4", "#a8a29e"),
}  # fmt: skip
PLAIN = ("#ffffff", "#6b7280")
# Sizes in the SVG, in pixels.
CHAR, FONT, PAD, ROW, BOX, GAP, TOP, MARGIN = 7.3, 12, 10, 46, 32, 70, 40, 20
MOST_CHARS = 40
MOST_IF = 60  # characters of an expression
MOST_CONDITIONS = 3  # that are named


class Node:
    """A step, or the `count` steps that one `each` made; `states` counts these by state.

    `conditions`: what it waits for beside its needs. `run_if`: the expression that decides whether it runs. `handler`:
    the table of a handler, which runs after all steps.
    """

    __slots__ = ("conditions", "count", "critical", "handler", "name", "needs", "run_if", "state", "states")

    def __init__(
        self,
        name: str,
        needs: list[tuple[str, str]],
        state: str | None,
        *,
        critical: bool = True,
        count: int = 1,
        states: dict[str, int] | None = None,
        conditions: Sequence[str] = (),
        run_if: str | None = None,
        handler: str | None = None,
    ) -> None:
        self.name = name
        self.needs = needs
        self.state = state
        self.critical = critical
        self.count = count
        self.states = states or {}
        self.conditions = list(conditions)
        self.run_if = run_if
        self.handler = handler

    @property
    def label(self) -> str:
        """`compile x12`, `notify (may fail)`, `clean (finally)`."""
        times = f" x{self.count}" if self.count > 1 else ""
        kind = self.handler or ("" if self.critical else "may fail")
        return f"{self.name}{times} ({kind})" if kind else f"{self.name}{times}"

    @property
    def if_text(self) -> str:
        """`if parameters.env == 'prod'`, or nothing."""
        return "" if self.run_if is None else cut(f"if {self.run_if}", MOST_IF)

    @property
    def state_text(self) -> str:
        """`running`, `waiting for event:go`, or for several steps `9 succeeded, 3 running`."""
        if len(self.states) > 1:
            return ", ".join(f"{count} {state}" for state, count in self.states.items())
        if not self.conditions:
            return self.state or ""
        return f"{self.state or 'waits'} for {few(self.conditions, MOST_CONDITIONS)}"


def sign(state: str | None) -> str:
    return SIGNS.get(state or "", "•")


# --- Mermaid ------------------------------------------------------------------------------------------------

_MERMAID = {ord(char): f"#{ord(char)};" for char in '"#<>&;`\\'}


def mermaid(title: str, layers: Sequence[Sequence[Node]]) -> str:
    ids = _ids(layers)
    lines = [f"%% {visible(title)}", "flowchart LR"]
    lines += [f'    {ids[node.name]}["{_label(node).translate(_MERMAID)}"]{_class(node)}' for node in _nodes(layers)]
    for need, on, node in _edges(layers):
        arrow = "-->" if on == "ok" else f"-. {on} .->"
        lines.append(f"    {ids[need]} {arrow} {ids[node.name]}")
    used = sorted({node.state for node in _nodes(layers) if node.state in COLOURS})
    lines += [
        f"    classDef {state} fill:{COLOURS[state][0]},stroke:{COLOURS[state][1]},color:#111827" for state in used
    ]
    return "\n".join(lines) + "\n"


def _class(node: Node) -> str:
    return f":::{node.state}" if node.state in COLOURS else ""


# --- DOT ----------------------------------------------------------------------------------------------------


def dot(title: str, layers: Sequence[Sequence[Node]]) -> str:
    ids = _ids(layers)
    lines = [
        f"digraph {_quoted(title)} {{",
        "    rankdir=LR;",
        '    node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for node in _nodes(layers):
        fill, border = COLOURS.get(node.state or "", PLAIN)
        lines.append(f'    {ids[node.name]} [label={_quoted(_label(node))}, fillcolor="{fill}", color="{border}"];')
    for need, on, node in _edges(layers):
        style = "" if on == "ok" else f' [label={_quoted(on)}, style="dashed"]'
        lines.append(f"    {ids[need]} -> {ids[node.name]}{style};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- SVG ----------------------------------------------------------------------------------------------------

_XML = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", 0xFFFE: "", 0xFFFF: ""}

_STYLE = f'font-family="monospace" font-size="{FONT}"'
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#6b7280"/></marker></defs>'
)


def svg(title: str, layers: Sequence[Sequence[Node]]) -> str:
    """Layers from left to right. An edge leaves a box on the right and enters one on the left."""
    places, width, height = _laid_out(layers)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {_STYLE}>',
        f"<title>{_xml(title)}</title>",
        _TIP,
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="24" font-weight="bold">{_xml(title)}</text>',
        '<g fill="none" stroke="#6b7280" marker-end="url(#tip)">',
        *(_curve(places[need], places[node.name], on) for need, on, node in _edges(layers)),
        "</g>",
        *(_box(node, places[node.name]) for node in _nodes(layers)),
        "</svg>",
        "",
    ]
    return "\n".join(lines)


Place = tuple[float, float, float]  # left, middle, width of a box


def _laid_out(layers: Sequence[Sequence[Node]]) -> tuple[dict[str, Place], int, int]:
    tallest = max(map(len, layers), default=1)
    places: dict[str, Place] = {}
    left = float(MARGIN)
    for layer in layers:
        box = max((min(MOST_CHARS, len(_label(node))) for node in layer), default=1) * CHAR + 2 * PAD
        first = TOP + (tallest - len(layer)) * ROW / 2 + ROW / 2
        for row, node in enumerate(layer):
            places[node.name] = (left, first + row * ROW, box)
        left += box + GAP
    return places, round(left - GAP + MARGIN), TOP + tallest * ROW + MARGIN


def _curve(start: Place, end: Place, on: str) -> str:
    path = _way(start[0] + start[2], start[1], end[0], end[1])
    if on == "ok":
        return f'<path d="{path}"/>'
    return f'<path d="{path}" stroke-dasharray="5 3"><title>{_xml(on)}</title></path>'


def _way(x1: float, y1: float, x2: float, y2: float) -> str:
    """One bend to the next layer; past other layers along the gap between two rows, so that no box hides the edge."""
    bend = GAP / 2
    if x2 - x1 <= GAP + 1:
        return f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    lane, leave, arrive = y1 + (ROW if y2 > y1 else -ROW) / 2, x1 + GAP, x2 - GAP
    return (
        f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {leave - bend:.1f} {lane:.1f} {leave:.1f} {lane:.1f}"
        f"H{arrive:.1f}C{arrive + bend:.1f} {lane:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    )


def _box(node: Node, place: Place) -> str:
    left, middle, width = place
    fill, border = COLOURS.get(node.state or "", PLAIN)
    label = _label(node)
    shown = label if len(label) <= MOST_CHARS else label[: MOST_CHARS - 1] + "…"
    return (
        f'<g><title>{_xml(label)}</title><rect x="{left:.1f}" y="{middle - BOX / 2:.1f}" width="{width:.1f}"'
        f' height="{BOX}" rx="6" fill="{fill}" stroke="{border}"/>'
        f'<text x="{left + width / 2:.1f}" y="{middle + FONT / 3:.1f}" text-anchor="middle">{_xml(shown)}</text></g>'
    )


def _xml(text: str) -> str:
    return visible(text).translate(_XML)


# --- for all formats --------------------------------------------------------------------------------------------


def _nodes(layers: Sequence[Sequence[Node]]) -> Iterator[Node]:
    for layer in layers:
        yield from layer


def _edges(layers: Sequence[Sequence[Node]]) -> Iterator[tuple[str, str, Node]]:
    return ((need, on, node) for node in _nodes(layers) for need, on in node.needs)


def _ids(layers: Sequence[Sequence[Node]]) -> dict[str, str]:
    """Identifiers that every dialect accepts: `s0`, `s1`. The label has the name of the step."""
    return {node.name: f"s{number}" for number, node in enumerate(_nodes(layers))}


def _label(node: Node) -> str:
    label = f"{node.label}, {node.if_text}" if node.if_text else node.label
    return visible(f"{sign(node.state)} {label}" if node.state else label)


DRAWINGS = {"mermaid": mermaid, "dot": dot, "svg": svg}
