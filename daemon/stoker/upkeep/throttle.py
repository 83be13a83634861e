"""Samples the host: while it is under pressure, jobs of `low` queues wait, or are frozen.

`core.throttle` judges the samples, with hysteresis.
"""

from __future__ import annotations

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
from stoker.telemetry.otel import ATTR_CAUSE, Counted, Telemetry


class Throttle:
    def __init__(
        self,
        config: Config,
        clock: Clock,
        memory: LiveState,
        dispatcher: Dispatcher,
        local: LocalExecutor,
        heartbeats: Heartbeats,
        inbox: Inbox,
        telemetry: Telemetry,
    ) -> None:
        self._probe = Probe()
        self._clock = clock
        self._memory = memory
        self._dispatcher = dispatcher
        self._local = local
        self._heartbeats = heartbeats
        self._inbox = inbox
        self._telemetry = telemetry
        self.pressure = Pressure()
        self.use(config)

    def use(self, config: Config) -> None:
        self._policy = config.throttle_policy()
        self._freeze_running = config.throttle.freeze_running

    def begin(self) -> None:
        """Measure the use of the CPU from now on: the start of the daemon itself does not count."""
        self._probe.sample()

    def tick(self) -> None:
        sample = self._probe.sample()
        self.pressure, changed = observe(self._policy, self.pressure, sample, self._clock.now().wall)
        if changed:
            self._apply(self.pressure)
        if not (self._freeze_running and self.pressure.throttled):
            self._thaw()

    def _apply(self, pressure: Pressure) -> None:
        self._dispatcher.throttled = pressure.throttled
        event = LogEvent.QUEUE_THROTTLED if pressure.throttled else LogEvent.QUEUE_UNTHROTTLED
        log(event, causes=[cause.value for cause in pressure.causes], levels=dict(pressure.levels))
        if pressure.throttled:
            self._telemetry.count(Counted.THROTTLE_EVENTS, labels={ATTR_CAUSE: ",".join(pressure.causes)})
            if self._freeze_running:
                self._freeze_low()
        self._inbox.wake()

    def _freeze_low(self) -> None:
        """Freeze the running jobs of low queues. The time of a freeze counts for no limit."""
        low = [run.attempt.run_id for run in self._memory.runs.values() if self._is_low(run)]
        changed = self._local.freeze(low, frozen=True)
        self._memory.frozen.freeze(changed, self._clock.now().steady)
        self._heartbeats.restart_silence(changed)

    def _thaw(self) -> None:
        """Thaw all that is frozen, also what an earlier sample could not thaw for want of a descriptor."""
        changed = self._local.freeze(self._memory.frozen.run_ids(), frozen=False)
        self._memory.frozen.thaw(changed, self._clock.now().steady)
        self._heartbeats.restart_silence(changed)

    def _is_low(self, run: OpenRun) -> bool:
        return self._memory.queues[run.job.spec.queue].queue_class is QueueClass.LOW
