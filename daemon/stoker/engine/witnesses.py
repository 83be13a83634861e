"""What launchers saw: which of them runs an attempt, and hearing one out before anything is judged.

Owns the bound of that wait: a launcher that answers nothing is not waited for, as its attempts' limits hold all the
same. Refuses to judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from stoker.engine.loop import Loop
from stoker.engine.memory import LiveState
from stoker.executors.launcher_pool import LauncherPool


class LauncherWitnesses:
    """The launchers that are connected."""

    def __init__(self, memory: LiveState, launchers: LauncherPool, loop: Loop, patience_ms: int) -> None:
        self._memory = memory
        self._launchers = launchers
        self._loop = loop
        self._patience_s = patience_ms / 1_000

    def connected(self) -> Iterable[str]:
        """Their ids."""
        return [client.launcher for client in self._launchers]

    def of_run(self, run_id: str) -> str | None:
        """Who runs it; None where it has ended."""
        run = self._memory.by_run(run_id)
        return None if run is None else run.attempt.launcher

    async def hear_out(self, launcher: str) -> None:
        """Return when all that it had to say is decided. One that is stuck, or becomes so now, has nothing to say."""
        client = self._launchers.get(launcher)
        if client is not None and not client.stuck:
            await asyncio.wait([client.list_runs()], timeout=self._patience_s)
        await self._loop.barrier()
