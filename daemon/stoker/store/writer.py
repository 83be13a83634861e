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
from typing import Any, Concatenate, ParamSpec, TypeVar

from stoker.core.errors import DiskFull, StorageFailed
from stoker.core.shortage import OWN_SHORTAGES
from stoker.store import attempts, retention
from stoker.store.batch import PAGE_BYTES, Batch, Stored, given_out, store
from stoker.store.database import Database, copy_wal, sync_commits, write_header
from stoker.store.directory import FULL
from stoker.store.high_water import HighWater
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
FORGOTTEN_PAGES = 10  # of entries that are deleted at once


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
                written.bytes, written.deleted = swept.pages * PAGE_BYTES, swept.deleted
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
