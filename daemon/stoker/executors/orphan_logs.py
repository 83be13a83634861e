"""Logs of runs whose launcher died: the newest launcher reads their output from then on.

Owns the list of these runs, and asks every new launcher again. Waits are short: without a launcher the output stays in
the workers' pipes, and a stop must not wait for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from stoker.executors.launcher_pool import LauncherPool
from stoker.process.attempt_logs import log_of
from stoker.process.messages import OrphanLog

CATCH_UP_S = 2.0


class OrphanLogs:
    """Call `ask` whenever there is a new launcher."""

    def __init__(self, state_dir: Path, launchers: LauncherPool) -> None:
        self._state_dir = state_dir
        self._launchers = launchers
        self._logs: dict[str, OrphanLog] = {}
        self._unasked: set[str] = set()
        self._asked = asyncio.Event()

    def add(self, run_id: str, max_log_bytes: int) -> None:
        log = str(log_of(self._state_dir, run_id))
        self._logs[run_id] = OrphanLog(run_id=run_id, log=log, max_log_bytes=max_log_bytes)
        if not self._unasked:  # one search of /proc finds the pipes of all that are added in this turn
            asyncio.get_running_loop().call_soon(self.ask)
        self._unasked.add(run_id)

    def discard(self, run_id: str) -> None:
        self._logs.pop(run_id, None)
        self._unasked.discard(run_id)

    def ask(self) -> None:
        """Ask the newest launcher to read all of them; a log that it reads already is not affected."""
        newest = self._launchers.newest
        if newest is not None and self._logs:
            newest.read_logs(self._logs.values())
            self._unasked.clear()
            self._asked.set()
            self._asked = asyncio.Event()

    async def caught_up(self, run_id: str) -> None:
        """Return when all that the run has written is in its log, or no launcher could read it in time."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CATCH_UP_S):
                while run_id in self._unasked:
                    await self._asked.wait()
                if self._launchers.newest is not None:
                    await self._launchers.newest.list_runs()
