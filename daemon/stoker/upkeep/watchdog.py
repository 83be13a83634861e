"""Notices to the service manager: starting, ready, signs of life, draining, stopping.

Owns their cadence and the text in `systemctl status`. A sign of life is sent only after a successful health check.
Invariants: a start or a drain that makes progress is never timed out; after one failed check there is time for another
before the manager kills the daemon, so that a launcher which hangs can be replaced meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from stoker.background.tasks import BackgroundTasks
from stoker.sdnotify import Notifier
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.health import PATIENCE_S, Health

# A start may take long: it includes a migration of the whole database, and a recovery with its own limit.
EXTEND_EVERY_S = 10.0
EXTEND_BY_MS = 30_000
SHUTDOWN_MARGIN_MS = 15_000
# A check may take as long as the pause before it, so two pauses and two checks fit into the watchdog's interval.
CHECKS_IN_INTERVAL = 4


class Watchdog:
    def __init__(self, notifier: Notifier, background: BackgroundTasks) -> None:
        self._notifier = notifier
        self._background = background
        self._describe: Callable[[], str] = str
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def starting(self, stage: str) -> None:
        """Ask for more time while the event loop runs."""
        self._notifier.status(stage)
        if self._task is None:
            self._go_on_with(self._ask_for_time())

    def ready(self, health: Health, describe: Callable[[], str]) -> None:
        """`describe` gives the text for `systemctl status`."""
        self._describe = describe
        self._notifier.ready(describe())
        self._go_on_with(self._beat(health))

    def draining(self, left: int, wait_ms: int) -> None:
        """`left` jobs have `wait_ms` from now to end."""
        self._describe = lambda: f"draining: {left} running"
        self.stopping()
        self._notifier.extend_timeout(wait_ms + SHUTDOWN_MARGIN_MS)
        self._notifier.status(self._describe())

    def stopping(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _go_on_with(self, work: Coroutine[Any, Any, None]) -> None:
        self.close()
        self._task = self._background.start("signs of life", work)

    async def _ask_for_time(self) -> None:
        while self._notifier.listened_to:
            self._notifier.extend_timeout(EXTEND_BY_MS)
            await asyncio.sleep(EXTEND_EVERY_S)

    async def _beat(self, health: Health) -> None:
        """A sign of life after each successful check; changes between success and failure are logged."""
        if self._notifier.watchdog_ms is None:
            return
        interval_s = self._notifier.watchdog_ms / 1_000 / CHECKS_IN_INTERVAL
        well = True
        while True:
            result = await health.check(min(PATIENCE_S, interval_s))
            if result["ok"]:
                self._notifier.watchdog(self._describe())
            if result["ok"] is not well:
                well = result["ok"]
                log(LogEvent.DAEMON_WELL if well else LogEvent.DAEMON_UNWELL, checks=result["checks"])
            await asyncio.sleep(interval_s)
