"""Checkpoints as clients see them: saved by a running attempt, listed and read by people.

Owns uploads under way (a checkpoint may be larger than a frame) and the message that makes one a row. Refuses who has
no token of a run that is open now: an old attempt cannot write over what a newer one knows. Invariants: a save that
was answered is on disk; one that was refused left nothing; uploads take bounded memory and die with their run.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any

from stoker.core.checkpoint import MAX_BYTES, MAX_CHAIN, Checkpoint, Head, Kind, chain_of, opened
from stoker.core.context import view
from stoker.core.errors import (
    CheckpointNotFound,
    CheckpointTooLarge,
    CheckpointTooSoon,
    InvalidParams,
    StaleAttempt,
)
from stoker.core.model import Job
from stoker.core.requests import CheckpointPart
from stoker.engine.book import Book
from stoker.engine.chains import context_at
from stoker.engine.inbox import Message
from stoker.engine.reading import job_now, workflow_found
from stoker.engine.turn import Turn
from stoker.store import checkpoints as rows
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

if TYPE_CHECKING:
    from stoker.engine.engine import Engine

PIECE_BYTES = 512 * 1024  # of one answer
MAX_UPLOADS = 64


class Save(Message):
    """A checkpoint that a running attempt wants kept."""

    def __init__(
        self, book: Book, run_id: str, data: bytes, status: str, min_interval_ms: int,
        future: asyncio.Future[dict[str, Any]],
    ) -> None:  # fmt: skip
        self._book = book
        self._run_id = run_id
        self._job_id = int(run_id.split(".", 1)[0])
        self._data = data
        self._status = status
        self._min_interval_ms = min_interval_ms
        self._future = future

    def want(self, wanted: Wanted) -> None:
        """The end of a chain is read once for each attempt: a save in a row costs its commit and no look more."""
        run = self._book.by_run(self._run_id)
        if run is not None and run.job.workflow_id is None and self._run_id not in self._book.heads:
            wanted.chains.add(f"j{self._job_id}")

    def fail(self, error: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def decide(self, turn: Turn) -> None:
        run = turn.book.by_run(self._run_id)
        if run is None:
            raise StaleAttempt(f"attempt {self._run_id} is over: it cannot save a checkpoint any more")
        self._keep_distance(turn)
        made = self._keep(turn, run.job)
        turn.book.saved[self._run_id] = turn.now.steady
        turn.answers.append(lambda: self._answer({"id": made.id, "seq": made.seq, "bytes": made.size}))

    def _keep(self, turn: Turn, job: Job) -> Checkpoint:
        """The newest link of its workflow's chain, or of its own."""
        flows, chain, now = turn.book.flows, chain_of(job.workflow_id, job.id), turn.now.wall
        flow = None if job.workflow_id is None else flows.runs[job.workflow_id]
        if flow is not None:
            head = flow.head
        else:
            head = turn.book.heads.get(self._run_id) or turn.loaded.heads.get(chain, Head())
        made = flows.seal_next(chain, head, Kind.PROGRESS, self._status, self._data, now, job, self._run_id)
        after = Head(made.id, made.seq, head.since_context + 1)
        turn.checkpoint(made)
        if flow is None:
            turn.book.heads[self._run_id] = after
            return made
        flow.head = after
        if after.since_context >= MAX_CHAIN:
            turn.checkpoint(flows.context(flow, now))
        return made

    def _keep_distance(self, turn: Turn) -> None:
        last = turn.book.saved.get(self._run_id)
        wait = 0 if last is None else last + self._min_interval_ms - turn.now.steady
        if wait > 0:
            raise CheckpointTooSoon(
                f"the last checkpoint of this attempt is less than {self._min_interval_ms} ms old",
                hint=f"try again in {wait} ms ([checkpoints] min_interval_ms)", retry_after_ms=wait,
            )  # fmt: skip

    def _answer(self, said: dict[str, Any]) -> None:
        if not self._future.done():
            self._future.set_result(said)


