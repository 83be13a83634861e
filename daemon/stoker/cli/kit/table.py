"""Tables on a terminal or a pipe: alignment, colours of states, and what gives way where the terminal is narrow.

Where a table is wider than the terminal, the columns that its command named as `spare` are left out, first the one
that is named first. Then the last column is cut, or continued on further lines if it explains something, and at last
the widest of the others is cut. A pipe has no width: it gets every column whole.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from stoker.cli.kit import render

GAP = 2
# Below this width the last column is unreadable.
LAST_COLUMN = 20
NARROWEST_COLUMN = 8

Row = Sequence[object]


def show(headers: Sequence[str], rows: Sequence[Row], *, spare: Sequence[str] = (), whole: bool = False) -> None:
    """Print a table. `whole`: continue the last column on further lines instead of cutting it."""
    for text in lines(headers, rows, render.terminal_size()[0], spare=spare, whole=whole):
        render.line(text)


def lines(
    headers: Sequence[str], rows: Sequence[Row], columns: int, *, spare: Sequence[str] = (), whole: bool = False
) -> list[str]:
    """The lines of a table: text left-aligned, numbers right-aligned."""
    headers, rows = _fitting(headers, rows, columns, spare)
    texts = [[render.visible(str(cell)) for cell in row] for row in rows]
    widths = _widths(headers, texts)
    _narrow(widths, columns)
    numeric = [all(isinstance(cell, int) or cell == "-" for cell in column) for column in zip(*rows, strict=True)]
    align = [str.rjust if number else str.ljust for number in numeric or [False] * len(headers)]

    def laid_out(cells: Sequence[str], colours: Sequence[str]) -> str:
        fitted = [
            adjust(render.cut(cell, width), width) for adjust, cell, width in zip(align, cells, widths, strict=True)
        ]
        fitted[-1] = fitted[-1].rstrip()
        return (" " * GAP).join(map(render.paint, fitted, colours)).rstrip()

    shown = [laid_out(headers, [render.BOLD] * len(headers))]
    for cells in texts:
        first, *others = textwrap.wrap(cells[-1], widths[-1]) or [""] if whole else [cells[-1]]
        named = zip(headers, cells, strict=True)
        colours = [render.STATE_COLOURS.get(cell, "") if name == "STATE" else "" for name, cell in named]
        shown.append(laid_out([*cells[:-1], first], colours))
        shown += [laid_out([*[""] * (len(cells) - 1), other], [""] * len(cells)) for other in others]
    return shown


def _narrow(widths: list[int], columns: int) -> None:
    """Make the last column narrower where there is no room, and then the widest of the others."""
    *others, last = range(len(widths))
    widest = max(others, key=widths.__getitem__, default=last)
    for at in (last, widest):
        beyond = sum(widths) + GAP * len(others) - columns
        widths[at] -= min(max(beyond, 0), max(widths[at] - NARROWEST_COLUMN, 0))


def _fitting(
    headers: Sequence[str], rows: Sequence[Row], columns: int, spare: Sequence[str]
) -> tuple[Sequence[str], Sequence[Row]]:
    """The same table without the spare columns for which there is no room."""
    for name in spare:
        widths = _widths(headers, rows)
        if sum(widths[:-1]) + min(widths[-1], LAST_COLUMN) + GAP * (len(widths) - 1) <= columns:
            break
        if name in headers:
            at = headers.index(name)
            headers = (*headers[:at], *headers[at + 1 :])
            rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    return headers, rows


def _widths(headers: Sequence[str], rows: Sequence[Row]) -> list[int]:
    return [max(len(str(cell)) for cell in column) for column in zip(headers, *rows, strict=True)]
