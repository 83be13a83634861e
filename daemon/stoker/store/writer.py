"""The one writer: takes a Batch, makes it one durable transaction, says when it is on disk.

Owns the only connection that writes or checkpoints, the head of the hash chain and the emergency reserve.
Refuses to guess: a commit that raised is in doubt, so it raises StorageFailed and the daemon stops. The one
exception is a full disk: the transaction was rolled back whole, the reserve is given up and it is tried
once more, so that running work can still be settled.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct, field

from stoker.core.checkpoint import Checkpoint
from stoker.core.errors import StorageFailed
from stoker.core.model import Attempt, Change, Job, Queue, Resource
from stoker.core.workflow import Workflow
from stoker.store import attempts, changes, checkpoints, jobs, queues, recoveries, workflows
from stoker.store.database import Database

P = ParamSpec("P")
T = TypeVar("T")


class NewKey(Struct, frozen=True):
    owner_uid: int
    key: str
    spec_hash: bytes
    job_id: int
    created_at: int


class Batch(Struct):
    """Everything that one turn wants on disk, at most one entry for each row."""

    new_jobs: dict[int, Job] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    respecified: dict[int, Job] = field(default_factory=dict)
    new_attempts: dict[str, Attempt] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    holds: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: list[NewKey] = field(default_factory=list)
    needs: list[tuple[int, int, str]] = field(default_factory=list)
    needs_met: list[tuple[int, int]] = field(default_factory=list)
    queues: dict[str, Queue] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    new_workflows: dict[int, Workflow] = field(default_factory=dict)
    workflows: dict[int, Workflow] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    recovery: recoveries.Recovery | None = None
    changes: list[Change] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.changes, self.jobs, self.attempts, self.checkpoints, self.meta, self.recovery is not None))


def _many(connection: sqlite3.Connection, sql: str, rows: list[tuple[Any, ...]], *, exact: bool = False) -> None:
    if not rows:
        return
    hit = connection.executemany(sql, rows).rowcount
    if exact and hit != len(rows):
        raise sqlite3.IntegrityError(f"{hit} of {len(rows)} rows were there to update: {sql.split()[1]}")


def store(connection: sqlite3.Connection, batch: Batch, head: bytes) -> bytes:
    """Write the batch as one transaction; returns the new head of the hash chain."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        head = _write(connection, batch, head)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return head


def _write(connection: sqlite3.Connection, batch: Batch, head: bytes) -> bytes:
    ended = [attempt for attempt in batch.attempts.values() if not attempt.open]
    going = [attempt for attempt in batch.attempts.values() if attempt.open]
    _many(connection, queues.UPSERT_QUEUE, [queues.queue_row(queue) for queue in batch.queues.values()])
    _many(connection, queues.UPSERT_RESOURCE, [queues.resource_row(one) for one in batch.resources.values()])
    _many(connection, jobs.INSERT, [jobs.insert_row(job) for job in batch.new_jobs.values()])
    _many(connection, jobs.INSERT_NEED, batch.needs)
    _many(connection, jobs.DELETE_NEED, batch.needs_met, exact=True)
    _many(connection, jobs.INSERT_KEY, [(k.owner_uid, k.key, k.spec_hash, k.job_id, k.created_at) for k in batch.keys])
    _many(connection, attempts.SETTLE, [attempts.settle_row(attempt) for attempt in ended], exact=True)
    _many(connection, jobs.UPDATE, [jobs.update_row(job) for job in batch.jobs.values()], exact=True)
    _many(connection, jobs.UPDATE_SPEC, [_spec_row(job) for job in batch.respecified.values()], exact=True)
    _many(connection, attempts.INSERT, [_attempt_row(batch, attempt) for attempt in batch.new_attempts.values()])
    _many(connection, attempts.UPDATE, [attempts.update_row(attempt) for attempt in going], exact=True)
    _many(connection, workflows.INSERT, [workflows.insert_row(one) for one in batch.new_workflows.values()])
    _many(connection, workflows.UPDATE, [workflows.update_row(one) for one in batch.workflows.values()], exact=True)
    _many(connection, checkpoints.INSERT, [checkpoints.insert_row(one) for one in batch.checkpoints])
    _many(connection, queues.SET_META, list(batch.meta.items()))
    if batch.recovery is not None:
        connection.execute(recoveries.UPSERT, recoveries.row(batch.recovery))
    rows, head = changes.insert_rows(batch.changes, head)
    _many(connection, changes.INSERT, rows)
    return head


def _spec_row(job: Job) -> tuple[Any, ...]:
    return (job.spec.deadline, job.spec.timeout_ms, job.spec_hash, job.id)


def _attempt_row(batch: Batch, attempt: Attempt) -> tuple[Any, ...]:
    return attempts.insert_row(attempt, batch.holds.get(attempt.run_id, {}))


class Writer:
    """Turns batches into commits, one at a time."""

    def __init__(self, database: Database, head: bytes, reserve: Path, reserve_bytes: int) -> None:
        self._database = database
        self._head = head
        self._reserve = reserve
        self._reserve_bytes = reserve_bytes
        self.full = False

    async def commit(self, batch: Batch) -> None:
        """Make `batch` durable. Raises StorageFailed when that is in doubt."""
        try:
            self._head = await self._database.run(store, batch, self._head)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise StorageFailed(f"commit: {error}") from error
            await self._commit_from_reserve(batch)
        except sqlite3.Error as error:
            raise StorageFailed(f"commit: {error}") from error

    async def _commit_from_reserve(self, batch: Batch) -> None:
        self.full = True
        self._reserve.unlink(missing_ok=True)
        try:
            self._head = await self._database.run(store, batch, self._head)
        except sqlite3.Error as error:
            raise StorageFailed(f"commit on a full disk, after the reserve was given up: {error}") from error

    async def read(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Look at what is committed, in the writer's own thread: never in the middle of a commit."""
        try:
            return await self._database.run(function, *args, **kw)
        except sqlite3.Error as error:
            raise StorageFailed(f"read: {error}") from error

    async def maintain(
        self, function: Callable[Concatenate[sqlite3.Connection, P], int], *args: P.args, **kw: P.kwargs
    ) -> int:
        """A bounded piece of upkeep between two commits. Raises StorageFailed."""
        return await self.read(function, *args, **kw)

    def keep_reserve(self) -> None:
        """Set the emergency reserve aside (again). Raises OSError when there is no room for it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._reserve, flags, 0o600)
        try:
            if self._reserve_bytes:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self.full = False

    async def close(self) -> None:
        await self._database.close()
