"""Watches the host on a fixed cadence and tells the dispatcher when `low` queues must wait.

Owns the ticking: one sample each `sample_ms`, never on the dispatch path. Refuses to judge: `core.throttle`
does, with hysteresis. The same tick looks at the disk, because both ask "is there room for more?".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stoker.core.clock import Clock
from stoker.core.throttle import Pressure, ThrottlePolicy, observe
from stoker.host.probe import Probe


class Throttle:
    """Samples until it is stopped; `changed` is called when low queues begin or cease to wait."""

    def __init__(
        self,
        probe: Probe,
        policy: ThrottlePolicy,
        clock: Clock,
        sample_ms: int,
        changed: Callable[[Pressure], None],
        ticked: Callable[[], None],
    ) -> None:
        self._probe = probe
        self.policy = policy
        self._clock = clock
        self._interval_s = sample_ms / 1_000
        self._changed = changed
        self._ticked = ticked
        self._timer: asyncio.TimerHandle | None = None
        self.pressure = Pressure()

    def start(self) -> None:
        """Begin to sample; the first sample only sets the base of the CPU measure."""
        self._probe.sample()
        self._schedule()

    def stop(self) -> None:
        """Stop sampling; harmless when never started or stopped before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        # A cadence is the point here: the host's load announces itself to nobody.
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._schedule()
        now = self._clock.now()
        self.pressure, changed = observe(self.policy, self.pressure, self._probe.sample(), now.wall)
        if changed:
            self._changed(self.pressure)
        self._ticked()
