"""Checkpoints of running attempts: saved in pieces, listed and read.

Owns the way from uploaded pieces (service/uploads.py) to a row, and the reading of rows. A save needs the token of an
open run, so an old attempt cannot overwrite the checkpoint of a newer one. Invariants: when a save is answered it is on
disk, complete; a refused save leaves nothing; large data is compressed and hashed in a thread, never on the loop.
"""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from stoker.core.errors import (
    CheckpointNotFound,
    InvalidParams,
)
from stoker.core.requests import CheckpointPart
from stoker.core.workflow.checkpoint import (
    GZIP_ABOVE_BYTES,
    Checkpoint,
    Packed,
    chain_of,
    opened,
    pack,
)
from stoker.core.workflow.context import view
from stoker.engine.saved_checkpoints import Save, stale
from stoker.host.threads import start_threads
from stoker.service.engine import Engine
from stoker.service.uploads import Uploads
from stoker.service.views import job_now, stored_workflow
from stoker.store import checkpoints as rows
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted
from stoker.workflows.chain import context_at

if TYPE_CHECKING:
    from stoker.core.wire_types import (
        CheckpointPage,
        CheckpointPiece,
        CheckpointView,
        ContextView,
        ReceivedPiece,
        SavedCheckpoint,
    )

    SaveAnswer: TypeAlias = SavedCheckpoint | ReceivedPiece

PIECE_BYTES = 512 * 1024  # of data in one answer
UNPACKED_S = 10.0


