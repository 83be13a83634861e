"""Time as a parameter: wall time and steady time, and the one impure class that reads them.

Wall time is UTC and may jump. Steady time is the time since boot (CLOCK_BOOTTIME), counted from the boot's wall time as
the first daemon of this boot computed it: it looks like epoch milliseconds, is roughly right, and never jumps.
"""

from __future__ import annotations

import time
from typing import Protocol

from msgspec import Struct


class Now(Struct, frozen=True):
    """One instant on both clocks, in milliseconds."""

    wall: int
    steady: int

    @property
    def earlier(self) -> int:
        """The time for removals by age: a wall clock that was set ahead removes nothing too early."""
        return min(self.wall, self.steady)

    @property
    def skew(self) -> int:
        """How much the wall clock is ahead of steady time. It changes only when the wall clock is set."""
        return self.wall - self.steady


class Clock(Protocol):
    def now(self) -> Now: ...


def wall_ms() -> int:
    """UTC milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Milliseconds since boot, suspended time included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class SystemClock:
    """The real clocks. `anchor` is steady time at boot: keep it for as long as the boot lasts."""

    def __init__(self, anchor: int | None = None) -> None:
        self.anchor = wall_ms() - boot_ms() if anchor is None else anchor

    def now(self) -> Now:
        return Now(wall_ms(), self.anchor + boot_ms())

    def steady_from_boot(self, at_boot_ms: int) -> int:
        """Steady time of an instant given as milliseconds since boot."""
        return self.anchor + at_boot_ms
