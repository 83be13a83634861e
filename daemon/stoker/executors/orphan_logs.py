"""Logs of runs whose launcher died: the newest launcher reads on what they write.

Owns which runs that is for, and that every new launcher is asked again. No wait in here is long: where no launcher can
be had, the workers' bytes wait in their pipes, and a stop goes on all the same.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from stoker.executors.launcher_pool import LauncherPool
from stoker.process.capture import log_of
from stoker.process.messages import OrphanLog

PATIENCE_S = 2.0


class OrphanLogs:
    """`ask` is to be called whenever there is a new launcher."""

    def __init__(self, state_dir: Path, launchers: LauncherPool) -> None:
        self._state_dir = state_dir
        self._launchers = launchers
        self._logs: dict[str, OrphanLog] = {}
        self._unasked: set[str] = set()
        self._asked = asyncio.Event()

    def add(self, run_id: str, max_log_bytes: int) -> None:
        log = str(log_of(self._state_dir, run_id))
        self._logs[run_id] = OrphanLog(run_id=run_id, log=log, max_log_bytes=max_log_bytes)
        if not self._unasked:  # one look at /proc finds the pipes of all that are added now
            asyncio.get_running_loop().call_soon(self.ask)
        self._unasked.add(run_id)

    def discard(self, run_id: str) -> None:
        self._logs.pop(run_id, None)
        self._unasked.discard(run_id)

    def ask(self) -> None:
        """Ask the newest launcher for all of them; one that reads a log already goes on."""
        newest = self._launchers.newest
        if newest is not None and self._logs:
            newest.read_logs(self._logs.values())
            self._unasked.clear()
            self._asked.set()
            self._asked = asyncio.Event()

    async def caught_up(self, run_id: str) -> None:
        """Return when what it wrote before is in its log, or nobody could be had to read it."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while run_id in self._unasked:
                    await self._asked.wait()
                if self._launchers.newest is not None:
                    await self._launchers.newest.list_runs()
