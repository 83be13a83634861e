"""What the service manager is told, and when: that starting goes on, ready, signs of life, draining, stopping.

Owns the cadence and the words of `systemctl status`. Refuses to say that all is well because a process exists: a sign
of life follows a look at the health. Invariants: a start or a drain that goes on is never timed out, however long it
takes; one look that fails leaves time for another before the manager's patience ends, so that a launcher that hangs and
is replaced does not cost the daemon its life.
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

# A start is as long as a migration of the whole database or a recovery is; the latter has a limit of its own.
EXTEND_EVERY_S = 10.0
EXTEND_BY_MS = 30_000
SHUTDOWN_MARGIN_MS = 15_000
# A look that fails, as long as the pause between two, leaves the time of another pause and another look.
LOOKS_IN_PATIENCE = 4


class Watchdog:
    """Speaks for one life of the daemon."""

    def __init__(self, notifier: Notifier, background: BackgroundTasks) -> None:
        self._notifier = notifier
        self._background = background
        self._describe: Callable[[], str] = str
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def starting(self, stage: str) -> None:
        """As long as the loop turns, the start goes on."""
        self._notifier.status(stage)
        if self._task is None:
            self._go_on_with(self._ask_for_time())

    def ready(self, health: Health, describe: Callable[[], str]) -> None:
        """`describe` gives the words for `systemctl status`."""
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
        """Said once; said again it is no news."""
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
        """A sign of life after each look at which everything answered; the log tells when that changes."""
        if self._notifier.watchdog_ms is None:
            return
        interval_s = self._notifier.watchdog_ms / 1_000 / LOOKS_IN_PATIENCE
        well = True
        while True:
            found = await health.look(min(PATIENCE_S, interval_s))
            if found["ok"]:
                self._notifier.watchdog(self._describe())
            if found["ok"] is not well:
                well = found["ok"]
                log(LogEvent.DAEMON_WELL if well else LogEvent.DAEMON_UNWELL, checks=found["checks"])
            await asyncio.sleep(interval_s)
