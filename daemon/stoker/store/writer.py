"""The writer: makes each Batch one durable transaction.

Owns the only connection that writes or checkpoints, and the head of the hash chain. After a failed write it is in doubt
what is on disk: StorageFailed is raised, nothing more is committed, and the daemon stops. A full disk is different:
SQLite rolled the transaction back, the reserve is deleted so that running jobs can still be settled, and if that is not
enough the commit waits until space is freed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from msgspec import Struct, field

from stoker.core.errors import DiskFull, StorageFailed
from stoker.core.job.model import Attempt, Change, Job, NeedOn, Queue, Resource
from stoker.core.job.secret_values import Secrets
from stoker.core.named_events import NamedEvent
from stoker.core.rate import Rate
from stoker.core.schedule.model import Schedule
from stoker.core.shortage import OWN_SHORTAGES
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.core.workflow.state import Workflow
from stoker.store import (
    attempts,
    changes,
    checkpoints,
    conditions,
    jobs,
    keys,
    queues,
    rates,
    recoveries,
    retention,
    schedules,
    secret_rows,
    workflows,
)
from stoker.store.database import Database, copy_wal, sync_commits, write_header
from stoker.store.directory import FULL
from stoker.store.high_water import HighWater, Mark
from stoker.store.journal_feed import JournalFeed, journaled
from stoker.store.reserve import Reserve, is_full
from stoker.store.secret_box import SecretBox
from stoker.store.strict import failed_read

P = ParamSpec("P")
T = TypeVar("T")

ROOM_AGAIN_S = 1.0
# The WAL starts again from its beginning after so many pages: to overwrite costs half the sync time of growing. A
# commit that comes while they are copied waits: fewer copies hold up fewer commits. A start after a crash reads 16 MB
# in a fraction of a second.
CHECKPOINT_PAGES = 4_000
PAGE_BYTES = 4_096
COMMIT_PAGES = 6  # of tables and indexes, for any transaction
FORGOTTEN_PAGES = 10  # of entries that are deleted at once
LONE_ROWS = 4  # the first rows of a transaction share few pages of tables and indexes; further ones do


class Batch(Struct):
    """The rows that one turn writes, at most one entry for each row."""

    new_jobs: dict[int, Job] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    respecified: dict[int, Job] = field(default_factory=dict)
    new_attempts: dict[str, Attempt] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    holds: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: list[keys.NewKey] = field(default_factory=list)
    needs: dict[int, dict[int, NeedOn]] = field(default_factory=dict)  # job: all of its open needs, by needed job
    needs_met: set[tuple[int, int]] = field(default_factory=set)
    new_events: dict[int, NamedEvent] = field(default_factory=dict)
    events: dict[int, NamedEvent] = field(default_factory=dict)
    seen: dict[tuple[int, int], str] = field(default_factory=dict)  # by job and number: see ConditionWaiter
    given_events: list[tuple[int, int]] = field(default_factory=list)  # which job got which event
    queues: dict[str, Queue] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    rates: dict[str, Rate | None] = field(default_factory=dict)  # by key; None: removed
    buckets: dict[str, int | None] = field(default_factory=dict)  # full_at by name; None: full
    schedules: dict[str, Schedule] = field(default_factory=dict)
    removed_schedules: set[str] = field(default_factory=set)
    new_workflows: dict[int, Workflow] = field(default_factory=dict)
    workflows: dict[int, Workflow] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    recovery: recoveries.Recovery | None = None
    purge: retention.PurgePortion | None = None
    secrets: dict[int, Secrets] = field(default_factory=dict)  # of new jobs
    changes: list[Change] = field(default_factory=list)

    def __bool__(self) -> bool:
        rows = (
            self.changes,
            self.jobs,
            self.attempts,
            self.workflows,
            self.checkpoints,
            self.schedules,
            self.events,
            self.seen,
            self.meta,
        )
        return any((*rows, self.recovery is not None))


class Stored(NamedTuple):
    """The new head of the hash chain, an estimate of the pages of WAL that the transaction took, and ends of jobs.

    `changes`: the rows that were added to the log of changes.
    """

    head: bytes
    pages: int
    changes: Sequence[tuple[Any, ...]]
    ends: Sequence[attempts.Needed] = ()


def _many(connection: sqlite3.Connection, sql: str, rows: list[tuple[Any, ...]], *, exact: bool = False) -> None:
    if not rows:
        return
    hit = connection.executemany(sql, rows).rowcount
    if exact and hit != len(rows):
        raise sqlite3.IntegrityError(f"{hit} of {len(rows)} rows were there to update: {sql.split()[1]}")


def store(
    connection: sqlite3.Connection,
    batch: Batch,
    head: bytes,
    needed: Collection[int] = (),
    feed: JournalFeed | None = None,
    box: SecretBox | None = None,
) -> Stored:
    """Commit a batch, then read how the jobs `needed` ended: a second hop to the thread costs more than the read."""
    with journaled(connection, feed) as written:
        stored = _write(connection, batch, head)
        secret_rows.write(connection, box, batch.secrets, batch.jobs.values())
        written.bytes, written.changes = stored.pages * PAGE_BYTES, stored.changes
    try:
        return stored._replace(ends=attempts.needed(connection, needed) if needed else ())
    except sqlite3.Error:  # the batch is on disk; the starts that need these ends read them again, one by one
        return stored


def _write(connection: sqlite3.Connection, batch: Batch, head: bytes) -> Stored:
    ended = [attempt for attempt in batch.attempts.values() if not attempt.open]
    going = [attempt for attempt in batch.attempts.values() if attempt.open]
    new = [attempts.insert_row(attempt, batch.holds.get(attempt.run_id, {})) for attempt in batch.new_attempts.values()]
    _many(connection, queues.UPSERT_QUEUE, [queues.queue_row(queue) for queue in batch.queues.values()])
    _many(connection, queues.UPSERT_RESOURCE, [queues.resource_row(one) for one in batch.resources.values()])
    _many(connection, rates.DELETE, [(key,) for key, rate in batch.rates.items() if rate is None])
    _many(connection, rates.UPSERT, [rates.row(key, rate) for key, rate in batch.rates.items() if rate is not None])
    _many(connection, rates.DELETE_BUCKET, [(name,) for name, full_at in batch.buckets.items() if full_at is None])
    _many(connection, rates.UPSERT_BUCKET, [bucket for bucket in batch.buckets.items() if bucket[1] is not None])
    _many(connection, schedules.DELETE, [(name,) for name in batch.removed_schedules])
    _many(connection, schedules.UPSERT, [schedules.row(schedule) for schedule in batch.schedules.values()])
    _many(connection, jobs.INSERT, [jobs.insert_row(job) for job in batch.new_jobs.values()])
    _many(connection, jobs.DELETE_NEED, list(batch.needs_met), exact=True)
    _many(connection, jobs.DROP_NEEDS, [(job_id,) for job_id in batch.needs if job_id not in batch.new_jobs])
    _many(connection, jobs.INSERT_NEED, jobs.need_rows(batch.needs))
    _write_conditions(connection, batch)
    _many(connection, keys.INSERT, [keys.new_row(key) for key in batch.keys])
    _many(connection, attempts.SETTLE, [attempts.settle_row(attempt) for attempt in ended], exact=True)
    _many(connection, jobs.UPDATE, [jobs.update_row(job) for job in batch.jobs.values()], exact=True)
    _many(connection, jobs.UPDATE_SPEC, [jobs.spec_row(job) for job in batch.respecified.values()], exact=True)
    _many(connection, attempts.INSERT, new)
    _many(connection, attempts.UPDATE, [attempts.update_row(attempt) for attempt in going], exact=True)
    _many(connection, workflows.INSERT, [workflows.insert_row(one) for one in batch.new_workflows.values()])
    _many(connection, workflows.UPDATE, [workflows.update_row(one) for one in batch.workflows.values()], exact=True)
    _many(connection, checkpoints.INSERT, [checkpoints.insert_row(one) for one in batch.checkpoints])
    _many(connection, queues.SET_META, list(batch.meta.items()))
    if batch.recovery is not None:
        connection.execute(recoveries.UPSERT, recoveries.row(batch.recovery))
    if batch.purge is not None:
        retention.purge(connection, batch.purge)
    rows, head = changes.insert_rows(batch.changes, head)
    _many(connection, changes.INSERT, rows)
    return Stored(head, _pages(batch, rows), rows)


def _write_conditions(connection: sqlite3.Connection, batch: Batch) -> None:
    _many(connection, conditions.INSERT, conditions.new_rows(batch.new_jobs.values()))
    _many(connection, conditions.SEE, [(seen, *waiter) for waiter, seen in batch.seen.items()])
    _many(connection, conditions.CLOSE, conditions.close_rows(batch.jobs.values()))
    _many(connection, conditions.FREE_KEY, conditions.key_rows(batch.new_events.values()))
    _many(connection, conditions.INSERT_EVENT, [conditions.event_row(event) for event in batch.new_events.values()])
    _many(connection, conditions.UPDATE_EVENT, [conditions.update_row(event) for event in batch.events.values()])
    _many(connection, conditions.INSERT_GIVEN, batch.given_events)
    _many(connection, conditions.REPLACE_KEPT, conditions.replaced_rows(batch.new_events.values()))


def _pages(batch: Batch, changed: list[tuple[Any, ...]]) -> int:
    """An estimate of the pages of WAL of a batch. Large texts are in checkpoints, and in jobs and their changes.

    It was compared with the growth of the WAL, for single jobs, many jobs at once, and workflows.
    """
    rows = len(batch.changes) + len(batch.new_workflows) + len(batch.workflows) + len(batch.checkpoints)
    rows += len(batch.schedules) + len(batch.buckets) + len(batch.new_events) + len(batch.events)
    data = sum(len(each.data) for each in batch.checkpoints) + sum(len(each.data) for each in batch.new_events.values())
    data += 2 * sum(len(row[changes.PAYLOAD]) for row in changed)
    purged = 0 if batch.purge is None else batch.purge.pages
    return COMMIT_PAGES + rows + min(rows, LONE_ROWS) + data // PAGE_BYTES + purged


def given_out(batch: Batch) -> Mark:
    """The highest ids that a batch gives out."""
    return Mark(
        jobs=max(batch.new_jobs, default=0),
        workflows=max(batch.new_workflows, default=0),
        checkpoints=max((one.id for one in batch.checkpoints), default=0),
    )


class Writer:
    """One commit at a time. `full`: a commit found the disk full; `waiting`: a commit waits for space now."""

    def __init__(
        self,
        database: Database,
        head: bytes,
        room: Reserve,
        high_water: HighWater,
        feed: JournalFeed | None = None,
        box: SecretBox | None = None,
    ) -> None:
        self._database = database
        self._head = head
        self._room = room
        self._high_water = high_water
        self._feed = feed
        self._box = box
        self._in_doubt: StorageFailed | None = None
        self._since_checkpoint = 0
        self._copies = 0  # that are made of the database now
        self._syncs = True  # whether the connection syncs each commit
        self._unsynced = False  # whether a sweep was committed since the last sync
        self.full = False
        self.waiting = False

    async def commit(self, batch: Batch, needed: Collection[int] = ()) -> Sequence[attempts.Needed]:
        """Make `batch` durable; waits while the disk is full. Raises StorageFailed if it is in doubt.

        Returns how the jobs `needed` ended, as far as that could be read.
        """
        if self._in_doubt is not None:
            raise self._in_doubt
        stored = await self._stored(batch, needed)
        if stored is None:
            self._room.give_up()
            stored = await self._store_later(batch, needed)
        return stored.ends

    async def checkpoint_if_due(self) -> None:
        """Copy the WAL into the database if much was written since the last time: to be called after each commit.

        A commit does not wait for it: to copy ten megabytes takes as long as to write them.
        """
        if self._since_checkpoint >= CHECKPOINT_PAGES:
            await self.checkpoint()

    async def _store_later(self, batch: Batch, needed: Collection[int]) -> Stored:
        try:
            while (stored := await self._stored(batch, needed)) is None:
                self.waiting = True
                await asyncio.sleep(ROOM_AGAIN_S)  # polls: the kernel sends no notice of free space
        finally:
            self.waiting = False
        return stored

    async def _stored(self, batch: Batch, needed: Collection[int]) -> Stored | None:
        """None if the disk is full and the transaction was rolled back."""
        try:
            stored = await self._database.run(self._cover_and_store, batch, needed)
        except sqlite3.Error as error:
            if not is_full(error, self._room.path.parent):
                raise StorageFailed(f"commit: {error}") from error
            self.full = True
            return None
        except OSError as error:  # of the high-water mark: nothing was committed
            if error.errno not in FULL and error.errno not in OWN_SHORTAGES:
                raise StorageFailed(f"high-water mark: {error}") from error
            self.full = True
            return None
        self._head = stored.head
        self._since_checkpoint += stored.pages
        return stored

    def _cover_and_store(self, connection: sqlite3.Connection, batch: Batch, needed: Collection[int]) -> Stored:
        self._high_water.cover(given_out(batch))
        self._sync_commits(connection, wanted=True)
        stored = store(connection, batch, self._head, needed, self._feed, self._box)
        self._unsynced = False
        return stored

    def _sync_commits(self, connection: sqlite3.Connection, *, wanted: bool) -> None:
        if wanted is not self._syncs:
            sync_commits(connection, wanted=wanted)
            self._syncs = wanted

    async def catch_up(self) -> None:
        """Hand some more rows to a journal that is behind, delete entries of the outbox that it has, sync sweeps."""
        await self._sweep(lambda _connection: retention.Swept(0, FORGOTTEN_PAGES), synced=True)

    async def sync_sweeps(self) -> None:
        """Make durable what was swept, and let the journal have it. Raises StorageFailed or DiskFull."""
        if self._unsynced:
            await self.catch_up()

    @contextlib.asynccontextmanager
    async def being_copied(self) -> AsyncGenerator[None]:
        """Sync every commit inside: the journal would not fit to a copy that has what a power loss takes back."""
        self._copies += 1
        try:
            await self.sync_sweeps()
            yield
        finally:
            self._copies -= 1

    async def read(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Read committed rows in the writer's thread, between two commits."""
        try:
            return await self._database.run(function, *args, **kw)
        except sqlite3.Error as error:
            raise failed_read(error) from error

    async def maintain(
        self, function: Callable[Concatenate[sqlite3.Connection, P], int], *args: P.args, **kw: P.kwargs
    ) -> int:
        """A bounded piece of maintenance between two commits. Raises StorageFailed, as does every commit after that.

        On a full disk it raises DiskFull, and nothing was done.
        """
        try:
            return await self._database.run(self._synced, function, *args, **kw)
        except sqlite3.Error as error:
            if is_full(error, self._room.path.parent):
                raise DiskFull(f"upkeep: {error}") from error
            self._in_doubt = StorageFailed(f"upkeep: {error}")
            raise self._in_doubt from error

    def _synced(self, connection: sqlite3.Connection, function: Callable[..., int], *args: Any, **kw: Any) -> int:
        self._sync_commits(connection, wanted=True)
        return function(connection, *args, **kw)

    async def sweep(
        self, function: Callable[Concatenate[sqlite3.Connection, P], retention.Swept], *args: P.args, **kw: P.kwargs
    ) -> bool:
        """As `maintain`, for one of many pieces, each in a transaction; the WAL is copied after some of them.

        A piece is not synced, as the next commit is: a power loss takes back what will be swept again. The rows for the
        journal are read at once, and the entries of earlier ones are deleted: otherwise the next commits would do that,
        and their answers would wait. Returns whether another piece may find something.
        """
        return await self._sweep(lambda connection: function(connection, *args, **kw), synced=False)

    async def _sweep(self, function: Callable[[sqlite3.Connection], retention.Swept], *, synced: bool) -> bool:
        pages = 0

        def piece(connection: sqlite3.Connection) -> int:
            nonlocal pages
            # A journal that is behind may begin anew, with a copy of all rows.
            syncs = synced or self._copies > 0 or (self._feed is not None and self._feed.behind)
            self._sync_commits(connection, wanted=syncs)
            with journaled(connection, self._feed, synced=syncs) as written:
                swept = function(connection)
                written.bytes = swept.pages * PAGE_BYTES
                if syncs and self._unsynced:
                    write_header(connection)  # a transaction that writes nothing is not synced
            self._unsynced, pages = not syncs, swept.pages
            return 0 if swept.is_last else swept.removed

        more = await self.maintain(piece)
        self._since_checkpoint += pages
        await self.checkpoint_if_due()
        return more > 0

    @property
    def awaited(self) -> bool:
        """Whether a further call waits for the writer's thread."""
        return self._database.awaited

    async def checkpoint(self) -> None:
        """Copy the WAL into the database. Raises StorageFailed; on a full disk the WAL stays as it is."""
        self._since_checkpoint = 0
        with contextlib.suppress(DiskFull):
            await self.maintain(copy_wal)

    def keep_reserve(self) -> None:
        """Allocate the emergency reserve (again). Raises OSError if there is no room for it."""
        self._room.keep()
        self.full = False

    async def close(self) -> None:
        await self._database.close()
