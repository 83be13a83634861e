"""Small charts of measured values over time, as SVG paths. Pure.

Owns the way from values to a path: each value stands until the next one (a step, no slope between two measurements),
and where nothing was measured the path has a gap. Each chart also says in words what it shows, for
those who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from stoker.cli.kit import render

WIDTH: Final = 240  # in units of the drawing, which a browser plateaus
HEIGHT: Final = 48
MARGIN: Final = 2  # above and below, so that a line at the edge keeps its whole width
NICE: Final = (1, 2, 5, 10)
KINDS: Final = ("first", "second")  # of lines
SHORTEST_GAP_MS: Final = 60_000  # in words; the drawing shows each


class Plateau(NamedTuple):
    """A time in which a value stood."""

    begin: int
    end: int
    value: float


class Frame(NamedTuple):
    """The part of the plane that a chart shows: the time from `begin` to `end`, values from 0 to `top`."""

    begin: int
    end: int
    top: float

    def x(self, at: int) -> int:
        return round((at - self.begin) * WIDTH / (self.end - self.begin))

    def y(self, value: float) -> int:
        share = min(max(value / self.top, 0.0), 1.0)
        return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN))

    def clipped(self, plateaus: Iterable[Plateau]) -> list[Plateau]:
        """The parts of the plateaus in the frame."""
        cut = (Plateau(max(one.begin, self.begin), min(one.end, self.end), one.value) for one in plateaus)
        return [one for one in cut if one.begin < one.end]


class Series(NamedTuple):
    """Values in the order of their times. `kind`: one of KINDS, which differ by more than their colour."""

    name: str
    plateaus: Sequence[Plateau]
    kind: str = KINDS[0]


class ChartLine(NamedTuple):
    """A series as a path, with its values in words."""

    name: str
    kind: str
    path: str
    words: str


class ChartBand(NamedTuple):
    """A time that the chart marks over its whole height, as that of a throttle."""

    x: int
    width: int


class Chart(NamedTuple):
    """`text`: what it shows, in words. `top`: the value at its upper edge."""

    title: str
    begin: int
    end: int
    top: float
    unit: str
    lines: tuple[ChartLine, ...]
    bands: tuple[ChartBand, ...]
    text: str


def chart(
    title: str,
    series: Sequence[Series],
    begin: int,
    end: int,
    *,
    top: float | None = None,
    unit: str = "",
    marked: Iterable[Plateau] = (),
) -> Chart:
    """`top`: of values that have a highest one. `marked`: the times whose value is not 0 become bands."""
    frame = Frame(begin, end, 1.0)
    cut = [one._replace(plateaus=frame.clipped(one.plateaus)) for one in series]
    highest = max((plateau.value for one in cut for plateau in one.plateaus), default=0.0)
    frame = frame._replace(top=nice_top(highest) if top is None else max(top, 1.0))
    lines = tuple(ChartLine(one.name, one.kind, path(one.plateaus, frame), in_words(one, unit)) for one in cut)
    bands = tuple(_bands(frame, marked))
    text = "; ".join([f"{title}, {render.when(begin)} to {render.when(end)}", *(line.words for line in lines)])
    return Chart(title, begin, end, frame.top, unit, lines, bands, text)


def nice_top(highest: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 …, so that the scale seldom changes."""
    if highest <= 1:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(highest))
    return next(factor * power for factor in NICE if highest <= factor * power)


def path(plateaus: Iterable[Plateau], frame: Frame) -> str:
    """`M0 40H12V8H20`: horizontal where a value stands, vertical where it changes, a new beginning after a gap."""
    parts: list[str] = []
    last_end = last_y = -1
    for one in plateaus:
        y = frame.y(one.value)
        if one.begin != last_end:
            parts.append(f"M{frame.x(one.begin)} {y}")
        elif y != last_y:
            parts.append(f"V{y}")
        else:
            parts.pop()  # the last line goes on
        parts.append(f"H{frame.x(one.end)}")
        last_end, last_y = one.end, y
    return "".join(parts)


def _bands(frame: Frame, marked: Iterable[Plateau]) -> Iterator[ChartBand]:
    for one in frame.clipped(marked):
        if one.value:
            x = frame.x(one.begin)
            yield ChartBand(x, max(1, frame.x(one.end) - x))


def in_words(series: Series, unit: str) -> str:
    """`CPU 12%, lowest 3%, highest 90%; 12m00s not measured`. The plateaus lie in the frame."""
    values = [one.value for one in series.plateaus]
    if not values:
        return f"{series.name} not measured"
    low, high = min(values), max(values)
    text = f"{series.name} {amount(values[-1], unit)}"
    if amount(low, unit) != amount(high, unit):
        text += f", lowest {amount(low, unit)}, highest {amount(high, unit)}"
    gap = sum(later.begin - earlier.end for earlier, later in zip(series.plateaus, series.plateaus[1:], strict=False))
    return f"{text}, {render.span(gap)} in between not measured" if gap >= SHORTEST_GAP_MS else text


def amount(value: float, unit: str) -> str:
    return f"{value:.0f}{unit}"
