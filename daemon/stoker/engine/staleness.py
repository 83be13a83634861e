"""Attempts that run and have left no checkpoint for long: they may hang, or forget to save.

Owns what counts as stale: the newest checkpoint that tells of the job is older than `[workflows] stale_ms`. The start
of a step is one. Refuses to act: it is reported, and a person looks. A plain job that never saved promised nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stoker.engine.book import Book
from stoker.store import checkpoints
from stoker.store.reader import Reader


async def stale(
    reader: Reader, book: Book, wall: int, limit_ms: int, only: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Running attempts whose newest checkpoint is older than `limit_ms` at `wall` (UTC ms), oldest first."""
    runs = [run for run in book.runs.values() if only is None or run.job.id in only]
    newest = await reader.run(checkpoints.newest_at, [run.job.id for run in runs])
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
