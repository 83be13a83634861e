"""Wakes the loop when a limit is due, and never for anything else.

Owns the one timer behind all of `Timers`. Refuses to judge late: after a gap in its own time (the daemon was
stopped, or the host slept) the launchers are asked first, so that an attempt that had ended in time is not
said to have passed its limit; silence of workers in such a time is not held against them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stoker.core.clock import Clock, Now
from stoker.engine.inbox import Alarms, Due
from stoker.engine.loop import Loop
from stoker.engine.timers import Alarm, Limit, Timers
from stoker.store.due import Due as DueNow

GAP_MS = 2_000


class Limits:
    """Posts what is due to the loop."""

    def __init__(
        self, timers: Timers, clock: Clock, loop: Loop, warn: Callable[[str, int], None],
        hear_out: Callable[[], Awaitable[None]], judge: Callable[[Alarm, Now], Alarm | None],
        overslept: Callable[[], None],
    ) -> None:  # fmt: skip
        self._timers = timers
        self._clock = clock
        self._loop = loop
        self._warn = warn
        self._hear_out = hear_out
        self._judge = judge
        self._overslept = overslept
        self._looked_at = clock.now().steady
        self._handle: asyncio.TimerHandle | None = None
        self._due_at: int | None = None
        self._catching_up: asyncio.Task[None] | None = None

    def rearm(self) -> None:
        """Look again when something is due next; cheap when that has not changed."""
        now = self._clock.now()
        delay = self._timers.delay_ms(now)
        due_at = None if delay is None else now.steady + delay
        if self._handle is not None and due_at is not None and self._due_at is not None and self._due_at <= due_at:
            return
        self._cancel()
        if delay is not None and self._catching_up is None:
            self._due_at = due_at
            self._handle = asyncio.get_running_loop().call_later(delay / 1_000, self._fire)

    def look(self, every_ms: int) -> None:
        """Called now and then: the loop's timers stand still while the host sleeps, steady time does not."""
        now = self._clock.now().steady
        if now - self._looked_at > every_ms + GAP_MS:
            self._overslept()
        self._looked_at = now
        if self._handle is not None and self._due_at is not None and now - self._due_at > GAP_MS:
            self._handle.cancel()
            self._fire()

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._due_at = None

    def _fire(self) -> None:
        late = self._clock.now().steady - (self._due_at or 0)
        self._handle = None
        if late > GAP_MS:
            self._overslept()
            self._catching_up = asyncio.ensure_future(self._catch_up())
        else:
            self._post_due()

    async def _catch_up(self) -> None:
        try:
            await self._hear_out()
        finally:
            self._catching_up = None
        self._post_due()

    def _post_due(self) -> None:
        now = self._clock.now()
        due = self._timers.take_due(now)
        judged = [self._judge(alarm, now) if alarm.limit is Limit.HEARTBEAT else alarm for alarm in due]
        alarms = [alarm for alarm in judged if alarm is not None]
        if alarms:
            self._loop.post(Alarms(alarms, self._warn))
        if self._timers.pending_due(now):
            self._timers.forget_pending()
            self._loop.post(Due(self._looked))
        self.rearm()

    def _looked(self, due: DueNow) -> None:
        if due.more:
            self._loop.post(Due(self._looked))
        self._timers.pend_at(due.next_steady, due.next_wall)
        self.rearm()

    def stop(self) -> None:
        """Post nothing more; harmless when nothing was armed."""
        self._cancel()
        if self._catching_up is not None:
            self._catching_up.cancel()
