"""The one table that `make bench` prints: a row per budget.

Owns how a measurement is summed up (median of the rounds, and the lowest and highest of them) and judged. It measures
nothing. Invariant: a row always shows its budget and its aim beside the result.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Row(NamedTuple):
    """One budget and the rounds that were measured. `absolute` says the figures behind the ratio."""

    what: str
    rounds: Sequence[float]
    must: float
    goal: float
    absolute: str
    unit: str = ""
    more_is_better: bool = False

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def verdict(self) -> str:
        for name, bound in (("goal", self.goal), ("must", self.must)):
            if self.value >= bound if self.more_is_better else self.value <= bound:
                return name
        return "MISSED"


def lines(rows: Iterable[Row]) -> list[str]:
    """The table as text, columns aligned."""
    head = ("what", "median", "rounds", "must", "goal", "reached", "in figures")
    cells = [head] + [_cells(row) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.more_is_better else "≤"
    spread = f"{_number(min(row.rounds))}..{_number(max(row.rounds))}" if len(row.rounds) > 1 else ""
    bounds = (f"{sign} {_number(row.must)}{row.unit}", f"{sign} {_number(row.goal)}{row.unit}")
    return (row.what, f"{_number(row.value)}{row.unit}", spread, *bounds, row.verdict, row.absolute)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
