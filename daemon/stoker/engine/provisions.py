"""What an attempt is given beside its spec: the outputs of its needs and its newest checkpoint, read after its commit.

Owns the way of such starts from the commit to their executor. Refuses to hold back any other: most jobs need nothing
and start at once. Invariants: a start that was stopped or settled meanwhile is not made; a damaged checkpoint is
passed over with a warning, and the one before it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from stoker.core.checkpoint import Checkpoint, opened
from stoker.core.clock import wall_ms
from stoker.core.errors import CheckpointDamaged
from stoker.core.model import ExecutionMode, Job, Outcome, OutcomeKind
from stoker.core.recovery import NEVER_STARTED
from stoker.engine.book import Book
from stoker.executors.base import Ended, Sink, Start
from stoker.process.exchange import Exchange
from stoker.store import attempts, checkpoints, jobs
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

MAX_INPUTS_BYTES = 96 * 1024  # one variable of an environment may have 128 KiB, its name included
AGAIN_S = 1.0
TRIED = 20  # damaged checkpoints in a row: beyond them somebody has to look

Starter = Callable[[ExecutionMode, Sequence[Start]], None]


class Provisions:
    """Lays ready what starts need, then lets them start."""

    def __init__(self, reader: Reader, exchange: Exchange, book: Book, start: Starter, sink: Sink) -> None:
        self._reader = reader
        self._exchange = exchange
        self._book = book
        self._start = start
        self._sink = sink
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, mode: ExecutionMode, starts: Sequence[Start]) -> None:
        """Start what needs nothing at once, the rest once it is laid ready."""
        plain = [start for start in starts if not _wants(start.job)]
        if plain:
            self._start(mode, plain)
        for start in starts:
            if _wants(start.job):
                task = asyncio.ensure_future(self._provide(mode, start))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _provide(self, mode: ExecutionMode, start: Start) -> None:
        provided = replace(start, inputs=await self.inputs(start.job))
        data = await self._checkpoint(start.job)
        if data is not None:
            await self._lay_ready(start.attempt.run_id, data)
        run = self._book.by_run(start.attempt.run_id)
        if run is None:
            return
        if run.attempt.stop_reason is not None:
            self._sink([Ended(start.attempt.run_id, NEVER_STARTED)])
        elif len(provided.inputs) > MAX_INPUTS_BYTES:
            self._sink([Ended(start.attempt.run_id, _too_much(len(provided.inputs)))])
        else:
            self._start(mode, [provided])

    async def _lay_ready(self, run_id: str, data: bytes) -> None:
        """However long there is no room for it: an attempt that began without would begin at zero."""
        while (run := self._book.by_run(run_id)) is not None and run.attempt.stop_reason is None:
            try:
                await asyncio.to_thread(self._exchange.put_checkpoint, run_id, data)
            except OSError as error:
                log(LogEvent.CHECKPOINT_FAILED, job=run.job.id, attempt=run.attempt.ordinal, error=error)
                await asyncio.sleep(AGAIN_S)  # nothing tells when there is room again
            else:
                return

    async def inputs(self, job: Job) -> str:
        """What its needs handed on, as JSON by step or job id."""
        ids = [need.job for need in job.spec.needs]
        if not ids:
            return "{}"
        outputs = await self._reader.run(attempts.outputs, ids)
        names = await self._reader.run(jobs.steps, list(outputs))
        said: dict[str, Any] = {
            names.get(job_id, str(job_id)): msgspec.Raw(text.encode()) for job_id, text in outputs.items()
        }
        return msgspec.json.encode(said, order="sorted").decode()

    async def _checkpoint(self, job: Job) -> bytes | None:
        for checkpoint in await self._reader.run(checkpoints.progress, job.id, job.checkpoint_floor, TRIED):
            data = _sound(checkpoint)
            if data is not None:
                return data
        return None

    async def close(self) -> None:
        """What is not started by now is for recovery to find."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _wants(job: Job) -> bool:
    """Whether anything could be there for it: a first attempt without needs has nothing to read."""
    return bool(job.spec.needs) or job.attempts > 1


def _too_much(size: int) -> Outcome:
    told = f"STOKER_INPUTS: the outputs of its needs take {size} bytes; the limit is {MAX_INPUTS_BYTES}: hand on paths"
    return Outcome(kind=OutcomeKind.SPAWN_ERROR, error=told, ended_at=wall_ms())


def _sound(checkpoint: Checkpoint) -> bytes | None:
    try:
        return opened(checkpoint)
    except CheckpointDamaged as damaged:
        log(LogEvent.CHECKPOINT_DAMAGED, job=checkpoint.job_id, checkpoint=checkpoint.id, error=damaged)
        return None
