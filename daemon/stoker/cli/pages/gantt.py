"""The layout of a Gantt chart of attempts: which bar stands where. Pure.

Owns the rows (one or more for each group, so that attempts which ran at the same time lie below each other) and the
joining of bars: what would lie on one another, or be too much to look at, becomes one bar with a count. A joined bar
looks like its worst attempt, so a failure among a thousand is seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from stoker.cli.kit import render

WIDTH: Final = 1000  # of the drawing, with the names of groups
NAMES: Final = 120  # of these
ROW: Final = 16
HEAD: Final = 20  # for the times
NARROWEST: Final = 3
MOST_BARS: Final = 500
MOST_ROWS: Final = 64
MOST_ROWS_OF_GROUP: Final = 16
MOST_GROUPS: Final = 32
OTHERS: Final = "other queues"
NAME_LETTERS: Final = 16
MOST_TICKS: Final = 9
MINUTE_S: Final = 60
DAY_S: Final = 86_400
TICKS_OF_A_DAY_S: Final = (1, 2, 5, 10, 30, MINUTE_S, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200)
TICKS_S: Final = (*TICKS_OF_A_DAY_S, DAY_S, 2 * DAY_S, 7 * DAY_S)

# The signs of a bar, the worst first.
SIGNS: Final = ("failed", "unseen", "stopped", "running", "succeeded")


class RanFor(NamedTuple):
    """One attempt. `end` is None while it runs; `sign` is one of SIGNS."""

    job: int
    group: str
    begin: int
    end: int | None
    sign: str
    what: str


class Bar(NamedTuple):
    """One attempt, or several that are joined. `job`: of a single one. `begin` and `end`: their time."""

    x: int
    y: int
    width: int
    sign: str
    attempts: int
    job: int | None
    text: str
    begin: int
    end: int


class GanttGroup(NamedTuple):
    name: str
    shown: str
    y: int
    height: int


class Tick(NamedTuple):
    x: int
    text: str


class Gantt(NamedTuple):
    """`joined`: how many bars stand for more than one attempt. `text`: the whole in words."""

    height: int
    groups: tuple[GanttGroup, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    joined: int
    text: str


class _Piece:
    """A bar in the making."""

    __slots__ = ("end", "runs", "x")

    def __init__(self, x: int, end: int, run: RanFor) -> None:
        self.x = x
        self.end = end
        self.runs = [run]


class _Lane:
    """A row. `free_at`: when the last attempt in it ended."""

    def __init__(self) -> None:
        self.runs: list[RanFor] = []
        self.free_at: float = -1


def layout(runs: Sequence[RanFor], begin: int, end: int, most: int = MOST_BARS) -> Gantt:
    """The chart of what ran from `begin` to `end`."""
    inside = sorted((run for run in runs if _touches(run, begin, end)), key=lambda run: (run.begin, run.job))
    groups = _grouped(inside)
    most_rows = max(1, min(MOST_ROWS_OF_GROUP if len(groups) > 1 else MOST_ROWS, MOST_ROWS // max(1, len(groups))))
    lanes = {name: _lanes(of_group, most_rows) for name, of_group in groups.items()}
    shown, y = [], HEAD
    for name, rows in lanes.items():
        shown.append(GanttGroup(name, render.cut(name, NAME_LETTERS), y, len(rows) * ROW))
        y += len(rows) * ROW
    scale = _Scale(begin, end)
    bars = _bars([lane for rows in lanes.values() for lane in rows], scale, most)
    text = f"{len(inside)} attempts from {render.when(begin)} to {render.when(end)}: {_counts(inside) or 'none'}"
    joined = sum(bar.attempts > 1 for bar in bars)
    return Gantt(y, tuple(shown), tuple(bars), tuple(_ticks(begin, end, scale)), joined, text)


def _touches(run: RanFor, begin: int, end: int) -> bool:
    return run.begin <= end and (run.end is None or run.end >= begin)


def _grouped(runs: Iterable[RanFor]) -> dict[str, list[RanFor]]:
    """By group, in the order of their names; beyond a number of groups those with the fewest attempts are one."""
    names = Counter(run.group for run in runs)
    own = {name for name, _ in names.most_common(MOST_GROUPS)}
    groups: dict[str, list[RanFor]] = {name: [] for name in sorted(own)}
    for run in runs:
        groups.setdefault(run.group if run.group in own else OTHERS, []).append(run)
    return groups


def _lanes(runs: Iterable[RanFor], most: int) -> list[_Lane]:
    """Each attempt in the first row that is free; without one, in that which is free soonest."""
    lanes: list[_Lane] = []
    for run in runs:
        lane = next((lane for lane in lanes if lane.free_at <= run.begin), None)
        if lane is None and len(lanes) < most:
            lane = _Lane()
            lanes.append(lane)
        lane = lane or min(lanes, key=lambda lane: lane.free_at)
        lane.runs.append(run)
        lane.free_at = max(lane.free_at, float("inf") if run.end is None else run.end)
    return lanes


class _Scale:
    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end

    def x(self, at: int) -> int:
        inside = min(max(at, self.begin), self.end)
        return NAMES + round((inside - self.begin) * (WIDTH - NAMES) / (self.end - self.begin))

    def ends(self, run: RanFor) -> tuple[int, int]:
        left = min(self.x(run.begin), WIDTH - NARROWEST)
        return left, max(left + NARROWEST, WIDTH if run.end is None else self.x(run.end))


def _bars(lanes: Sequence[_Lane], scale: _Scale, most: int) -> list[Bar]:
    """Joined further and further until there are few enough. At last each row is one bar."""
    gap = 0
    while True:
        pieces = [_pieces(lane, scale, gap) for lane in lanes]
        if sum(map(len, pieces)) <= max(most, len(lanes)):
            break
        gap = max(1, 2 * gap)
    return [_bar(piece, HEAD + row * ROW, scale) for row, of_lane in enumerate(pieces) for piece in of_lane]


def _pieces(lane: _Lane, scale: _Scale, gap: int) -> list[_Piece]:
    """The bars of a row, each more than `gap` behind the one before."""
    pieces: list[_Piece] = []
    for run in lane.runs:
        left, right = scale.ends(run)
        if pieces and left < pieces[-1].end + gap:
            pieces[-1].runs.append(run)
            pieces[-1].end = max(pieces[-1].end, right)
        else:
            pieces.append(_Piece(left, right, run))
    return pieces


def _bar(piece: _Piece, y: int, scale: _Scale) -> Bar:
    runs = piece.runs
    begin = runs[0].begin
    end = scale.end if any(run.end is None for run in runs) else max(run.end or 0 for run in runs)
    sign = min((run.sign for run in runs), key=SIGNS.index)
    single = runs[0] if len(runs) == 1 else None
    what = f"job {single.job}, {single.what}, {sign}" if single else f"{len(runs)} attempts, {_counts(runs)}"
    until = "now" if any(run.end is None for run in runs) else render.when(end)
    text = f"{what}, {render.when(begin)} to {until}"
    width = piece.end - piece.x
    return Bar(piece.x, y, width, sign, len(runs), single.job if single else None, text, begin, end)


def _counts(runs: Iterable[RanFor]) -> str:
    """`2 failed, 40 succeeded`."""
    counts = Counter(run.sign for run in runs)
    return ", ".join(f"{counts[sign]} {sign}" for sign in SIGNS if counts[sign])


def _ticks(begin: int, end: int, scale: _Scale) -> Iterator[Tick]:
    """At whole seconds, minutes, hours or days of local time."""
    step_s = next((step for step in TICKS_S if (end - begin) / 1000 / step <= MOST_TICKS), None)
    step_s = step_s or -(-(end - begin) // 1000 // MOST_TICKS // TICKS_S[-1]) * TICKS_S[-1]
    ahead_s = time.localtime(begin / 1000).tm_gmtoff
    first_s = -(-(begin // 1000 + ahead_s) // step_s) * step_s - ahead_s
    written = "%H:%M:%S" if step_s < MINUTE_S else "%H:%M" if step_s < DAY_S else "%m-%d"
    for at_s in range(first_s, end // 1000 + 1, step_s):
        yield Tick(scale.x(at_s * 1000), time.strftime(written, time.localtime(at_s)))
