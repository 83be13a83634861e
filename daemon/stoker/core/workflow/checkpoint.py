"""A checkpoint: the state of a workflow or a job at one moment, with a checksum.

Owns its fields, its encoding (gzip above 100 KB) and its checksum. Invariants: a checkpoint never changes; its checksum
covers everything but its id; data that does not match its checksum is never used.
"""

from __future__ import annotations

import gzip
import hashlib
from enum import StrEnum

import msgspec
from msgspec import Struct

from stoker.core.errors import CheckpointDamaged, CheckpointTooLarge

VERSION = 2
GZIP_ABOVE_BYTES = 100_000
MAX_BYTES = 10_000_000
MAX_CHAIN = 100  # transitions since the last whole context, which a rebuild has to read


class CheckpointKind(StrEnum):
    """`context`: a whole workflow. `transition`: a change of a step. `step`: its end. `progress`: saved by a job."""

    CONTEXT = "context"
    TRANSITION = "transition"
    STEP = "step"
    PROGRESS = "progress"


class Checkpoint(Struct, frozen=True, kw_only=True):
    """One row of `checkpoints`. `size` is that of the data before encoding, in bytes."""

    id: int
    chain: str
    seq: int
    parent: int | None
    kind: CheckpointKind
    status: str
    at: int
    data: bytes
    size: int
    encoding: str = "plain"
    job_id: int | None = None
    step: str | None = None
    run_id: str | None = None
    version: int = VERSION
    checksum: bytes = b""


class Head(Struct, frozen=True, gc=False):
    """The newest checkpoint of a chain; id and seq are zero in an empty chain."""

    id: int = 0
    seq: int = 0
    since_context: int = 0


def chain_of(workflow_id: int | None, job_id: int | None = None) -> str:
    """The chain of a workflow, which its steps share, or of a job outside of workflows."""
    return f"j{job_id}" if workflow_id is None else f"w{workflow_id}"


class Packed(Struct, frozen=True):
    """Data as it is stored, and its SHA-256. `size` is that of the data before packing, in bytes."""

    encoding: str
    data: bytes
    size: int
    digest: bytes


def pack(data: bytes) -> Packed:
    """Compress large data, which takes half a second for ten megabytes. Raises CheckpointTooLarge."""
    if len(data) > MAX_BYTES:
        raise CheckpointTooLarge(
            f"data: {len(data)} bytes; the limit of a checkpoint is {MAX_BYTES}",
            hint="write the data to a file and save its path",
            path="data",
        )
    if len(data) <= GZIP_ABOVE_BYTES:
        return Packed("plain", data, len(data), _digest(data))
    # No time in the header, so that equal data gives equal bytes.
    packed = gzip.compress(data, compresslevel=6, mtime=0)
    return Packed("gzip", packed, len(data), _digest(packed))


def seal(checkpoint: Checkpoint, digest: bytes) -> Checkpoint:
    """The checkpoint with its checksum; `digest` is that of its data."""
    return msgspec.structs.replace(checkpoint, checksum=_checksum(checkpoint, digest))


def verified(checkpoint: Checkpoint) -> Packed:
    """Its data as it is stored. Raises CheckpointDamaged."""
    digest = _digest(checkpoint.data)
    if _checksum(checkpoint, digest) != checkpoint.checksum:
        raise CheckpointDamaged(
            f"checkpoint {checkpoint.id} ({checkpoint.chain}, seq {checkpoint.seq}) does not match its checksum",
            hint=f"stoker checkpoint ls {checkpoint.chain}",
            id=checkpoint.id,
        )
    return Packed(checkpoint.encoding, checkpoint.data, checkpoint.size, digest)


def opened(checkpoint: Checkpoint) -> bytes:
    """The data as it was saved. Raises CheckpointDamaged."""
    packed = verified(checkpoint)
    return gzip.decompress(packed.data) if packed.encoding == "gzip" else packed.data


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _checksum(checkpoint: Checkpoint, digest: bytes) -> bytes:
    """SHA-256 over every field but the id and itself, in a fixed order, and the digest of the data.

    Version 1 has the data itself in place of the digest, so nothing could be computed before all fields were known.
    """
    head = (
        checkpoint.chain, checkpoint.seq, checkpoint.parent, checkpoint.kind.value, checkpoint.job_id, checkpoint.step,
        checkpoint.run_id, checkpoint.status, checkpoint.version, checkpoint.at, checkpoint.encoding, checkpoint.size,
    )  # fmt: skip
    tail = checkpoint.data if checkpoint.version == 1 else digest
    return _digest(msgspec.json.encode(head) + b"\n" + tail)
