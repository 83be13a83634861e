"""One timer of the event loop for the next time at which something is due.

Owns the difference between the two: timers of the event loop stand still while the host sleeps, steady time does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stoker.core.clock import Clock

LONGEST_MS = 3_600_000  # limit of the timer; it is set again for a time beyond that


class DueTimer:
    """Calls `on_due` once `due_at` has come, with the milliseconds by which it is late."""

    def __init__(self, clock: Clock, on_due: Callable[[int], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._handle: asyncio.TimerHandle | None = None
        self.due_at: int | None = None  # steady, in ms; None while nothing is due

    def set(self, due_at: int | None) -> None:
        """Set the time (steady, in ms), or stop the timer with None. Cheap if the time is the same."""
        if due_at != self.due_at:
            self.due_at = due_at
            self.check()

    def check(self) -> None:
        """Set the timer of the event loop again: the host may have slept."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        if self.due_at is not None:
            delay_ms = min(max(0, self.due_at - self._clock.now().steady), LONGEST_MS)
            self._handle = asyncio.get_running_loop().call_later(delay_ms / 1_000, self._fire, self.due_at)

    def stop(self) -> None:
        """Stop the timer. Safe to call without one, and twice."""
        self.set(None)

    def _fire(self, due_at: int) -> None:
        late_ms = self._clock.now().steady - due_at
        if late_ms < 0:
            self.check()
            return
        self._handle = None
        self.due_at = None
        self._on_due(late_ms)