class CheckpointService:
    """Checkpoints, as the handlers of rpc/workflow_methods.py call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._uploads = Uploads(engine.memory.jobs_by_run)
        # One thread: compression takes a whole CPU, which jobs need too.
        self._packer = start_threads(1, "checkpoints")
        self._unpacked = Unpacked()

    def save(self, part: CheckpointPart, connection: int) -> asyncio.Future[SaveAnswer]:
        """Take a checkpoint or a piece of one. The last piece is answered after the commit."""
        future: asyncio.Future[SaveAnswer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._count_failure)
        try:
            self._take(part, connection, future)
        except Exception as error:  # noqa: BLE001 - the future carries every error to the client
            future.set_exception(error)
        return future

    def hung_up(self, connection: int) -> None:
        """Discard the incomplete uploads of a connection that has ended."""
        self._uploads.hung_up(connection)

    def _take(self, part: CheckpointPart, connection: int, future: asyncio.Future[SaveAnswer]) -> None:
        run_id, piece = self._allowed(part), _decoded(part)
        if part.offset == 0 and part.upload is None and not part.more:
            self._keep(run_id, piece, part.status, future)
            return
        now = self._engine.clock.now().steady
        if part.offset == 0 and part.upload is None:
            upload = self._uploads.begin(run_id, connection, now)
        else:
            upload = self._uploads.find(part, run_id, connection)
        self._uploads.add(upload, part.offset, piece, now)
        if part.more:
            future.set_result({"upload": upload.number, "received": len(upload.data)})
            return
        upload.whole = True
        future.add_done_callback(lambda _: self._uploads.end(upload))
        self._keep(run_id, upload.data, part.status, future)

    def _allowed(self, part: CheckpointPart) -> str:
        """The run id of the attempt whose token this is. Raises StaleAttempt if it is over."""
        engine = self._engine
        engine.refusals.check()
        if engine.intake.closed is not None and engine.intake.closed.code == "disk_full":
            raise engine.intake.closed
        run_id = engine.tokens.run_of(part.token)
        if engine.memory.by_run(run_id) is None:
            raise stale(run_id)
        return run_id

    def _keep(self, run_id: str, data: bytes | bytearray, status: str, future: asyncio.Future[SaveAnswer]) -> None:
        """Compress a checkpoint and post it; a large one is compressed in a thread, so that the loop does not wait."""
        if len(data) <= GZIP_ABOVE_BYTES:
            self._post(run_id, pack(bytes(data)), status, future)
            return
        self._engine.background.start(f"packing of {run_id}", self._pack_and_post(run_id, data, status, future))

    async def _pack_and_post(
        self, run_id: str, data: bytes | bytearray, status: str, future: asyncio.Future[SaveAnswer]
    ) -> None:
        try:
            packed = await asyncio.get_running_loop().run_in_executor(self._packer, lambda: pack(bytes(data)))
        except Exception as error:  # noqa: BLE001 - as in `save`
            if not future.done():
                future.set_exception(error)
        else:
            self._post(run_id, packed, status, future)

    def _post(self, run_id: str, packed: Packed, status: str, future: asyncio.Future[SaveAnswer]) -> None:
        interval = self._engine.config.checkpoints.min_interval_ms
        self._engine.inbox.post(Save(self._engine.memory, run_id, packed, status, future, min_interval_ms=interval))

    def _count_failure(self, future: asyncio.Future[SaveAnswer]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log(LogEvent.CHECKPOINT_FAILED, error=error)
            self._engine.telemetry.count(Counted.CHECKPOINT_FAILURES)

    async def get(self, ident: int) -> CheckpointView:
        return _view(await self._checkpoint(rows.about, ident))

    async def piece(self, ident: int, offset: int) -> CheckpointPiece:
        """One checkpoint with the data from that offset on."""
        checkpoint, data = self._unpacked.take(ident) or await self._open(ident)
        end = offset + PIECE_BYTES
        if end < len(data):
            self._unpacked.put(checkpoint, data)  # the client will ask for the next piece
        encoded = base64.b64encode(data[offset:end]).decode()
        return {**_view(checkpoint), "offset": offset, "data": encoded}

    async def _open(self, ident: int) -> tuple[Checkpoint, bytes]:
        checkpoint = await self._checkpoint(rows.by_id, ident)
        data = await asyncio.get_running_loop().run_in_executor(self._packer, opened, checkpoint)
        return msgspec.structs.replace(checkpoint, data=b""), data

    async def context(self, ident: int) -> ContextView:
        checkpoint = await self._checkpoint(rows.about, ident)
        return view(await context_at(self._engine.queries, checkpoint.chain, checkpoint.seq))

    async def list(self, workflow: int | None, job: int, before_seq: int | None, limit: int) -> CheckpointPage:
        """Checkpoints of a workflow, else of a job, newest first. Raises WorkflowNotFound or JobNotFound."""
        page = await self._engine.queries.run(rows.page, chain_of(workflow, job), before_seq, limit)
        if not page:  # the owner has no checkpoint, or does not exist
            await (job_now(self._engine, job) if workflow is None else stored_workflow(self._engine, workflow))
        following = page[-1].seq if len(page) == limit and page[-1].seq > 1 else None
        return {"checkpoints": [_view(checkpoint) for checkpoint in page], "next": following}

    async def _checkpoint(
        self, query: Callable[[sqlite3.Connection, int], Checkpoint | None], ident: int
    ) -> Checkpoint:
        checkpoint = await self._engine.queries.run(query, ident)
        if checkpoint is None:
            raise CheckpointNotFound(f"there is no checkpoint {ident}", hint="stoker checkpoint ls WORKFLOW", id=ident)
        return checkpoint


class Unpacked:
    """Keeps the data of one checkpoint for a few seconds, for a client that reads it piece by piece."""

    def __init__(self) -> None:
        self._kept: tuple[Checkpoint, bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, ident: int) -> tuple[Checkpoint, bytes] | None:
        """Remove and return the data, if it is that of the given checkpoint."""
        kept = self._kept
        self._forget()
        return kept if kept is not None and kept[0].id == ident else None

    def put(self, checkpoint: Checkpoint, data: bytes) -> None:
        self._forget()
        self._kept = checkpoint, data
        self._timer = asyncio.get_running_loop().call_later(UNPACKED_S, self._forget)

    def _forget(self) -> None:
        self._kept = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _decoded(part: CheckpointPart) -> bytes:
    try:
        return base64.b64decode(part.data, validate=True)
    except ValueError as error:  # binascii.Error is one; other characters than ASCII raise the plain one
        raise InvalidParams(f"data: not base64: {error}", path="data") from error


def _view(checkpoint: Checkpoint) -> CheckpointView:
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
