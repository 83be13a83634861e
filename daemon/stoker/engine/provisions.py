"""What an attempt is given beside its spec: the outputs of its needs and its newest checkpoint, read after its commit.

Owns the way of such starts from the commit to their executor. Refuses to hold back any other: most jobs need nothing
and start at once. Invariants: a start that was stopped or settled meanwhile is not made; a damaged checkpoint is
passed over with a warning, and the one before it is given.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.checkpoint import opened
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
        self._held: set[str] = set()

    def holds(self, run_id: str) -> bool:
        """Whether it is still with us: then no launcher was told of it, and none can have started it."""
        return run_id in self._held

    def start(self, mode: ExecutionMode, starts: Sequence[Start]) -> None:
        """Start what needs nothing at once, the rest once it is laid ready."""
        plain = [start for start in starts if not _wants(start.job)]
        if plain:
            self._start(mode, plain)
        first = [start for start in starts if start.job.attempts == 1 and start.job.spec.needs]
        again = [[start] for start in starts if start.job.attempts > 1]  # each may have a checkpoint of ten megabytes
        for together in [first, *again] if first else again:
            self._held.update(start.attempt.run_id for start in together)
            task = asyncio.ensure_future(self._let_go(mode, together))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _let_go(self, mode: ExecutionMode, starts: Sequence[Start]) -> None:
        """They are held until their executor has them, or their end is told."""
        try:
            await self._provide(mode, starts)
        finally:
            self._held.difference_update(start.attempt.run_id for start in starts)

    async def _provide(self, mode: ExecutionMode, starts: Sequence[Start]) -> None:
        """One look for all of them: a hop to the reader costs as much as a start."""
        provided = []
        for start, found in zip(starts, await self._reader.run(_look, [start.job for start in starts]), strict=True):
            for damaged in found.damaged:
                log(LogEvent.CHECKPOINT_DAMAGED, job=start.job.id, checkpoint=damaged.details["id"], error=damaged)
            if found.data is not None:
                await self._lay_ready(start.attempt.run_id, found.data)
            if self._may_begin(start, found.inputs):
                provided.append(replace(start, inputs=found.inputs))
        if provided:
            self._start(mode, provided)

    def _may_begin(self, start: Start, inputs: str) -> bool:
        """Whether it is still wanted and can be given what it needs; else its end is told."""
        run = self._book.by_run(start.attempt.run_id)
        if run is None:
            return False
        if run.attempt.stop_reason is not None:
            self._sink([Ended(start.attempt.run_id, NEVER_STARTED)])
            return False
        if len(inputs) > MAX_INPUTS_BYTES:
            self._sink([Ended(start.attempt.run_id, _too_much(len(inputs)))])
            return False
        return True

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
        return await self._reader.run(_inputs, job)

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


class _Found(Struct, frozen=True):
    """What is there for one start."""

    inputs: str
    data: bytes | None
    damaged: Sequence[CheckpointDamaged]


def _look(connection: sqlite3.Connection, asked: Sequence[Job]) -> list[_Found]:
    return [_Found(_inputs(connection, job), *_newest(connection, job)) for job in asked]


def _inputs(connection: sqlite3.Connection, job: Job) -> str:
    outputs = attempts.outputs(connection, [need.job for need in job.spec.needs]) if job.spec.needs else {}
    if not outputs:
        return "{}"
    names = jobs.steps(connection, list(outputs))
    said: dict[str, Any] = {
        names.get(job_id, str(job_id)): msgspec.Raw(text.encode()) for job_id, text in outputs.items()
    }
    return msgspec.json.encode(said, order="sorted").decode()


def _newest(connection: sqlite3.Connection, job: Job) -> tuple[bytes | None, list[CheckpointDamaged]]:
    """The newest that is sound, and those above it that are not; what is below is not even read."""
    damaged: list[CheckpointDamaged] = []
    if job.attempts > 1:
        for checkpoint in checkpoints.progress(connection, job.id, job.checkpoint_floor, TRIED):
            try:
                return opened(checkpoint), damaged
            except CheckpointDamaged as error:
                damaged.append(error)
    return None, damaged
