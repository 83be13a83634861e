"""Periodic duties of the daemon, all on one timer.

Owns the interval and the order of the duties. A duty that fails waits for its next turn, and the others are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from stoker.background.tasks import BackgroundTasks
from stoker.telemetry.stalls import Stalls


class Duty(Protocol):
    def tick(self) -> None: ...


class Cadence:
    def __init__(
        self, interval_s: float, duties: Mapping[str, Duty], stalls: Stalls, background: BackgroundTasks
    ) -> None:
        self._interval_s = interval_s
        self._duties = duties
        self._perform_all = stalls.watched(self._perform)
        self._background = background
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        # This polls: the kernel sends no notice of load, of a full disk or of a removed directory.
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def stop(self) -> None:
        """Stop the timer. Safe to call before `start`, and twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.start()
        self._perform_all()

    def _perform(self) -> None:
        for name, duty in self._duties.items():
            self._background.perform(name, duty.tick, again_in_s=self._interval_s)
