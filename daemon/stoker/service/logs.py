"""The log of an attempt as a stream for clients.

Owns which attempt is followed, and the end of the stream: with its attempt, or with a job that starts no further
attempt.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncGenerator
from typing import NamedTuple

from stoker.core.errors import AttemptNotFound, LogUnreadable
from stoker.core.job.model import Job, State
from stoker.process.attempt_logs import Chunk, tail_offset
from stoker.process.attempt_logs import follow as follow_log
from stoker.service.engine import Engine
from stoker.service.views import job_now
from stoker.store import attempts

PULL_S = 1.0


class LogStart(NamedTuple):
    """Where reading begins: at an offset, or with the last lines, at most the last `tail_bytes` of them."""

    offset: int | None
    tail_lines: int | None
    tail_bytes: int | None


class LogFeed(NamedTuple):
    """The log of one attempt; the generator ends with the log."""

    attempt: int
    chunks: AsyncGenerator[Chunk, None]


async def log_feed(engine: Engine, job: Job, ordinal: int | None, start: LogStart, *, follow: bool) -> LogFeed:
    """The log of one attempt, by default the newest. With `follow` also that of the next attempt, before it begins.

    Raises AttemptNotFound.
    """
    wanted = max(job.attempts, int(follow)) if ordinal is None else ordinal
    if wanted > job.attempts + int(follow) or wanted == 0:
        problem = f"has no attempt {wanted}; its newest is {job.attempts}" if job.attempts else "has not started yet"
        raise AttemptNotFound(f"job {job.id} {problem}", hint=f"stoker why {job.id}", id=job.id)
    return LogFeed(wanted, _chunks(engine, job, wanted, start, follow=follow))


async def _chunks(
    engine: Engine, job: Job, ordinal: int, start: LogStart, *, follow: bool
) -> AsyncGenerator[Chunk, None]:
    closed = asyncio.Event()
    watcher = asyncio.ensure_future(_close_when_over(engine, job.id, ordinal, closed)) if follow else None
    puller: asyncio.Future[None] | None = None
    path = engine.context.roots.log_path(job.owner_uid, job.id, ordinal)
    loop = asyncio.get_running_loop()
    try:
        await _pull(engine, job.id, ordinal)
        puller = asyncio.ensure_future(_keep_pulling(engine, job.id, ordinal)) if follow else None
        if watcher is None:
            closed.set()
        offset = start.offset or 0
        if start.tail_lines is not None or start.tail_bytes is not None:
            offset = await loop.run_in_executor(
                engine.log_threads, tail_offset, path, start.tail_lines, start.tail_bytes
            )
        async for chunk in follow_log(path, offset=offset, closed=closed, threads=engine.log_threads):
            yield chunk
        if watcher is not None:
            await watcher  # raises the error that ended the watcher
        if not await loop.run_in_executor(engine.log_threads, os.path.lexists, path):
            await _refuse_lost_log(engine, job, ordinal)
    except OSError as error:
        raise LogUnreadable(
            f"the log of job {job.id}, attempt {ordinal}, cannot be read: {error.strerror}",
            hint=f"ls -l {shlex.quote(str(path))}",
        ) from error
    finally:
        for task in (watcher, puller):
            if task is not None:
                task.cancel()


async def _pull(engine: Engine, job_id: int, ordinal: int) -> None:
    """Bring the log of a run on a cluster up to date. Raises OSError."""
    run = engine.memory.runs.get(job_id)
    if engine.cluster is not None and run is not None and run.attempt.ordinal == ordinal:
        await engine.cluster.pull_log(run.attempt.run_id)


async def _keep_pulling(engine: Engine, job_id: int, ordinal: int) -> None:
    while engine.cluster is not None:
        await asyncio.sleep(PULL_S)  # polls: no file system tells of the changes of another host
        await _pull(engine, job_id, ordinal)


async def _refuse_lost_log(engine: Engine, job: Job, ordinal: int) -> None:
    """Raises LogUnreadable if the log of an attempt that wrote one is missing. Without output there is no log."""
    newest = await engine.queries.run(attempts.page, job.id, ordinal + 1, 1)
    outcome = newest[0].outcome if newest and newest[0].ordinal == ordinal else None
    if outcome is not None and outcome.log_bytes:
        raise LogUnreadable(
            f"the log of job {job.id}, attempt {ordinal}, is gone: {outcome.log_bytes} bytes were written to it",
            hint=f"ls -l {shlex.quote(str(engine.context.roots.log_path(job.owner_uid, job.id, ordinal).parent))}",
        )


async def _close_when_over(engine: Engine, job_id: int, ordinal: int, closed: asyncio.Event) -> None:
    """Set `closed` when that attempt has ended or will never begin, and also when the watch itself fails."""
    feed = engine.subscriptions.watch(engine.subscriptions.seq, job_id)
    try:
        if not _over(engine, await job_now(engine, job_id), ordinal):
            async for _ in feed.changes:
                if _over(engine, await job_now(engine, job_id), ordinal):
                    break
    finally:
        closed.set()


def _over(engine: Engine, job: Job, ordinal: int) -> bool:
    run = engine.memory.runs.get(job.id)
    open_ordinal = run.attempt.ordinal if run is not None else None
    started = job.attempts >= ordinal
    return (started and open_ordinal != ordinal) or (not started and (job.final or job.state is State.HELD))
