"""Running attempts that have left no checkpoint for too long: they may hang, or forget to save.

An attempt is stale if its newest checkpoint is older than `[workflows] stale_ms`; the start of a step counts as a
checkpoint. A job outside of workflows that never saved is not checked. Stale attempts are only reported. Invariant:
each time that a run becomes stale is logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.engine.memory import LiveState
from stoker.store import checkpoints
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

if TYPE_CHECKING:
    from stoker.core.views import StaleCheckpoint

LONGEST_PAUSE_MS = 60_000
CHECKS = 4  # while the limit passes


class Staleness:
    """Checks now and then; the last result is in `LiveState.stale`, for lists."""

    def __init__(
        self, reader: Reader, memory: LiveState, clock: Clock, background: BackgroundTasks, limit_ms: int
    ) -> None:
        self._reader = reader
        self._memory = memory
        self._clock = clock
        self._background = background
        self.limit_ms = limit_ms
        self._due = 0
        self._logged: dict[str, int] = {}  # runs that were logged, with the time of their newest checkpoint
        self._search: asyncio.Task[None] | None = None

    async def find(self, only: Collection[int] | None = None) -> list[StaleCheckpoint]:
        """Running attempts whose newest checkpoint is older than the limit, oldest first."""
        wall, limit_ms = self._clock.now().wall, self.limit_ms
        runs = [run for run in self._memory.runs.values() if only is None or run.job.id in only]
        newest = await self._reader.run(checkpoints.newest_at, [run.job.id for run in runs])
        stale: list[StaleCheckpoint] = [
            {
                "workflow": run.job.workflow_id,
                "step": run.job.step,
                "job": run.job.id,
                "run_id": run.attempt.run_id,
                "checkpoint_at": newest[run.job.id],
                "age_ms": wall - newest[run.job.id],
            }
            for run in runs
            if run.job.id in newest and wall - newest[run.job.id] > limit_ms
        ]
        return sorted(stale, key=lambda one: one["checkpoint_at"])

    def tick(self) -> None:
        now = self._clock.now().steady
        if now >= self._due and (self._search is None or self._search.done()):
            self._due = now + min(LONGEST_PAUSE_MS, self.limit_ms // CHECKS)
            self._search = self._background.retry("look for stale checkpoints", self._update)

    async def _update(self) -> None:
        stale = await self.find()
        for one in stale:
            run = self._memory.by_run(one["run_id"])
            if run is not None and self._logged.get(one["run_id"]) != one["checkpoint_at"]:
                log(
                    LogEvent.CHECKPOINT_STALE,
                    job=run.job.id,
                    attempt=run.attempt.ordinal,
                    queue=run.job.spec.queue,
                    trace_id=run.job.trace_id,
                    workflow=run.job.workflow_id,
                    step=run.job.step,
                    age_ms=one["age_ms"],
                )
        self._logged = {one["run_id"]: one["checkpoint_at"] for one in stale}
        self._memory.stale = {one["run_id"]: one["age_ms"] for one in stale}
