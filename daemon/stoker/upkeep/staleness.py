"""Running attempts that have left no checkpoint for too long: they may hang, or forget to save.

An attempt is stale if its newest checkpoint is older than `[workflows] stale_ms`; the start of a step counts as a
checkpoint. A job outside of workflows that never saved is not checked. Stale attempts are only reported: to clients
that ask, and in the log when they become stale. Invariant: each of these times is logged once.
"""

from __future__ import annotations

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

SEARCH = "search for stale checkpoints"  # the name of the task
LONGEST_PAUSE_MS = 60_000  # between checks for the log: the wall clock may jump


class Staleness:
    """Finds stale attempts for clients, and logs each as it becomes stale."""

    def __init__(
        self, reader: Reader, memory: LiveState, clock: Clock, background: BackgroundTasks, limit_ms: int
    ) -> None:
        self._reader = reader
        self._memory = memory
        self._clock = clock
        self._background = background
        self._limit_ms = limit_ms
        self._due = 0
        self._logged: dict[str, int] = {}  # runs that were logged, with the time of their newest checkpoint

    def use(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._due = 0

    async def find(self, only: Collection[int] | None = None) -> list[StaleCheckpoint]:
        """Running attempts whose newest checkpoint is older than the limit, oldest first."""
        return [one for one in await self._by_age(only) if one["age_ms"] > self._limit_ms]

    async def ages(self, job_ids: Collection[int]) -> dict[int, int]:
        """The age in ms of the newest checkpoint of each of these jobs that runs and is stale."""
        return {one["job"]: one["age_ms"] for one in await self.find(job_ids)}

    async def _by_age(self, only: Collection[int] | None = None) -> list[StaleCheckpoint]:
        """Running attempts with the age of their newest checkpoint, oldest first."""
        runs = [run for run in self._memory.runs.values() if only is None or run.job.id in only]
        if not runs:
            return []
        newest = await self._reader.run(checkpoints.newest_at, [run.job.id for run in runs])
        wall = self._clock.now().wall
        ages: list[StaleCheckpoint] = [
            {
                "workflow": run.job.workflow_id,
                "step": run.job.step,
                "job": run.job.id,
                "run_id": run.attempt.run_id,
                "checkpoint_at": newest[run.job.id],
                "age_ms": wall - newest[run.job.id],
            }
            for run in runs
            if run.job.id in newest
        ]
        return sorted(ages, key=lambda one: one["checkpoint_at"])

    def tick(self) -> None:
        now = self._clock.now().steady
        if now >= self._due and not self._background.is_running(SEARCH):
            self._due = now + LONGEST_PAUSE_MS
            self._background.retry(SEARCH, self._check)

    async def _check(self) -> None:
        """Log the attempts that have become stale, and set the time of the next check."""
        limit_ms = self._limit_ms
        ages = await self._by_age()
        left_ms = [limit_ms - one["age_ms"] for one in ages if one["age_ms"] <= limit_ms]
        # A checkpoint that is saved later becomes stale after the whole limit.
        self._due = min(self._due, self._clock.now().steady + min([limit_ms, *left_ms]) + 1)
        stale = [one for one in ages if one["age_ms"] > limit_ms]
        for one in stale:
            if self._logged.get(one["run_id"]) != one["checkpoint_at"]:
                self._log(one)
        self._logged = {one["run_id"]: one["checkpoint_at"] for one in stale}

    def _log(self, one: StaleCheckpoint) -> None:
        run = self._memory.by_run(one["run_id"])
        if run is not None:
            log(
                LogEvent.CHECKPOINT_STALE,
                **run.log_fields,
                workflow=run.job.workflow_id,
                step=run.job.step,
                age_ms=one["age_ms"],
            )
