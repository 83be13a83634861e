"""Counts how often the loop's thread computed for too long without returning to the event loop.

It sees the parts of turns, the callbacks that are wrapped, and the steps of every task. Owns the limit, the counts in
`stoker status --json`, and the log events `turn_slow` and `callback_slow`. It measures the CPU time of that thread,
which a loaded machine does not increase. Time blocked in the kernel is not included; the watchdog notices that.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, ParamSpec, TypeVar

from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted, Telemetry

P = ParamSpec("P")
T = TypeVar("T")

SLOW_S = 0.1
EXACT_S = 0.01  # how long a reading of the CPU time is used


class Stalls:
    """Counts the parts of turns and the callbacks that computed for too long."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.turns = 0
        self.callbacks = 0
        self._exact = 0.0  # the CPU time when it was last read
        self._exact_at = -EXACT_S  # and when that was

    def now(self) -> float:
        """The CPU time of this thread, or up to EXACT_S more.

        It is read now and then, and the wall time since is added: on each read the kernel may give the processor to
        another thread, which costs a busy daemon more than the work that is measured.
        """
        since = time.perf_counter() - self._exact_at
        if since >= EXACT_S:
            self._exact_at += since
            self._exact, since = time.thread_time(), 0.0
        return self._exact + since

    def _slow_s(self, began: float) -> float | None:
        """For how long this thread certainly computed since `began` (`now`), if that was too long."""
        took_s = self.now() - began
        if took_s > SLOW_S:
            took_s = time.thread_time() - began
        return took_s if took_s > SLOW_S else None

    def measure_turn(self, began: float, part: str, held: Iterable[object], steps: int) -> None:
        """A part of a turn computed from `began` (`now`) until now, for the messages `held`."""
        took_s = self._slow_s(began)
        if took_s is not None:
            self.turns += 1
            self.telemetry.count(Counted.SLOW_TURNS)
            messages = dict(Counter(type(message).__name__ for message in held))
            log(LogEvent.TURN_SLOW, part=part, cpu_ms=round(took_s * 1_000), messages=messages, steps=steps)

    def watched(self, callback: Callable[P, T]) -> Callable[P, T]:
        """Wrap `callback` to measure its CPU time."""

        def measured(*args: P.args, **kw: P.kwargs) -> T:
            began = self.now()
            try:
                return callback(*args, **kw)
            finally:
                self.measure_callback(began, callback.__qualname__)

        return measured

    def measure_callback(self, began: float, name: str) -> None:
        """A callback, or a task between two awaits, computed from `began` (`now`) until now."""
        took_s = self._slow_s(began)
        if took_s is not None:
            self.callbacks += 1
            self.telemetry.count(Counted.SLOW_CALLBACKS)
            log(LogEvent.CALLBACK_SLOW, callback=name, cpu_ms=round(took_s * 1_000))

    def measured_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> asyncio.Task[T]:
        """The task factory of the event loop: each step of each task is measured."""
        assert isinstance(work, Coroutine), "a task runs a coroutine"
        return asyncio.Task(MeasuredCoroutine(work, self), loop=loop, **options)


class MeasuredCoroutine(Coroutine[Any, Any, T]):
    def __init__(self, work: Coroutine[Any, Any, T], stalls: Stalls) -> None:
        self._work = work
        self._send = work.send  # looked up once: a step is as short as that
        self._stalls = stalls
        self.__name__: str = getattr(work, "__name__", type(work).__name__)
        self.__qualname__: str = getattr(work, "__qualname__", self.__name__)

    def send(self, value: Any) -> Any:
        began = self._stalls.now()
        try:
            return self._send(value)
        finally:
            self._stalls.measure_callback(began, self.__qualname__)

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._work.__await__()
