"""Counts how often the loop's thread computed for too long without returning to the event loop.

Owns the limit, the counts in `stoker status --json`, and the log events `turn_slow` and `callback_slow`. It measures
the CPU time of that thread, which a loaded machine does not increase. Time blocked in the kernel is not included; the
watchdog notices that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Telemetry

P = ParamSpec("P")
T = TypeVar("T")

SLOW_S = 0.1


class Stalls:
    """Counts the parts of turns and the callbacks that computed for too long."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.turns = 0
        self.callbacks = 0

    def measure_turn(self, began: float, part: str, held: Iterable[object], steps: int) -> None:
        """A part of a turn computed from `began` (`time.thread_time`) until now, for the messages `held`."""
        took_s = time.thread_time() - began
        if took_s > SLOW_S:
            self.turns += 1
            self.telemetry.turn_was_slow()
            messages = dict(Counter(type(message).__name__ for message in held))
            log(LogEvent.TURN_SLOW, part=part, cpu_ms=round(took_s * 1_000), messages=messages, steps=steps)

    def watched(self, callback: Callable[P, T]) -> Callable[P, T]:
        """Wrap `callback` to measure its CPU time."""

        def measured(*args: P.args, **kw: P.kwargs) -> T:
            began = time.thread_time()
            try:
                return callback(*args, **kw)
            finally:
                took_s = time.thread_time() - began
                if took_s > SLOW_S:
                    self.callbacks += 1
                    self.telemetry.callback_was_slow()
                    log(LogEvent.CALLBACK_SLOW, callback=callback.__qualname__, cpu_ms=round(took_s * 1_000))

        return measured
