"""The verification of the log of changes, and of checkpoints.

Each change has the hash of its content and of the change before it, each checkpoint the hash of its own content.

A record that was edited, removed, added or moved breaks the chain at its place. The chain cannot show that the end of a
log was cut off: callers compare its end with other files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from stoker.core.errors import CheckpointDamaged
from stoker.core.workflow.checkpoint import verified
from stoker.store import checkpoints
from stoker.store.changes import GENESIS, PURGED, digest

PORTION = 5_000  # changes in one read: the WAL of a running daemon grows while a read goes on
# Payloads as bytes: they are hashed, not read. No daemon writes a value of another type.
NEXT = """
SELECT seq, at, kind, subject, from_state, to_state, cause, actor_uid,
    iif(typeof(payload) = 'text', CAST(payload AS BLOB), NULL), job_id, hash FROM changes
WHERE seq > ? ORDER BY seq LIMIT ?
"""
HASHED = 8  # of these columns, beside the payload
# Each may have ten megabytes: a portion is a few milliseconds to a second.
NEXT_CHECKPOINTS = f"SELECT {checkpoints.COLUMNS} FROM checkpoints WHERE id > ? ORDER BY id LIMIT 100"


class Chain(Struct, frozen=True):
    """The part of the log that was verified: `count` changes up to `last`. `broken`: the first fault after it."""

    last: int
    head: bytes
    count: int = 0
    broken: str | None = None


def beginning(connection: sqlite3.Connection) -> Chain:
    """The beginning of the chain of this database: after the changes that retention has removed."""
    last, head = connection.execute(PURGED).fetchone()
    return Chain(last or 0, head or GENESIS)


def verify_next(connection: sqlite3.Connection, so_far: Chain) -> Chain | None:
    """Verify the next portion; None at the end."""
    last, head, count = so_far.last, so_far.head, so_far.count
    for row in connection.execute(NEXT, (last, PORTION)):
        seq, _, kind, subject, _, _, cause, _, payload, job_id, stored = row
        if seq != last + 1:
            return Chain(last, head, count, f"behind change {last} comes change {seq}")
        if payload is None:
            return Chain(last, head, count, f"change {seq} has no payload")
        head = digest(head, row[:HASHED], payload)
        if head != stored:
            return Chain(last, head, count, f"change {seq} ({kind} {subject}, {cause}) does not match its hash")
        if str(job_id) != (subject if kind == "job" else "None"):
            return Chain(last, head, count, f"change {seq} of {kind} {subject} is filed under job {job_id}")
        last, count = seq, count + 1
    return None if last == so_far.last else Chain(last, head, count)


def verify(connection: sqlite3.Connection, progress: Callable[[int], None] = lambda _count: None) -> Chain:
    """Verify the whole log, in portions. `progress` gets the number of verified changes."""
    chain = beginning(connection)
    while chain.broken is None and (further := verify_next(connection, chain)) is not None:
        chain = further
        progress(chain.count)
    return chain


def damaged_checkpoints(
    connection: sqlite3.Connection, progress: Callable[[int], None] = lambda _count: None
) -> Iterator[str]:
    """A sentence for each checkpoint that does not match its checksum. Raises sqlite3.Error."""
    after, count = 0, -1
    while count:
        count = 0
        for row in connection.execute(NEXT_CHECKPOINTS, (after,)):
            after, count = row[0], count + 1
            try:
                verified(checkpoints.from_row(row))
            except CheckpointDamaged as error:
                yield error.message
            except msgspec.MsgspecError as error:
                yield f"checkpoint {after} cannot be read: {error}"
        progress(count)
