"""Stops of runs on a cluster, warnings to them, and jobs that the engine is to forget.

Owns the wishes that the engine has not heard yet: they are tried again while it is away. A run that no node has claimed
ends by our own claim, whether the engine answers or not; its job there is removed once the engine answers.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any

from stoker.cluster.engine import ClusterEngine, EngineAway, EngineRefused, name_of
from stoker.cluster.shared_directory import SharedDirectory
from stoker.core.clock import boot_ms, wall_ms
from stoker.core.cluster import LISTED_LATE_MS, EngineJob, Phase, end_before_start
from stoker.core.job.model import Outcome
from stoker.executors.cluster_run import ClusterRun
from stoker.executors.cluster_watch import ClusterWatch

AGAIN_S = 5.0
KILL_AFTER_MS = 45_000  # after the grace: a node may be slow
REMOVED_AT_ONCE = 200  # jobs that wait, with a command each: a second or two


class ClusterStops:
    """`in_thread` calls a function in a thread. `begin` notes that a node has a run, `end` reports an end, and
    `delivered` that the engine has the wish of a stop.
    """

    def __init__(
        self,
        shared: SharedDirectory,
        engine: ClusterEngine,
        watch: ClusterWatch,
        in_thread: Callable[..., Awaitable[Any]],
        begin: Callable[[ClusterRun], Awaitable[None]],
        end: Callable[[ClusterRun, Outcome], None],
        delivered: Callable[[str], None],
    ) -> None:
        self._shared = shared
        self._engine = engine
        self._watch = watch
        self._in_thread = in_thread
        self._begin = begin
        self._end = end
        self._delivered = delivered
        self._unwanted: dict[str, int] = {}  # revoked runs whose jobs the engine may have, and since when (steady ms)

    @property
    def waits(self) -> bool:
        """Whether the engine is still to forget a job."""
        return bool(self._unwanted)

    async def stop(self, run: ClusterRun) -> None:
        """Revoke the run, or have its node stop it. Raises OSError."""
        while not run.ends:
            if await self._in_thread(self._shared.revoke, run.run_id):
                self.forget(run.run_id)
                if not run.ends:
                    self._end(run, end_before_start(run.listed, wall_ms(), stopped=True))
                if run.number is not None:
                    await self.cancel({run.number: run.run_id})
                return
            if run.claim is None:
                await self._begin(run)
            if run.number is not None and await self._terminate(run, run.number):
                return
            await asyncio.sleep(AGAIN_S)  # polls: an engine that is away does not tell when it is back

    async def _terminate(self, run: ClusterRun, number: int) -> bool:
        """Whether the engine has the wish; False while it is away."""
        grace_ms = run.grace_ms or 0
        await self._in_thread(self._shared.put_stop, run.run_id, grace_ms)
        try:
            await self._in_thread(self._engine.signal, number, name_of(run.run_id), signal.SIGTERM)
        except EngineAway as error:
            self._watch.note_away(str(error))
            return False
        except EngineRefused:  # it has just ended: the record tells
            return True
        run.stop_sent = True
        run.kill_at = boot_ms() + grace_ms + KILL_AFTER_MS
        self._delivered(run.run_id)
        return True

    async def kill_late(self, run: ClusterRun) -> None:
        """Have the engine kill a run whose node has not stopped it in time."""
        if run.kill_at is not None and boot_ms() >= run.kill_at and run.number is not None:
            run.kill_at = boot_ms() + KILL_AFTER_MS
            await self.cancel({run.number: run.run_id})

    async def warn(self, run: ClusterRun, signum: int) -> None:
        """Have the node send a signal to the main process of a run. Raises OSError."""
        while not (run.ends or run.stop_sent or run.number is None):
            await self._in_thread(self._shared.put_warning, run.run_id, signum)
            try:
                await self._in_thread(self._engine.signal, run.number, name_of(run.run_id), signal.SIGUSR1)
            except EngineAway as error:
                self._watch.note_away(str(error))
            except EngineRefused:  # it has just ended
                return
            else:
                return
            await asyncio.sleep(AGAIN_S)  # polls, as in `stop`

    async def cancel(self, runs: Mapping[int, str]) -> None:
        """Have the engine remove or kill the jobs of these runs, by number, if it answers now."""
        try:
            await self._in_thread(self._engine.cancel, {number: name_of(run_id) for number, run_id in runs.items()})
        except EngineAway as error:
            self._watch.note_away(str(error))
        except EngineRefused:  # they are over
            return

    def forget(self, run_id: str) -> None:
        """The engine may have, or get, the job of a run that has ended: one that our claim has revoked, or one that the
        engine, or a person there, will run again.
        """
        self._unwanted[run_id] = boot_ms()

    async def cancel_unwanted(self, jobs: Mapping[str, EngineJob]) -> list[str]:
        """Remove those jobs that wait in the engine. Returns the runs whose jobs are over, or are not listed any more:
        nothing of them can start.
        """
        now = boot_ms()
        there = (jobs[name] for name in self._unwanted if name in jobs)
        waiting = {job.id: job.run_id for job in there if job.phase is Phase.WAITS}
        if waiting:
            await self.cancel(dict(islice(waiting.items(), REMOVED_AT_ONCE)))
        over = [
            name
            for name, since in self._unwanted.items()
            if (name in jobs or now - since >= LISTED_LATE_MS) and (name not in jobs or jobs[name].phase is Phase.OVER)
        ]
        for name in over:
            del self._unwanted[name]
        return over
