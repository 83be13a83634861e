"""The drain: the daemon starts no more jobs, gives running ones time to end, and stops those that are left.

Jobs with `survive` go on, unless a person asks to stop them or the host shuts down: systemd would kill them then, so
the daemon stops them with their own grace. Invariant: every stop is committed like any other stop, so a daemon that
dies during a drain recovers as usual.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import Draining
from stoker.core.job import events as ev
from stoker.core.job.model import State, StopReason
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.inbox import Inbox, RequestMessage
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.turn import Turn
from stoker.host import shutdown
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.safe_mode import SafeModeSwitch
from stoker.upkeep.watchdog import Watchdog

# A worker in an uninterruptible sleep outlives SIGKILL: the drain leaves it to the next start instead of waiting.
AFTER_KILL_S = 10.0


class StopRuns(RequestMessage[None]):
    def __init__(self, chosen: Callable[[OpenRun], bool]) -> None:
        super().__init__()
        self._chosen = chosen

    def apply_to(self, turn: Turn) -> None:
        for run in list(turn.memory.runs.values()):
            if run.job.state is State.RUNNING and self._chosen(run):
                turn.step(run.job.id, ev.StopWanted(reason=StopReason.SHUTDOWN))
        self.answer_after(turn, None)


class Drain:
    """Runs once. After a second request it no longer waits for jobs to end by themselves."""

    def __init__(
        self,
        memory: LiveState,
        inbox: Inbox,
        intake: Intake,
        dispatcher: Dispatcher,
        subscriptions: Subscriptions,
        safe_mode: SafeModeSwitch,
        background: BackgroundTasks,
        *,
        timeout_ms: int,
        watchdog: Watchdog,
    ) -> None:
        self._memory = memory
        self._inbox = inbox
        self._intake = intake
        self._dispatcher = dispatcher
        self._subscriptions = subscriptions
        self._safe_mode = safe_mode
        self._background = background
        self._timeout_s = timeout_ms / 1_000
        self._watchdog = watchdog
        self._hurry = asyncio.Event()
        self._stop_survivors = False
        self._task: asyncio.Task[None] | None = None
        self.done = asyncio.Event()

    def begin(self, *, stop_survivors: bool = False) -> None:
        """Start to drain. A second call stops the running jobs at once."""
        self._stop_survivors = self._stop_survivors or stop_survivors
        if self._task is not None:
            self._hurry.set()
            return
        log(LogEvent.DAEMON_DRAINING, running=len(self._memory.runs))
        self._memory.draining = True
        self._dispatcher.close("draining")
        self._intake.closed = Draining("the daemon is draining and takes no jobs", hint="try again when it is back")
        self._task = self._background.start("drain", self._drain())

    def _leaving(self, run: OpenRun) -> bool:
        """Whether a run has to end before the daemon does; in safe mode everything is left as it is."""
        return (
            self._safe_mode.state is None
            and run.job.state is State.RUNNING
            and (self._stop_survivors or not run.job.spec.outlives_daemon)
        )

    @property
    def waits_for(self) -> int:
        return len(self._left())

    def _left(self) -> list[OpenRun]:
        return [run for run in self._memory.runs.values() if self._leaving(run)]

    async def _drain(self) -> None:
        if any(run.job.spec.survive for run in self._memory.runs.values()) and not self._stop_survivors:
            self._stop_survivors |= await asyncio.to_thread(shutdown.is_under_way)
        await self._until_empty(self._timeout_s)
        if self._left():
            with contextlib.suppress(TimeoutError):  # the disk is full: launchers keep the running attempts
                await asyncio.wait_for(self._inbox.ask_first(StopRuns(self._leaving)), AFTER_KILL_S)
            grace_ms = max((run.job.spec.grace_ms for run in self._left()), default=0)
            self._hurry.clear()
            await self._until_empty(grace_ms / 1_000 + AFTER_KILL_S)
        self.done.set()

    async def _until_empty(self, timeout_s: float) -> None:
        """Wait until no run is left, the time is over, or a second drain is asked for."""
        hurry = asyncio.ensure_future(self._hurry.wait())
        end = asyncio.get_running_loop().time() + timeout_s
        try:
            while self._left() and not hurry.done():
                wait_s = end - asyncio.get_running_loop().time()
                if wait_s <= 0:
                    return
                self._watchdog.draining(len(self._left()), round(wait_s * 1_000))
                news = asyncio.ensure_future(self._subscriptions.news())
                await asyncio.wait({news, hurry}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            hurry.cancel()
