"""Samples the host: while it is under pressure, jobs of `low` queues wait, or are frozen, and queues with a floor run
fewer jobs.

`core.throttle` judges the samples, with hysteresis.
"""

from __future__ import annotations

from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.job.admission import stops_under_pressure
from stoker.core.job.model import Queue
from stoker.core.throttle import Narrowing, Pressure, Sample, narrow, observe
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.inbox import Inbox, Message
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.turn import LogLine, Turn
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
        self.sample = Sample()
        self.use(config)

    def use(self, config: Config) -> None:
        self._policy = config.throttle_policy()
        self._freeze_running = config.throttle.freeze_running
        self._step_ms = config.throttle.step_ms

    def begin(self) -> None:
        """Begin to measure the CPU, so that the start of the daemon itself is not included."""
        self._probe.sample()

    def tick(self) -> None:
        self.sample = self._probe.sample()
        self.pressure, changed = observe(self._policy, self.pressure, self.sample, self._clock.now().wall)
        if changed:
            self._apply(self.pressure)
        if self.pressure.throttled or self._memory.narrowed:
            for queue in self._memory.queues.values():
                self._narrow(queue)
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
        self._inbox.post(Throttled(pressure))

    def _narrow(self, queue: Queue) -> None:
        """Set the temporary limit of a queue with a floor. It is kept only in memory, and a start removes it."""
        before = self._memory.narrowed.get(queue.name)
        if queue.min_running is None and before is None:
            return
        slots = self._dispatcher.slots
        after = (
            None
            if queue.min_running is None
            else narrow(
                before,
                queue.min_running,
                slots if queue.max_running is None else min(slots, queue.max_running),
                self._memory.running[queue.name],
                self._clock.now().steady,
                self._step_ms,
                throttled=self.pressure.throttled,
            )
        )
        if after != before:
            self._inbox.post(Narrowed(queue.name, after, [cause.value for cause in self.pressure.causes]))

    def _freeze_low(self) -> None:
        """Freeze the running jobs of low queues. Time limits do not count the time of a freeze."""
        low = [run.attempt.run_id for run in self._memory.runs.values() if self._is_low(run)]
        changed = self._local.freeze(low, frozen=True)
        self._memory.frozen.freeze(changed, self._clock.now().steady)
        self._heartbeats.restart_silence(changed)

    def _thaw(self) -> None:
        """Thaw all frozen jobs, also those that an earlier sample could not thaw for lack of a descriptor."""
        changed = self._local.freeze(self._memory.frozen.run_ids(), frozen=False)
        self._memory.frozen.thaw(changed, self._clock.now().steady)
        self._heartbeats.restart_silence(changed)

    def _is_low(self, run: OpenRun) -> bool:
        return stops_under_pressure(self._memory.queues[run.job.spec.queue])


class Throttled(Message):
    """The queues that start no jobs under pressure are throttled, or no longer: each gets a change."""

    def __init__(self, pressure: Pressure) -> None:
        self._cause = "throttled" if pressure.throttled else "unthrottled"
        levels = {gauge.value: level for gauge, level in pressure.levels.items()}
        self._about = {"causes": [cause.value for cause in pressure.causes], "levels": levels}

    def apply_to(self, turn: Turn) -> None:
        for queue in turn.memory.queues.values():
            if stops_under_pressure(queue):
                turn.record("queue", queue.name, self._cause, {"queue": queue, **self._about})


class Narrowed(Message):
    """The temporary limit of a queue under pressure changes; None removes it."""

    def __init__(self, name: str, narrowing: Narrowing | None, causes: list[str]) -> None:
        self._name = name
        self._narrowing = narrowing
        self._causes = causes

    def apply_to(self, turn: Turn) -> None:
        """Apply and log each step. Only the first and the last one are recorded as changes."""
        narrowed = turn.memory.narrowed
        began = self._name not in narrowed
        if self._narrowing is None:
            narrowed.pop(self._name, None)
        else:
            narrowed[self._name] = self._narrowing
        limit = None if self._narrowing is None else self._narrowing.limit
        event = LogEvent.QUEUE_WIDENED if limit is None else LogEvent.QUEUE_NARROWED
        about = {"limit": limit, "causes": self._causes}
        turn.effects.append(LogLine(event, {"queue": self._name, **about}))
        if began or limit is None:
            payload = {"queue": turn.memory.queues[self._name], **about}
            turn.record("queue", self._name, "widened" if limit is None else "narrowed", payload)
