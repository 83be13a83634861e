"""Wakes the loop when the next slot of any schedule is due.

Owns one timer, for the schedule that is due first. It runs on steady time; that the host slept, or that the wall clock
was set, is seen by the periodic check of the cadence, which compares the two clocks.
"""

from __future__ import annotations

import asyncio

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.schedule.model import Schedule
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.submit import Intake
from stoker.engine.turn import Turn
from stoker.host.threads import start_threads
from stoker.schedules.messages import ClockSetBack, SlotsDue
from stoker.schedules.runs import offer_of
from stoker.workflows.submit import WorkflowOffer

AT_ONCE = 100  # schedules in one turn
LONGEST_MS = 3_600_000  # of the timer; for a later slot it is set again
SET_BACK_MS = 100  # the two clocks are not read at the same instant


class ScheduleClock:
    def __init__(
        self, memory: LiveState, intake: Intake, inbox: Inbox, clock: Clock, background: BackgroundTasks
    ) -> None:
        self._memory = memory
        self._intake = intake
        self._inbox = inbox
        self._clock = clock
        self._background = background
        self._planner = start_threads(1, "schedules")
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.Task[None] | None = None
        self._ahead: int | None = None  # how much the wall clock is ahead of steady time; None before the start

    def begin(self) -> None:
        self._ahead = self._wall_ahead()
        self._inbox.post(ClockSetBack())
        self._rearm()

    def after_commit(self, turn: Turn) -> None:
        if self._ahead is not None and (turn.batch.schedules or turn.batch.removed_schedules):
            self._rearm()

    def tick(self) -> None:
        """See whether a clock was set, the host slept, or slots stayed due while nothing was accepted."""
        if self._ahead is None:
            return
        before, self._ahead = self._ahead, self._wall_ahead()
        if self._ahead < before - SET_BACK_MS:
            self._inbox.post(ClockSetBack())
        self._rearm()

    def close(self) -> None:
        """Harmless if it never began."""
        self._ahead = None
        self._cancel()
        self._planner.shutdown(wait=False)

    async def plan(self, schedule: Schedule) -> WorkflowOffer | None:
        """Its workflow, planned in a thread: it may have thousands of steps."""
        if schedule.flow is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._planner, offer_of, schedule)

    def _wall_ahead(self) -> int:
        now = self._clock.now()
        return now.wall - now.steady

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rearm(self) -> None:
        """Set the timer to the next slot of all."""
        self._cancel()
        due = self._memory.schedules.next_due()
        if due is not None and (self._settling is None or self._settling.done()):
            delay_ms = min(max(0, due - self._clock.now().wall), LONGEST_MS)
            self._timer = asyncio.get_running_loop().call_later(delay_ms / 1_000, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._intake.closed is None:  # else the next tick tries again
            self._settling = self._background.start("slots of schedules", self._settle())

    async def _settle(self) -> None:
        """Settle what is due, in turns of a bounded size."""
        due = self._memory.schedules.due(self._clock.now().wall, AT_ONCE)
        while due and self._intake.closed is None:
            planned = {schedule.name: (schedule, await self.plan(schedule)) for schedule in due}
            await self._inbox.ask(SlotsDue(self._intake, planned))
            due = self._memory.schedules.due(self._clock.now().wall, AT_ONCE)
        asyncio.get_running_loop().call_soon(self._rearm)  # once this task is done
