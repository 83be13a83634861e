"""Wakes the loop when the next slot of any schedule is due.

Slots are due on the wall clock, and the timer runs on steady time: `tick` sees whether one of the clocks was set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from msgspec.structs import replace

from stoker.background.due_timer import DueTimer
from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.schedule.model import Schedule
from stoker.engine.inbox import Inbox
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.host.threads import start_threads
from stoker.schedules import runs
from stoker.schedules.messages import ClockSetBack, SlotsDue
from stoker.schedules.runs import SLOTS_AT_ONCE, PlannedRuns
from stoker.store.reader import Reader
from stoker.upkeep.file_watch import FileWatch
from stoker.workflows import reuse, submit
from stoker.workflows.submit import WorkflowOffer

SETTLING = "slots of schedules"  # the name of the task
SET_BACK_MS = 100  # smaller differences occur because the two clocks are read one after the other


class ScheduleClock:
    def __init__(
        self,
        memory: LiveState,
        intake: Intake,
        inbox: Inbox,
        reader: Reader,
        clock: Clock,
        background: BackgroundTasks,
        files: FileWatch,
    ) -> None:
        self._memory = memory
        self._intake = intake
        self._inbox = inbox
        self._reader = reader
        self._clock = clock
        self._background = background
        self._files = files
        self._planner = start_threads(1, "schedules")
        self._timer = DueTimer(clock, self._fire)
        self._skew: int | None = None  # of the clocks at the last check; None before the start

    def begin(self) -> None:
        self._skew = self._clock.now().skew
        self._inbox.post(ClockSetBack())
        self._rearm()

    def after_commit(self, turn: Turn) -> None:
        if self._skew is not None and (turn.batch.schedules or turn.batch.removed_schedules):
            self._rearm()

    def tick(self) -> None:
        """Set the timer again: a clock was set, the host slept, or slots are due since jobs were refused."""
        if self._skew is None:
            return
        before, self._skew = self._skew, self._clock.now().skew
        if self._skew < before - SET_BACK_MS:
            self._inbox.post(ClockSetBack())
        self._rearm()
        self._timer.check()

    def close(self) -> None:
        """Stop the timer. Safe to call before `begin`."""
        self._skew = None
        self._timer.stop()
        self._planner.shutdown(wait=False)

    async def seen_for(self, schedule: Schedule, offer: WorkflowOffer | None) -> Mapping[str, str]:
        """The present state of the paths for whose change its run is going to wait."""
        return await self._files.see(runs.changing(schedule, offer))

    async def offer_of(self, schedule: Schedule) -> WorkflowOffer | None:
        """Plan the workflow of a schedule, in a thread as it may have thousands of steps. None if it has a job.

        Raises WorkflowNotFound if the run that it reuses is gone.
        """
        if schedule.flow is None:
            return None
        in_thread, owner = partial(asyncio.get_running_loop().run_in_executor, self._planner), schedule.owner_uid
        request = await in_thread(runs.request_of, schedule.flow, schedule.flow_part)
        wish = await reuse.wish_of(self._reader, request, owner, newest=schedule.last_workflow)
        return await in_thread(submit.offer_of, request, wish, owner)

    async def _offered(self, planned: PlannedRuns) -> PlannedRuns:
        if planned.due is None or not planned.due.slots:
            return planned
        try:
            return replace(planned, offer=await self.offer_of(planned.schedule))
        except StokerError as refusal:
            return replace(planned, refusal=refusal)

    def _rearm(self) -> None:
        """Set the timer to the next slot of all."""
        due = self._memory.schedules.next_due()
        if due is None or self._background.is_running(SETTLING):
            self._timer.stop()
        else:
            self._timer.set(due - self._clock.now().skew)

    def _fire(self, _late_ms: int) -> None:
        if self._intake.closed is None:  # else the next tick tries again
            self._background.start(SETTLING, self._settle())

    async def _settle(self) -> None:
        """Settle what is due, in turns of a bounded size."""
        loop = asyncio.get_running_loop()
        now = self._clock.now().wall
        while (due := self._memory.schedules.due(now, SLOTS_AT_ONCE)) and self._intake.closed is None:
            planned = await loop.run_in_executor(self._planner, runs.plan, due, now)
            planned = [await self._offered(each) for each in planned]
            seen = await self._files.see(runs.changing_of_all(planned))
            await self._inbox.ask(SlotsDue(self._intake, planned, seen))
            now = self._clock.now().wall
        asyncio.get_running_loop().call_soon(self._rearm)  # once this task is done
