"""How fast attempts end one after the other, and so how long the report of an end may wait for the next one.

While many short jobs run, the ends that come within a moment share a turn: a commit for several ends costs little more
than one for a single end, and the jobs that follow start together. Owns the number of reported ends without a turn.
"""

from __future__ import annotations

import math
from collections.abc import Sized

MOST_PATIENCE_S = 0.01
MANY_RUNS = 4  # with fewer open attempts a slot that waits costs more than a commit
WEIGHT_OF_LAST_GAP = 0.2  # in the average time between two ends


class EndPace:
    """`open_runs`: the attempts that are open for the engine, with those whose ends wait for a turn."""

    def __init__(self, open_runs: Sized) -> None:
        self._open_runs = open_runs
        self._last_s = -math.inf
        self._gap_s = 2 * MOST_PATIENCE_S
        self._waiting = 0

    def note(self, ends: int, at_s: float) -> None:
        """So many attempts have ended, by the clock of the event loop."""
        gap_s = min((at_s - self._last_s) / ends, 2 * MOST_PATIENCE_S)  # a long break is forgotten after a few ends
        self._last_s = at_s
        self._gap_s += WEIGHT_OF_LAST_GAP * (gap_s - self._gap_s)
        self._waiting += ends

    def take(self, ends: int) -> None:
        """So many ends are in a turn now."""
        self._waiting -= ends

    @property
    def patience_s(self) -> float:
        """The average time between two ends, if that is short and one of many attempts is left that may end."""
        more = self._waiting < len(self._open_runs)
        many = len(self._open_runs) >= MANY_RUNS
        return self._gap_s if more and many and self._gap_s <= MOST_PATIENCE_S else 0.0
