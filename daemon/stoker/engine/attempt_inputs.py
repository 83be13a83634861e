"""The inputs of an attempt beside its spec: the ends of its needs, and its newest checkpoint.

Owns the starts between their commit and their executor. Jobs without inputs, which are most, start at once.
Invariants: an attempt that was stopped or settled meanwhile is not started; if the newest checkpoint is damaged, a
warning is logged and the one before it is used.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import CheckpointDamaged
from stoker.core.job.model import ExecutionMode, Job
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.checkpoint import opened
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.memory import LiveState
from stoker.executors.base import Executor, Sink, Start, never_started
from stoker.process.work_files import InputsFile, WorkFiles
from stoker.store import attempts, checkpoints
from stoker.store.attempts import Needed
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

MAX_INPUTS_BYTES = 96 * 1024  # one variable of an environment may have 128 KiB, its name and its last zero included
PORTION = 50  # needs of one read: each may have handed on 64 KiB
AGAIN_S = 1.0
TRIES = 20
TRIED = 20  # newest checkpoints: if all of them are damaged the attempt starts without one


class AttemptInputs:
    """Reads the inputs of starts and writes their files, then hands them to their executors."""

    def __init__(
        self,
        reader: Reader,
        work_files: WorkFiles,
        memory: LiveState,
        executors: Mapping[ExecutionMode, Executor],
        heartbeats: Heartbeats,
        sink: Sink,
        background: BackgroundTasks,
    ) -> None:
        self._reader = reader
        self._work_files = work_files
        self._memory = memory
        self._executors = executors
        self._heartbeats = heartbeats
        self._sink = sink
        self._background = background
        self._held: set[str] = set()

    def holds(self, run_id: str) -> bool:
        """Whether the start waits here for its inputs: then no launcher can have started it."""
        return run_id in self._held

    def start(self, starts: Sequence[Start]) -> None:
        """Start jobs without inputs at once, the others once their inputs are there."""
        plain = [start for start in starts if not _may_have_inputs(start.job)]
        self._hand_over(plain)
        first = [start for start in starts if start.job.attempts == 1 and start.job.spec.needs]
        again = [[start] for start in starts if start.job.attempts > 1]  # each may have a checkpoint of ten megabytes
        for together in [first, *again] if first else again:
            self._held.update(start.attempt.run_id for start in together)
            work = partial(self._start_when_read, together, count(1))
            self._background.retry(f"inputs of {together[0].attempt.run_id}", work, longest_pause_s=AGAIN_S)

    async def _start_when_read(self, starts: Sequence[Start], tries: Iterator[int]) -> None:
        """Hand the starts over once their inputs are read, or report their end if they may not start any more.

        After TRIES failed reads they are reported as never started: their jobs are queued again, and can expire.
        """
        wanted = [start for start in starts if self._may_begin(start)]
        if next(tries) <= TRIES:
            await self._provide(wanted)
        else:
            self._sink([never_started(start) for start in wanted])
        self._held.difference_update(start.attempt.run_id for start in starts)

    async def _provide(self, starts: Sequence[Start]) -> None:
        """Read the inputs of all starts in one query: a hop to the reader costs as much as a start."""
        provided = []
        for start, stored in zip(starts, await self._reader.run(_read, [start.job for start in starts]), strict=True):
            for damaged in stored.damaged:
                log(LogEvent.CHECKPOINT_DAMAGED, job=start.job.id, checkpoint=damaged.details["id"], error=damaged)
            inputs = Inputs(self._reader, [need.job for need in start.job.spec.needs], stored.needed)
            await self._write_files(start.attempt.run_id, stored.data, inputs)
            if self._may_begin(start):
                provided.append(replace(start, inputs=inputs.variable))
        self._hand_over(provided)

    def _hand_over(self, starts: Sequence[Start]) -> None:
        """Hand them to their executors, after the sockets for heartbeats are bound."""
        by_mode: defaultdict[ExecutionMode, list[Start]] = defaultdict(list)
        for start in starts:
            if start.job.spec.has_notify_socket:
                self._heartbeats.open(start.attempt.run_id)
            by_mode[start.job.spec.execution_mode].append(start)
        for mode, group in by_mode.items():
            self._executors[mode].start(group)

    def _may_begin(self, start: Start) -> bool:
        """Whether it may still start; if it was stopped meanwhile, its end is reported."""
        run = self._memory.by_run(start.attempt.run_id)
        if run is None:
            return False
        if run.attempt.stop_reason is not None:
            self._sink([never_started(start)])
            return False
        return True

    async def _write_files(self, run_id: str, data: bytes | None, inputs: Inputs) -> None:
        """Write the checkpoint and the inputs file. Waits for room on the disk: the attempt must not begin at zero."""
        while (run := self._memory.by_run(run_id)) is not None and run.attempt.stop_reason is None:
            try:
                if data is not None:
                    await asyncio.to_thread(self._work_files.put_checkpoint, run_id, data)
                if run.job.spec.needs:
                    await inputs.write(self._work_files.inputs(run_id))
            except OSError as error:
                log(LogEvent.CHECKPOINT_FAILED, job=run.job.id, attempt=run.attempt.ordinal, error=error)
                await asyncio.sleep(AGAIN_S)  # polls: the kernel sends no notice of free space
            else:
                return

    async def inputs(self, job: Job) -> str | None:
        """The outputs of its needs, as JSON by step or job id; None if that is too large for an environment."""
        inputs = Inputs(self._reader, [need.job for need in job.spec.needs], [])
        async for _ in inputs.ends():
            pass
        return inputs.variable


def _may_have_inputs(job: Job) -> bool:
    """Whether there can be inputs: a first attempt without needs has none."""
    return bool(job.spec.needs) or job.attempts > 1


class Inputs:
    """How the needs of one attempt ended, and their outputs, read in portions: a thousand needs can have 64 MB."""

    def __init__(self, reader: Reader, needs: Sequence[int], first: Sequence[Needed]) -> None:
        self._reader = reader
        self._needs = needs
        self._first = first
        self._outputs: dict[str, msgspec.Raw] = {}
        self._bytes = 0

    @property
    def variable(self) -> str | None:
        """STOKER_INPUTS, once all needs were read; None if the kernel would refuse it."""
        if self._bytes > MAX_INPUTS_BYTES:
            return None
        variable = encode_sorted(self._outputs)
        return variable.decode() if len(variable) <= MAX_INPUTS_BYTES else None

    async def write(self, path: str) -> None:
        """STOKER_INPUTS_FILE. Raises OSError."""
        file = await asyncio.to_thread(InputsFile, path)
        try:
            async for portion in self.ends():
                await asyncio.to_thread(file.add, [(one.name, _end(one)) for one in portion])
        finally:
            await asyncio.to_thread(file.close)

    async def ends(self) -> AsyncGenerator[Sequence[Needed], None]:
        """Read portion by portion; keep the outputs that fit into STOKER_INPUTS."""
        self._outputs, self._bytes = {}, 0
        for at in range(0, len(self._needs), PORTION):
            portion = self._first if not at else ()
            portion = portion or await self._reader.run(attempts.needed, self._needs[at : at + PORTION])
            for one in portion:
                self._keep(one)
            yield portion

    def _keep(self, one: Needed) -> None:
        if one.output is not None:
            self._bytes += len(one.output)
            if self._bytes <= MAX_INPUTS_BYTES:
                self._outputs[one.name] = msgspec.Raw(one.output.encode())


def _end(one: Needed) -> dict[str, Any]:
    outputs = msgspec.Raw(b"{}" if one.output is None else one.output.encode())
    return {"state": one.state, "reason": one.reason, "exit_code": one.exit_code, "outputs": outputs}


class StoredInputs(Struct, frozen=True):
    """The inputs of one start: its first needs, its newest sound checkpoint, and damaged ones that are newer."""

    needed: Sequence[Needed]
    data: bytes | None
    damaged: Sequence[CheckpointDamaged]


def _read(connection: sqlite3.Connection, asked: Sequence[Job]) -> list[StoredInputs]:
    return [StoredInputs(_first_needed(connection, job), *_newest(connection, job)) for job in asked]


def _first_needed(connection: sqlite3.Connection, job: Job) -> Sequence[Needed]:
    needs = [need.job for need in job.spec.needs[:PORTION]]
    return attempts.needed(connection, needs) if needs else ()


def _newest(connection: sqlite3.Connection, job: Job) -> tuple[bytes | None, list[CheckpointDamaged]]:
    """The newest sound checkpoint and the damaged ones that are newer; older ones are not read."""
    damaged: list[CheckpointDamaged] = []
    if job.attempts > 1:
        for checkpoint in checkpoints.progress(connection, job.id, job.checkpoint_floor, TRIED):
            try:
                return opened(checkpoint), damaged
            except CheckpointDamaged as error:
                damaged.append(error)
    return None, damaged
