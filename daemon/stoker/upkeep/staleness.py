"""Attempts that run and have left no checkpoint for long: they may hang, or forget to save.

Owns what counts as stale, and the look for it: the newest checkpoint that tells of the job is older than `[workflows]
stale_ms`. The start of a step is one. Refuses to act: it is reported, and a person looks. A plain job that never saved
promised nothing. Invariant: each time that a run becomes stale is logged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.engine.memory import LiveState
from stoker.store import checkpoints
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

LONGEST_PAUSE_MS = 60_000
LOOKS = 4  # while the limit passes


class Staleness:
    """Looks now and then; what it found last is in `LiveState.stale`, for lists."""

    def __init__(
        self, reader: Reader, memory: LiveState, clock: Clock, background: BackgroundTasks, limit_ms: int
    ) -> None:
        self._reader = reader
        self._memory = memory
        self._clock = clock
        self._background = background
        self.limit_ms = limit_ms
        self._due = 0
        self._told: dict[str, int] = {}  # of runs that were logged: the checkpoint since which they are stale
        self._looking: asyncio.Task[None] | None = None

    async def find(self, only: Collection[int] | None = None) -> list[dict[str, Any]]:
        """Running attempts whose newest checkpoint is older than the limit, oldest first."""
        wall, limit_ms = self._clock.now().wall, self.limit_ms
        runs = [run for run in self._memory.runs.values() if only is None or run.job.id in only]
        newest = await self._reader.run(checkpoints.newest_at, [run.job.id for run in runs])
        found = [
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
        return sorted(found, key=lambda one: one["checkpoint_at"])

    def tick(self) -> None:
        """Called once a sample; looks when it is time."""
        now = self._clock.now().steady
        if now >= self._due and (self._looking is None or self._looking.done()):
            self._due = now + min(LONGEST_PAUSE_MS, self.limit_ms // LOOKS)
            self._looking = self._background.retry("look for stale checkpoints", self._look)

    async def _look(self) -> None:
        found = await self.find()
        for one in found:
            run = self._memory.by_run(one["run_id"])
            if run is not None and self._told.get(one["run_id"]) != one["checkpoint_at"]:
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
        self._told = {one["run_id"]: one["checkpoint_at"] for one in found}
        self._memory.stale = {one["run_id"]: one["age_ms"] for one in found}
