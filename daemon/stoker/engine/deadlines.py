"""Wakes the loop when a limit of a running attempt is due, or the time or the token for which a job waits.

After a gap (the daemon was stopped, or the host slept) an attempt may have ended in time although its report was not
read yet. So each launcher is asked for its reports before the limits of its attempts are applied. The silence of
workers during a gap does not count. Invariant: a limit waits only for the launcher of its own attempt, and for a
bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stoker.background.due_timer import DueTimer
from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock, Now
from stoker.core.job.model import Attempt, Job, State
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.timers import Alarm, Alarms, DueJobs, Limit, Timers
from stoker.engine.turn import DueRead, Turn
from stoker.executors.launcher_pool import LauncherPool

GAP_MS = 2_000


class Deadlines:
    def __init__(
        self,
        timers: Timers,
        clock: Clock,
        inbox: Inbox,
        memory: LiveState,
        heartbeats: Heartbeats,
        launchers: LauncherPool,
        background: BackgroundTasks,
        *,
        patience_ms: int,
        sample_ms: int,
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._inbox = inbox
        self._memory = memory
        self._heartbeats = heartbeats
        self._launchers = launchers
        self._background = background
        self._patience_s = patience_ms / 1_000
        self._sample_ms = sample_ms
        self._ticked_at = clock.now().steady
        self._timer = DueTimer(clock, self._fire)
        self._asked: dict[str, list[Alarm]] = {}  # by launcher that was asked: the limits that wait for its answer

    def begin(self) -> None:
        """Read what came due while no daemon ran."""
        self._timers.pend_at(0, 0)
        self.rearm()

    def watch(self, job: Job, attempt: Attempt, started: int) -> None:
        """A worker runs since `started` (steady)."""
        self._timers.arm(job, attempt, started)
        self._heartbeats.began(job, attempt, started)

    def forget(self, run_ids: Sequence[str]) -> None:
        """Attempts have ended."""
        self._timers.disarm(run_ids)
        self._heartbeats.close(run_ids)

    def schedule(self, due_read: Sequence[DueRead], turn: Turn) -> None:
        """Take over the times for which jobs wait after a turn."""
        for effect in due_read:
            self._timers.pend_at(effect.due.next_steady, effect.due.next_wall)
        for transition in turn.transitions:
            if transition.job.state in (State.WAITING, State.QUEUED):
                self._timers.pend(transition.job, turn.now)
        shortage = self._memory.shortage
        if shortage.lasts and shortage.try_at > turn.now.steady:
            self._timers.pend_at(shortage.try_at, None)
        self.rearm()

    def rearm(self) -> None:
        """Set the timer to what is due next; cheap if that has not changed."""
        now = self._clock.now()
        delay, token_at = self._timers.delay_ms(now), self._memory.rates.next_at
        due_at = None if delay is None else now.steady + delay
        if token_at is not None and token_at > now.steady:  # else a turn is due, which sets this timer again
            due_at = token_at if due_at is None else min(due_at, token_at)
        set_for = self._timer.due_at
        if due_at is None or set_for is None or due_at < set_for:
            self._timer.set(due_at)

    def tick(self) -> None:
        """Notice a gap of time: the daemon was stopped, or the host slept."""
        now = self._clock.now().steady
        if now - self._ticked_at > self._sample_ms + GAP_MS:
            self._heartbeats.restart_silence()
        self._ticked_at = now
        self._timer.check()

    def stop(self) -> None:
        self._timer.stop()

    def _fire(self, late_ms: int) -> None:
        if late_ms > GAP_MS:
            self._heartbeats.restart_silence()
            for client in self._launchers:
                self._ask(client.launcher)
        self._post_due()

    def _ask(self, launcher: str) -> None:
        if launcher not in self._asked:
            self._asked[launcher] = []
            self._background.start(f"limits at launcher {launcher}", self._post_after_answer(launcher))

    async def _post_after_answer(self, launcher: str) -> None:
        """Apply the limits once the launcher has answered, or at once if it is stuck: limits hold in both cases."""
        try:
            client = self._launchers.get(launcher)
            if client is not None and not client.stuck:
                await asyncio.wait([client.list_runs()], timeout=self._patience_s)
            await self._inbox.barrier()
        finally:
            alarms = self._asked.pop(launcher)
        self._post(alarms, self._clock.now())
        self.rearm()

    def _post_due(self) -> None:
        now = self._clock.now()
        ready: list[Alarm] = []
        for alarm in self._timers.take_due(now):
            run = self._memory.by_run(alarm.run_id)
            (ready if run is None else self._asked.get(run.attempt.launcher, ready)).append(alarm)
        self._post(ready, now)
        if self._timers.pending_due(now):
            self._timers.forget_pending()
            self._inbox.post(DueJobs())
        token_at = self._memory.rates.next_at
        if token_at is not None and token_at <= now.steady:
            self._inbox.wake()  # the turn finds out which job may start
        self.rearm()

    def _post(self, due: Sequence[Alarm], now: Now) -> None:
        judged = [self._judge(alarm, now) for alarm in due]
        alarms = [alarm for alarm in judged if alarm is not None]
        if alarms:
            self._inbox.post(Alarms(alarms))

    def _judge(self, alarm: Alarm, now: Now) -> Alarm | None:
        """The alarm to post for a due one; None if it was set again for later."""
        if alarm.limit is Limit.HEARTBEAT:
            return self._heartbeats.judge(alarm, now)
        run = self._memory.by_run(alarm.run_id)
        of_run_time = alarm.limit is Limit.TIMEOUT or (
            alarm.limit is Limit.WARN and run is not None and run.job.spec.deadline is None
        )
        later = alarm.postponed(self._memory.frozen.frozen_ms(alarm.run_id, now.steady)) if of_run_time else None
        if later is None:
            return alarm
        self._timers.set_later(later, later.at)
        return None
