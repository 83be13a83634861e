"""The archive of a failed workflow: flow, steps, changes, checkpoints, and the ends of its logs, in one file.

Owns the contents of the file. They are read in small portions, so that other readers do not wait, and one archive is
written at a time. Invariants: there is one file for each end of a workflow, written once; a failure is logged, and the
next start tries again.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncGenerator, Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import CheckpointDamaged
from stoker.core.job.model import Attempt, ExecutionMode, Job, State
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.analysis import Analysis, Ending, analyse
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, chain_of, opened
from stoker.core.workflow.state import WorkflowState
from stoker.engine.memory.blueprint import blueprint, width_of
from stoker.engine.turn import Turn
from stoker.executors.handlers import OWN_PREFIX
from stoker.ops.archive import ArchiveFile, path_of
from stoker.process.attempt_logs import tail
from stoker.process.run_roots import RunRoots
from stoker.store import attempts, changes, checkpoints, jobs, workflows
from stoker.store.reader import Reader
from stoker.store.workflows import StoredWorkflow
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

FORMAT = 1
PORTION = 200  # rows of one read
SPAN = 20_000  # changes searched in one read
TAIL_BYTES = 64 * 1024
LOGS_BYTES = 64 * 1024 * 1024  # limit of all logs of one workflow; the logs of the newest steps are left out
DATA_BYTES = 64 * 1024 * 1024  # of all checkpoints of one workflow; beyond it the data of the oldest is left out
TOGETHER_BYTES = 1024 * 1024  # of data in one read
SHOWN = 20  # steps in the log line


async def analysis_of(reader: Reader, stored: StoredWorkflow) -> Analysis | None:
    """The analysis of a failure, computed in a thread: there may be thousands of steps."""
    ids = [one.job_id for one in stored.steps if one.state is not State.SUCCEEDED]
    specs = await reader.run(jobs.by_ids, ids)
    ended = await reader.run(attempts.newest_ends, [one.job_id for one in stored.steps if one.attempts])
    return await asyncio.to_thread(_analysed, stored, specs, ended)


def _analysed(stored: StoredWorkflow, specs: Mapping[int, Job], ended: Mapping[int, Attempt]) -> Analysis | None:
    plan = blueprint(stored.workflow)
    steps = {step.job_id: step for step in plan.steps}
    widths = {width_of(stored.workflow.id, group) for group in plan.widths}
    endings = [
        Ending(
            name=one.step,
            job=one.job_id,
            state=one.state,
            reason=one.reason,
            attempts=one.attempts,
            critical=steps[one.job_id].critical,
            ended=ended.get(one.job_id),
            **_asked(specs[one.job_id], widths) if one.job_id in specs else {},
        )
        for one in stored.steps
    ]
    return analyse(stored.workflow.id, endings)


def _asked(job: Job, widths: Container[str]) -> dict[str, Any]:
    in_process = job.spec.execution_mode is ExecutionMode.IN_PROCESS
    resources = tuple(name for name in sorted(job.spec.resources) if name not in widths)
    return {
        "timeout_ms": job.spec.timeout_ms,
        "success_exit_codes": job.spec.success_exit_codes,
        "resources": resources,
        "control": command if in_process and (command := str(job.spec.command)).startswith(OWN_PREFIX) else None,
    }


class Archives:
    """Writes one archive at a time."""

    def __init__(self, reader: Reader, roots: RunRoots, background: BackgroundTasks) -> None:
        self._reader = reader
        self._roots, self._state_dir = roots, roots.state_dir
        self._background = background
        self._one = asyncio.Lock()

    def after_commit(self, turn: Turn) -> None:
        for _, after, broken in turn.verdicts:
            if after.state is WorkflowState.FAILED:
                log(
                    LogEvent.WORKFLOW_FAILED,
                    workflow=after.id,
                    name=after.name,
                    trace_id=after.trace_id,
                    steps=broken[:SHOWN],
                    failed=len(broken),
                )
                self._begin([after.id])

    async def catch_up(self) -> None:
        """At a start: write the archives that an earlier daemon did not write."""
        failed = await self._reader.run(workflows.failed, SPAN)
        missing = await asyncio.to_thread(_missing, self._state_dir, failed)
        if missing:
            self._begin(missing)

    def path(self, stored: StoredWorkflow) -> str | None:
        """The path of the archive of this end, if it exists."""
        at = stored.workflow.finished_at
        if stored.workflow.state is not WorkflowState.FAILED or at is None:
            return None
        path = path_of(self._state_dir, stored.workflow.id, at)
        return str(path) if path.exists() else None

    def _begin(self, ids: Sequence[int]) -> None:
        for ident in ids:
            self._background.retry(f"archive of workflow {ident}", partial(self._archive, ident))

    async def _archive(self, ident: int) -> None:
        async with self._one:
            rows = await self._reader.run(workflows.by_ids, [ident])
            for stored in rows:  # empty if retention has removed it
                at = stored.workflow.finished_at
                if stored.workflow.state is WorkflowState.FAILED and at is not None:
                    await self._write(stored, path_of(self._state_dir, ident, at))

    async def _write(self, stored: StoredWorkflow, path: Path) -> None:
        file = ArchiveFile(path)
        try:
            if not await asyncio.to_thread(file.open):
                return
            try:
                async for part in self._parts(stored):
                    await asyncio.to_thread(_add, file, part)
                if await self._reader.run(workflows.by_ids, [stored.workflow.id]):
                    await asyncio.to_thread(file.keep)
                else:
                    file.discard()  # retention has removed rows that belong into it
            except BaseException:
                file.discard()
                raise
        except Exception as error:  # noqa: BLE001 - a service boundary: no caller awaits this, and nothing depends on it
            log(LogEvent.ARCHIVE_FAILED, workflow=stored.workflow.id, path=str(path), error=error)

    async def _parts(self, stored: StoredWorkflow) -> AsyncGenerator[bytes | Rows, None]:
        """The parts of one JSON object: bytes as they are, and rows, which a thread encodes."""
        steps = await self._reader.run(jobs.of_workflows, [stored.workflow.id])
        workflow = msgspec.to_builtins(stored.workflow)
        flow = msgspec.Raw(workflow.pop("flow").encode())
        workflow["flow_hash"] = stored.workflow.flow_hash.hex()
        head = {
            "format": FORMAT,
            "workflow": workflow,
            "flow": flow,
            "analysis": await analysis_of(self._reader, stored),
        }
        yield (await asyncio.to_thread(encode_sorted, head))[:-1]
        for name, portions, view in (
            ("steps", self._steps(steps), _unchanged),
            ("changes", self._changes(stored, steps), _unchanged),
            ("attempts", self._attempts(steps), _unchanged),
            ("checkpoints", self._checkpoints(stored), _checkpoint_view),
            ("logs", self._logs(steps), _unchanged),
        ):
            before = f',"{name}":['.encode()
            async for portion in portions:
                if portion:
                    yield Rows(before, portion, view)
                    before = b","
            yield b"]" if before == b"," else before + b"]"
        yield b"}\n"

    async def _steps(self, steps: dict[int, Job]) -> AsyncGenerator[list[Any], None]:
        for job in steps.values():
            yield [msgspec.structs.asdict(job) | {"spec_hash": job.spec_hash.hex()}]

    async def _changes(self, stored: StoredWorkflow, steps: dict[int, Job]) -> AsyncGenerator[list[Any], None]:
        """The changes of the workflow, then those of each step; all follow the first change of the first step."""
        first = await self._reader.run(changes.first_of_job, min(steps, default=0))
        last = await self._reader.run(changes.last)
        for after in range(max(0, first - 2), last[0], SPAN):
            yield list(await self._reader.run(changes.of_workflow, stored.workflow.id, after, after + SPAN))
        for job_id in steps:
            yield list(await self._reader.run(changes.of_job, job_id))

    async def _attempts(self, steps: dict[int, Job]) -> AsyncGenerator[list[Any], None]:
        for job_id in steps:
            yield list(await self._reader.run(attempts.of_job, job_id))

    async def _checkpoints(self, stored: StoredWorkflow) -> AsyncGenerator[list[Checkpoint], None]:
        """All checkpoints; the newest with their data, up to DATA_BYTES, of which little is in memory at a time."""
        chain, seq = chain_of(stored.workflow.id), 0
        since = await self._reader.run(checkpoints.newest_within, chain, DATA_BYTES) or sys.maxsize
        while links := await self._reader.run(checkpoints.behind, chain, seq, PORTION):
            seq = links[-1].seq
            for portion in _portions(links, since):
                if portion[0].seq < since:
                    yield portion
                else:
                    yield await self._reader.run(checkpoints.by_ids, [link.id for link in portion])

    async def _logs(self, steps: dict[int, Job]) -> AsyncGenerator[list[Any], None]:
        left = LOGS_BYTES
        for job in steps.values():
            if job.attempts:
                path = self._roots.log_path(job.owner_uid, job.id, job.attempts)
                head = {"job": job.id, "step": job.step, "attempt": job.attempts}
                try:
                    data, size = await asyncio.to_thread(tail, path, min(TAIL_BYTES, left))
                except OSError as error:
                    yield [head | {"bytes": 0, "tail": "", "error": error.strerror}]
                else:
                    left -= len(data)
                    yield [head | {"bytes": size, "tail": data.decode(errors="replace")}]


def _missing(state_dir: Path, ends: Sequence[tuple[int, int]]) -> list[int]:
    return [ident for ident, at in ends if not path_of(state_dir, ident, at).exists()]


def _portions(links: Sequence[Checkpoint], since: int) -> list[list[Checkpoint]]:
    """Those before `since`, whose data is left out, in one portion; the others in portions of TOGETHER_BYTES."""
    portions, room = [[link for link in links if link.seq < since]], 0
    for link in links:
        if link.seq >= since:
            if link.size > room:
                portions.append([])
                room = TOGETHER_BYTES
            portions[-1].append(link)
            room -= link.size
    return [portion for portion in portions if portion]


class Rows(Struct, frozen=True):
    """Elements of a JSON list, and the bytes before them; `view` makes a JSON value of each."""

    before: bytes
    rows: Sequence[Any]
    view: Callable[[Any], Any]


def _add(file: ArchiveFile, part: bytes | Rows) -> None:
    """Runs in a thread: to encode and compress ten megabytes takes half a second."""
    if isinstance(part, bytes):
        file.add([part])
        return
    before = part.before
    for row in part.rows:
        file.add([before, encode_sorted(part.view(row))])
        before = b","


def _unchanged(row: Any) -> Any:
    return row


def _checkpoint_view(link: Checkpoint) -> dict[str, Any]:
    """A checkpoint with its data: JSON if Stoker wrote it, base64 if a job did."""
    view: dict[str, Any] = msgspec.structs.asdict(link) | {"checksum": link.checksum.hex()}
    if link.size and not link.data:
        return view | {"data": None, "left_out": True}
    try:
        data = opened(link)
    except CheckpointDamaged:
        return view | {"damaged": True, "data": base64.b64encode(link.data).decode()}
    plain = link.kind is not CheckpointKind.PROGRESS
    return view | {"data": msgspec.Raw(data) if plain else base64.b64encode(data).decode()}
