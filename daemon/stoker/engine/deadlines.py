"""Wakes the loop when a limit is due, and never for anything else.

Owns the one timer behind all of `Timers`. Refuses to judge late: after a gap in its own time (the daemon was
stopped, or the host slept) each launcher is heard out before the limits of its attempts are judged, so that an attempt
that had ended in time is not said to have passed its limit; silence of workers in such a time is not held against them.
Invariant: no limit waits for a launcher other than that of its own attempt, and none for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock, Now
from stoker.engine.loop import Loop
from stoker.engine.messages import Alarms, DueJobs
from stoker.engine.timers import Alarm, Timers
from stoker.engine.witnesses import LauncherWitnesses
from stoker.store.due import Due as DueNow

GAP_MS = 2_000


class Deadlines:
    """Posts what is due to the loop."""

    def __init__(
        self, timers: Timers, clock: Clock, loop: Loop, warn: Callable[[str, int], None],
        witnesses: LauncherWitnesses, judge: Callable[[Alarm, Now], Alarm | None], overslept: Callable[[], None],
        background: BackgroundTasks,
    ) -> None:  # fmt: skip
        self._timers = timers
        self._clock = clock
        self._loop = loop
        self._warn = warn
        self._witnesses = witnesses
        self._judge = judge
        self._overslept = overslept
        self._background = background
        self._looked_at = clock.now().steady
        self._handle: asyncio.TimerHandle | None = None
        self._due_at: int | None = None
        self._unheard: dict[str, list[Alarm]] = {}  # launchers that are being heard out, and what waits for that

    def rearm(self) -> None:
        """Look again when something is due next; cheap when that has not changed."""
        now = self._clock.now()
        delay = self._timers.delay_ms(now)
        due_at = None if delay is None else now.steady + delay
        if self._handle is not None and due_at is not None and self._due_at is not None and self._due_at <= due_at:
            return
        self._cancel()
        if delay is not None:
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
            for launcher in self._witnesses.connected():
                self._hear_out(launcher)
        self._post_due()

    def _hear_out(self, launcher: str) -> None:
        if launcher not in self._unheard:
            self._unheard[launcher] = []
            self._background.start(f"limits at launcher {launcher}", self._post_heard(launcher))

    async def _post_heard(self, launcher: str) -> None:
        try:
            await self._witnesses.hear_out(launcher)
        finally:
            alarms = self._unheard.pop(launcher)
        self._post(alarms, self._clock.now())
        self.rearm()

    def _post_due(self) -> None:
        now = self._clock.now()
        heard: list[Alarm] = []
        for alarm in self._timers.take_due(now):
            self._unheard.get(self._witnesses.of_run(alarm.run_id) or "", heard).append(alarm)
        self._post(heard, now)
        if self._timers.pending_due(now):
            self._timers.forget_pending()
            self._loop.post(DueJobs(self._looked))
        self.rearm()

    def _post(self, due: Sequence[Alarm], now: Now) -> None:
        judged = [self._judge(alarm, now) for alarm in due]
        alarms = [alarm for alarm in judged if alarm is not None]
        if alarms:
            self._loop.post(Alarms(alarms, self._warn))

    def _looked(self, due: DueNow) -> None:
        if due.more:
            self._loop.post(DueJobs(self._looked))
        self._timers.pend_at(due.next_steady, due.next_wall)
        self.rearm()

    def stop(self) -> None:
        """Post nothing more; harmless when nothing was armed."""
        self._cancel()
