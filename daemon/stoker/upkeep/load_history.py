"""The load of the last hour, kept in memory: samples of the host and of the queues.

Owns the series and the time of its samples. It is no timer of its own: a sample is taken on a tick that comes anyway,
so an idle daemon is not woken.
"""

from __future__ import annotations

from stoker.core.clock import Clock
from stoker.core.job.model import State
from stoker.core.load import INTERVAL_MS, Load, QueueLoad, Stretch, appended, busiest
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.memory import LiveState
from stoker.upkeep.throttle import Throttle

ROUNDED_BYTES = 16 * 1024 * 1024  # free memory changes always; a chart shows no less


class LoadHistory:
    """`tick` comes after that of the throttle, which measures the host."""

    def __init__(self, throttle: Throttle, memory: LiveState, dispatcher: Dispatcher, clock: Clock) -> None:
        self._throttle = throttle
        self._memory = memory
        self._dispatcher = dispatcher
        self._clock = clock
        self._cpu: list[float] = []
        self._due = 0
        self.series: tuple[Stretch, ...] = ()

    def tick(self) -> None:
        now = self._clock.now()
        if (cpu := self._throttle.sample.cpu) is not None:
            self._cpu.append(cpu)
        if now.steady < self._due:
            return
        self._due = now.steady + INTERVAL_MS
        self.series = appended(self.series, self._load(), now.wall)
        self._cpu.clear()

    def _load(self) -> Load:
        free, memory = self._throttle.sample.memory_free_bytes, self._memory
        counts, running = memory.counts, memory.running
        return Load(
            cpu=round(sum(self._cpu) / len(self._cpu)) if self._cpu else None,
            memory_free_bytes=None if free is None else free // ROUNDED_BYTES * ROUNDED_BYTES,
            throttled=self._throttle.pressure.throttled,
            running=len(memory.runs),
            slots=self._dispatcher.slots,
            queues=busiest(QueueLoad(name, running[name], counts[name, State.QUEUED]) for name in memory.queues),
        )