class Checkpoints:
    """Checkpoints as `rpc.methods` calls them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._uploads: dict[str, bytearray] = {}

    def save(self, part: CheckpointPart) -> asyncio.Future[dict[str, Any]]:
        """Take a checkpoint, or a piece of one; the answer to the last piece comes after its commit."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._count_failure)
        try:
            run_id, data = self._collect(part)
        except Exception as error:  # noqa: BLE001 - the caller of a future hears of it there
            future.set_exception(error)
            return future
        if data is None:
            future.set_result({"received": len(self._uploads[run_id])})
            return future
        interval = self._engine.config.checkpoints.min_interval_ms
        self._engine.loop.post(Save(self._engine.book, run_id, data, part.status, interval, future))
        return future

    def _collect(self, part: CheckpointPart) -> tuple[str, bytes | None]:
        """The run, and the whole data once its last piece is there."""
        engine = self._engine
        if (refusal := engine.refusal()) is not None:
            raise refusal
        if engine.intake.closed is not None and engine.intake.closed.code == "disk_full":
            raise engine.intake.closed
        run_id = engine.tokens.run_of(part.token)
        if engine.book.by_run(run_id) is None:
            raise StaleAttempt(f"attempt {run_id} is over: it cannot save a checkpoint any more")
        try:
            piece = base64.b64decode(part.data, validate=True)
        except binascii.Error as error:
            raise InvalidParams(f"data: not base64: {error}", path="data") from error
        return run_id, self._add(run_id, part, piece)

    def _add(self, run_id: str, part: CheckpointPart, piece: bytes) -> bytes | None:
        if part.offset == 0:
            self._uploads.pop(run_id, None)
            if not part.more:
                return piece
            self._make_room()
        upload = self._uploads.setdefault(run_id, bytearray())
        if part.offset != len(upload):
            raise InvalidParams(f"offset: {part.offset}, but {len(upload)} bytes were received", path="offset")
        if len(upload) + len(piece) > MAX_BYTES:
            del self._uploads[run_id]
            raise CheckpointTooLarge(
                f"data: more than {MAX_BYTES} bytes, the limit of a checkpoint",
                hint="write the data to a file and save its path", path="data",
            )  # fmt: skip
        upload += piece
        return None if part.more else bytes(self._uploads.pop(run_id))

    def _make_room(self) -> None:
        """Uploads of runs that ended in the middle of one are forgotten."""
        for run_id in [run_id for run_id in self._uploads if self._engine.book.by_run(run_id) is None]:
            del self._uploads[run_id]
        if len(self._uploads) >= MAX_UPLOADS:
            raise CheckpointTooSoon(f"{MAX_UPLOADS} checkpoints are being received", hint="try again in a second")

    def _count_failure(self, future: asyncio.Future[dict[str, Any]]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log(LogEvent.CHECKPOINT_FAILED, error=error)
            self._engine.telemetry.checkpoint_failed()

    async def get(self, ident: int, offset: int | None) -> dict[str, Any]:
        """One checkpoint; `offset` asks for a piece of its data too, in base64."""
        found = await self._found(ident)
        if offset is None:
            return _view(found)
        data = opened(found)
        piece = base64.b64encode(data[offset : offset + PIECE_BYTES]).decode()
        return _view(found) | {"offset": offset, "data": piece}

    async def context(self, ident: int) -> dict[str, Any]:
        """The whole workflow as it was at a checkpoint."""
        found = await self._found(ident)
        return view(await context_at(self._engine.queries, found.chain, found.seq))

    async def list(self, workflow: int | None, job: int, before_seq: int | None, limit: int) -> dict[str, Any]:
        """Checkpoints of a workflow, else of a job, newest first. Raises WorkflowNotFound or JobNotFound."""
        found = await self._engine.queries.run(rows.page, chain_of(workflow, job), before_seq, limit)
        if not found:  # of something that has none, or of nothing at all
            await (job_now(self._engine, job) if workflow is None else workflow_found(self._engine, workflow))
        following = found[-1].seq if len(found) == limit and found[-1].seq > 1 else None
        return {"checkpoints": [_view(each) for each in found], "next": following}

    async def _found(self, ident: int) -> Checkpoint:
        found = await self._engine.queries.run(rows.by_id, ident)
        if found is None:
            raise CheckpointNotFound(f"there is no checkpoint {ident}", hint="stoker checkpoint ls WORKFLOW", id=ident)
        return found


def _view(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "chain": checkpoint.chain,
        "seq": checkpoint.seq,
        "parent": checkpoint.parent,
        "kind": checkpoint.kind,
        "job": checkpoint.job_id,
        "step": checkpoint.step,
        "run_id": checkpoint.run_id,
        "status": checkpoint.status,
        "version": checkpoint.version,
        "at": checkpoint.at,
        "encoding": checkpoint.encoding,
        "bytes": checkpoint.size,
        "checksum": checkpoint.checksum.hex(),
    }
