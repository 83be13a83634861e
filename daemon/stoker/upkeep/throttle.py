"""Watches the host on a fixed cadence: while it is under pressure, jobs of `low` queues wait, or are frozen.

Owns the cadence (one sample each `sample_ms`, never on the dispatch path), on which other periodic duties run too.
`core.throttle` judges the samples, with hysteresis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.job.model import QueueClass
from stoker.core.throttle import Pressure, observe
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, OpenRun
from stoker.executors.local import LocalExecutor
from stoker.host.probe import Probe
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.stalls import Stalls


class Ticking(Protocol):
    def tick(self) -> None: ...


class Throttle:
    """Samples until it is stopped. `ticking`: periodic duties by name; each is done once a sample, in this order."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        memory: LiveState,
        dispatcher: Dispatcher,
        local: LocalExecutor,
        heartbeats: Heartbeats,
        inbox: Inbox,
        stalls: Stalls,
        background: BackgroundTasks,
        ticking: Mapping[str, Ticking],
    ) -> None:
        self._probe = Probe()
        self._clock = clock
        self._interval_s = config.cpu.sample_ms / 1_000
        self._memory = memory
        self._dispatcher = dispatcher
        self._local = local
        self._heartbeats = heartbeats
        self._inbox = inbox
        self._telemetry = stalls.telemetry
        self._tick_parts = stalls.watched(self._tick_all)
        self._background = background
        self._ticking = ticking
        self._timer: asyncio.TimerHandle | None = None
        self.pressure = Pressure()
        self.use(config)

    def use(self, config: Config) -> None:
        self._policy = config.throttle_policy()
        self._freeze_running = config.throttle.freeze_running

    def start(self) -> None:
        """Begin to sample; the first sample only sets the base for CPU use."""
        self._probe.sample()
        self._schedule()

    def stop(self) -> None:
        """Harmless if it was never started or is stopped already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        # This polls: the kernel sends no notice of load.
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._schedule()
        self._background.perform("sample of the host", self._sample, again_in_s=self._interval_s)
        self._tick_parts()

    def _sample(self) -> None:
        sample = self._probe.sample()
        self.pressure, changed = observe(self._policy, self.pressure, sample, self._clock.now().wall)
        if changed:
            self._apply(self.pressure)

    def _tick_all(self) -> None:
        for name, part in self._ticking.items():
            self._background.perform(name, part.tick, again_in_s=self._interval_s)

    def _apply(self, pressure: Pressure) -> None:
        self._dispatcher.throttled = pressure.throttled
        event = LogEvent.QUEUE_THROTTLED if pressure.throttled else LogEvent.QUEUE_UNTHROTTLED
        log(event, causes=[cause.value for cause in pressure.causes], levels=dict(pressure.levels))
        if pressure.throttled:
            self._telemetry.throttle_began(pressure.causes)
        if self._freeze_running:
            self._freeze_low(frozen=pressure.throttled)
        self._inbox.wake()

    def _freeze_low(self, *, frozen: bool) -> None:
        """Freeze or thaw the running jobs of low queues. The time of a freeze counts for no limit."""
        low = [run.attempt.run_id for run in self._memory.runs.values() if self._is_low(run)]
        changed, at = self._local.freeze(low, frozen=frozen), self._clock.now().steady
        (self._memory.frozen.freeze if frozen else self._memory.frozen.thaw)(changed, at)
        self._heartbeats.set_frozen(changed, frozen=frozen)

    def _is_low(self, run: OpenRun) -> bool:
        return self._memory.queues[run.job.spec.queue].queue_class is QueueClass.LOW
