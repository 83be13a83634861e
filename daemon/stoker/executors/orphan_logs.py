"""Logs of runs whose launcher died: the newest launcher reads their output from then on.

Owns the list of these runs, and asks every new launcher again. Waits are short: without a launcher the output stays in
the workers' pipes, and a stop must not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stoker.core.job.run_id import RunId
from stoker.process.client import LauncherClient
from stoker.process.messages import OrphanLog
from stoker.process.run_roots import RunRoots

CATCH_UP_S = 2.0


class OrphanLogs:
    """Call `ask` whenever there is a new launcher.

    `reader_of` gives the launcher that may read the logs of a user (None: our own), if there is one.
    """

    def __init__(self, roots: RunRoots, reader_of: Callable[[int | None], LauncherClient | None]) -> None:
        self._roots = roots
        self._reader_of = reader_of
        self._logs: dict[str, OrphanLog] = {}
        self._unasked: set[str] = set()
        self._asked = asyncio.Event()

    def add(self, run_id: str, max_log_bytes: int) -> None:
        log = str(self._roots.log_of(run_id))
        self._logs[run_id] = OrphanLog(run_id=run_id, log=log, max_log_bytes=max_log_bytes)
        if not self._unasked:  # one search of /proc finds the pipes of all that are added in this turn
            asyncio.get_running_loop().call_soon(self.ask)
        self._unasked.add(run_id)

    def discard(self, run_id: str) -> None:
        self._logs.pop(run_id, None)
        self._unasked.discard(run_id)

    def ask(self) -> None:
        """Ask the newest launcher of each user to read its logs; one that it reads already is not affected."""
        of_users: dict[int | None, list[OrphanLog]] = {}
        for run_id, orphan_log in self._logs.items():
            of_users.setdefault(RunId.parse(run_id).uid, []).append(orphan_log)
        for uid, logs in of_users.items():
            reader = self._reader_of(uid)
            if reader is not None:
                reader.read_logs(logs)
                self._unasked.difference_update(one.run_id for one in logs)
        if of_users:
            self._asked.set()
            self._asked = asyncio.Event()

    async def caught_up(self, run_id: str) -> None:
        """Return when all that the run has written is in its log, or no launcher could read it in time."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CATCH_UP_S):
                while run_id in self._unasked:
                    await self._asked.wait()
                reader = self._reader_of(RunId.parse(run_id).uid)
                if reader is not None:
                    await reader.list_runs()
