"""The leftovers of a purge: rows, changes, log directories, checkpoints, keys, archives, free pages of the file.

No row refers to them any more, so they are removed in small pieces, outside of turns. Invariant: after a crash the next
pass continues, because the leftovers are listed in the database or found by their age.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stoker.engine.memory import LiveState
from stoker.executors.launcher_pool import LauncherPool
from stoker.ops import archive
from stoker.process.log_directories import IN_ONE_BUCKET, bucket_of, remove_bucket, remove_logs_of_all
from stoker.process.run_roots import RunRoots
from stoker.store import old_changes
from stoker.store import retention as rows
from stoker.store.reader import Reader
from stoker.store.retention import Swept
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.pace import Pace

DIRECTORIES = 500  # of jobs, in one piece
PIECE_S = 0.2  # limit of a piece
SHRUNK_PAGES = 96  # in one piece that ends early when a commit waits


class Leftovers:
    """Call the sweeps in any order and as often as you like."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        memory: LiveState,
        roots: RunRoots,
        launchers: LauncherPool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._memory = memory
        self._roots, self._state_dir = roots, roots.state_dir
        self._launchers = launchers
        self._last_tried = 0  # the job whose logs were tried last: an interrupted sweep continues with the next one

    async def sweep(self, pace: Pace) -> bool:
        """Remove all of purged jobs and shrink the file. False if `pace` ran out before the end."""
        is_done = (
            await self.sweep_rows(pace)
            and await self.sweep_changes(pace)
            and await self._sweep_logs(pace)
            and await self._repeat(pace, rows.sweep_checkpoints)
            and await self._repeat(pace, rows.shrink, SHRUNK_PAGES, self._commit_waits)
        )
        await self._writer.sync_sweeps()
        return is_done

    async def sweep_rows(self, pace: Pace) -> bool:
        """Remove the rows of purged jobs. False if `pace` ran out before the end."""
        return await self._repeat(pace, rows.sweep_rows, self._commit_waits)

    async def sweep_changes(self, pace: Pace) -> bool:
        """Delete the changes that were given up. False if `pace` ran out before the end."""
        return await self._repeat(pace, old_changes.sweep, self._commit_waits)

    def _commit_waits(self) -> bool:
        return self._writer.awaited

    async def _repeat(self, pace: Pace, piece: Callable[..., Swept], *args: object) -> bool:
        while not pace.is_over:
            async with pace.piece():
                if not await self._writer.sweep(piece, *args):
                    return True
        return False

    async def forget_keys(self, pace: Pace, purged_before: int) -> None:
        """Delete the idempotency keys of jobs that were purged before that time."""
        await self._repeat(pace, rows.forget_keys, purged_before)

    async def forget_events(self, pace: Pace, now: int) -> None:
        """Delete the named events that never reached a job and can reach no further one."""
        await self._repeat(pace, rows.forget_events, now)

    async def forget_recoveries(self, pace: Pace) -> None:
        """Delete the records of all but the newest starts."""
        await self._repeat(pace, rows.forget_recoveries)

    async def _sweep_logs(self, pace: Pace) -> bool:
        failed: OSError | None = None
        buckets: set[int] = set()
        if await self._reader.run(rows.listed_logs, 0, 1):
            # A launcher that takes over the output of a job makes its log directory, perhaps after the job was purged.
            await self._launchers.caught_up()
        while not pace.is_over:
            async with pace.piece():
                ids = await self._reader.run(rows.listed_logs, self._last_tried, DIRECTORIES)
                if not ids:  # all were tried
                    self._last_tried = 0
                    break
                removed = await asyncio.to_thread(remove_logs_of_all, list(self._roots), ids, PIECE_S)
                if removed.ids:
                    await self._writer.sweep(rows.unlist_logs, removed.ids)
                self._last_tried = removed.last
                buckets.update(map(bucket_of, removed.ids))
                failed = failed or removed.error
        if failed is not None:
            log(LogEvent.RETENTION_FAILED, path=str(self._state_dir / "logs"), error=failed)
        for bucket in buckets:
            await self._remove_bucket(bucket)
        return not pace.is_over

    async def _remove_bucket(self, bucket: int) -> None:
        """Remove it only once all of its jobs are gone: until then a launcher may make a directory in it."""
        first, last = bucket * IN_ONE_BUCKET, (bucket + 1) * IN_ONE_BUCKET - 1
        if last < self._memory.last_id and not await self._reader.run(rows.has_jobs_between, first, last):
            for root in self._roots:
                await asyncio.to_thread(remove_bucket, root / "logs", bucket)

    async def remove_archives(self, before: int) -> int:
        """Remove the archives of ends before that time, if the workflow is gone or has ended again since."""
        archives = [one for one in await asyncio.to_thread(archive.listed, self._state_dir) if one.finished_at < before]
        ends = await self._reader.run(rows.workflows_ended_at, {one.workflow for one in archives})
        old = [one for one in archives if ends.get(one.workflow) != one.finished_at]
        for one in old:
            await asyncio.to_thread(one.path.unlink, missing_ok=True)
        return len(old)
