"""How far something that takes long has come: a bar, counts and an estimate, on stderr if that is a terminal.

Owns the text of the line and how often it is drawn. `render.progress` decides where it may be shown.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from stoker.cli.kit import render
from stoker.cli.kit.parser import Option
from stoker.core.units import duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from stoker.cli.kit.parser import Given

QUIET = Option("-q --quiet", None, "show no progress")
CELLS = 20
DRAWN_S = 0.1  # the shortest time between two drawings
ESTIMATED_S = 2.0  # before that an estimate jumps


class Progress:
    """`unit` writes a count, as in `size`. Cleared when it is left. `is_shown`: whether anybody sees a total."""

    def __init__(self, given: Given, *, unit: Callable[[float], str] = str) -> None:
        self.is_shown = not given.get("quiet") and sys.stderr.isatty()
        self._unit = unit
        self._began = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_shown:
            render.progress("", beside_output=False)

    def show(self, what: str, done: float = 0, of: float = 0) -> None:
        """`of`: 0 if the end is not known."""
        now = time.monotonic()
        if not self.is_shown or (now < self._drawn + DRAWN_S and done != of):
            return
        self._drawn = now
        text = line(what, done, of, now - self._began, self._unit)
        render.progress(render.cut(text, render.terminal_size(sys.stderr)[0]), beside_output=False)


def line(what: str, done: float, of: float, elapsed_s: float, unit: Callable[[float], str] = str) -> str:
    """`[#####·····]  25 % copied 1.0M of 4.0M, 3s left`; without a total only the count."""
    if not of:
        return f"{what} {unit(done)}" if done else what
    share = min(1.0, done / of)
    text = f"{bar(share)} {share:4.0%} {what} {unit(done)} of {unit(of)}"
    if elapsed_s < ESTIMATED_S or not 0 < share < 1:
        return text
    left_s = max(1, round(elapsed_s * (1 - share) / share))
    return f"{text}, {duration(left_s * 1_000)} left"


def bar(share: float) -> str:
    filled = round(min(1.0, share) * CELLS)
    return f"[{'#' * filled}{'·' * (CELLS - filled)}]"
