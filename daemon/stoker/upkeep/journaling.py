"""The upkeep of the journal: it is resumed at a start and after a failure, caught up, begun anew, and pruned.

Owns the tries. A failure is logged once and shown by `stoker status` and `system.health`; jobs go on meanwhile. If the
journal lacks too many rows it is given up: the outbox is emptied, and a new chain begins as soon as files can be
written. Invariants: one task at a time works on the files; a file is removed only once a backup replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.errors import BackupFailed, CorruptRecord, DiskFull, JournalBroken, StorageFailed
from stoker.core.retention import removable_files
from stoker.host.threads import run_apart
from stoker.store import outbox
from stoker.store.backup_files import listed
from stoker.store.directory import StateDirectory
from stoker.store.journal import Journal, NewChain, Outbox, new_chain, read_outbox
from stoker.store.journal_feed import JournalFeed
from stoker.store.journal_files import files, replaced_by
from stoker.store.reader import Reader
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.pace import Pace

if TYPE_CHECKING:
    from stoker.core.daemon_views import JournalStatus

AGAIN_MS = 5_000  # after a failure
PRUNED_EVERY_MS = 60_000
MOST_WAITING = 1_000_000  # entries of the outbox, about 60 MB: to write a new chain takes less time than these
PATIENCE_S = 5.0  # for the last append: a dead disk may never answer
REST = 1.0  # pauses while it catches up are as long as the work


class Journaling:
    """Call `begin` once the daemon has recovered, and `tick` about every second."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        feed: JournalFeed | None,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        background: BackgroundTasks,
    ) -> None:
        self._config = config
        self._directory = directory
        self._feed = feed
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._background = background
        self._appending: asyncio.Future[None] | None = None
        self._due = self._prune_due = 0
        self._failure: str | None = None
        self._announced: NewChain | None = None
        self._given_up = False

    def use(self, config: Config) -> None:
        """Work by these settings from now on."""
        self._config = config
        self._prune_due = 0

    def begin(self) -> None:
        if self._feed is not None:
            self._background.start("journal", self._open(self._feed))

    def tick(self) -> None:
        """Resume a journal that failed, catch up, or prune: whatever is due."""
        feed = self._feed
        if feed is None or self._background.is_running("journal"):
            return
        if not feed.journal.writing:
            if feed.journal.error is not None:  # `_open` has noted the error if it could not be opened
                self._note(feed.journal.error)
            if self._clock.now().steady >= self._due:
                self._background.start("journal", self._open(feed))
        elif feed.lags:
            self._background.start("journal", self._catch_up(feed))
        elif self._clock.now().steady >= self._prune_due:
            self._background.start("journal", self._prune())

    def _start_thread(self, journal: Journal) -> None:
        """Raises RuntimeError if the kernel refuses a thread, or the error that ended the previous thread."""
        ended = self._appending
        if ended is None or ended.done():
            self._appending = run_apart(journal.append_all, "journal")
            if ended is not None:
                ended.result()

    async def _open(self, feed: JournalFeed) -> None:
        """Resume the files that are there, or begin a new chain."""
        journal = feed.journal
        try:
            self._start_thread(journal)
            stored = await self._reader.run(read_outbox)
            if stored.last - stored.first >= MOST_WAITING:
                stored = await self._give_up(journal)
            self._given_up = stored.chain is None
            needed = await run_apart(lambda: journal.resume(stored), "journal")
            if needed is not None:
                await self._begin_chain(journal, needed)
        except (OSError, sqlite3.Error, StorageFailed, CorruptRecord, DiskFull, MemoryError, RuntimeError) as error:
            # RuntimeError: the kernel refused a thread
            self._note(error)
            self._due = self._clock.now().steady + AGAIN_MS
            return
        self._note_success()
        await self._catch_up(feed)

    async def _give_up(self, journal: Journal) -> Outbox:
        """Empty the outbox, and record no changes in it until a new chain begins."""
        await self._writer.maintain(outbox.disarm)
        log(LogEvent.JOURNAL_GIVEN_UP, path=journal.directory, most_waiting=MOST_WAITING)
        return await self._reader.run(read_outbox)

    async def _begin_chain(self, journal: Journal, needed: NewChain) -> None:
        """Store the name of the chain before reading rows: a later backup then contains the name of its chain."""
        chain = new_chain()
        if needed != self._announced:  # once, however many tries it takes
            event = LogEvent.JOURNAL_DAMAGED if needed.damaged else LogEvent.JOURNAL_BEGUN
            log(event, path=journal.directory, reason=needed.reason)
            self._announced = needed
        await self._writer.maintain(_set_chain, chain)
        await run_apart(lambda: journal.begin_chain(chain, self._directory.database), "journal")
        self._given_up, self._announced = False, None

    async def _catch_up(self, feed: JournalFeed) -> None:
        pace = Pace(REST)
        with contextlib.suppress(DiskFull):  # the next tick tries again
            while feed.journal.writing and feed.lags:
                async with pace.piece():
                    await self._writer.catch_up()
                if feed.unread is not None:
                    self._note(feed.unread)
                    self._prune_due = 0  # to note the success soon
                    return

    async def _prune(self) -> None:
        self._prune_due = self._clock.now().steady + PRUNED_EVERY_MS
        try:
            await asyncio.to_thread(self._remove_replaced)
        except (OSError, BackupFailed, JournalBroken) as error:
            self._note(error)
            self._prune_due = self._clock.now().steady + AGAIN_MS
        else:
            self._note_success()

    def _remove_replaced(self) -> None:
        """Remove the oldest files beyond `keep_bytes`, as far as a backup replaces them."""
        paths, backups = files(self._directory.journal), listed(self._directory.backups)
        replaced = replaced_by(paths, backups[0].at, backups[0].last_seq) if backups else 0
        sizes = [path.stat().st_size for path in paths]
        for path in paths[: removable_files(sizes, replaced, self._config.journal.keep_bytes)]:
            path.unlink()

    def _note(self, error: Exception) -> None:
        """Log a failure once."""
        failure = _text(error)
        if failure != self._failure:
            self._failure = failure
            log(LogEvent.JOURNAL_FAILED, path=self._directory.journal, error=error)

    def _note_success(self) -> None:
        """The last failure is over: log it once."""
        if self._failure is not None:
            self._failure = None
            log(LogEvent.JOURNAL_BACK, path=self._directory.journal)

    @property
    def error(self) -> str | None:
        """Why the journal cannot be written now."""
        error = None if self._feed is None else self._feed.journal.error
        return self._failure if error is None else _text(error)

    def describe(self) -> JournalStatus:
        """For `system.status`."""
        if self._feed is None:
            return {
                "enabled": False,
                "files": 0,
                "bytes": 0,
                "keep_bytes": 0,
                "seq": 0,
                "at": None,
                "behind": False,
                "given_up": False,
                "error": None,
            }
        sizes = self._sizes()
        return {
            "enabled": True,
            "files": len(sizes),
            "bytes": sum(sizes),
            "keep_bytes": self._config.journal.keep_bytes,
            "seq": self._feed.journal.durable.seq,
            "at": self._feed.journal.durable_at or None,
            "behind": self._feed.behind,
            "given_up": self._given_up,
            "error": self.error,
        }

    def _sizes(self) -> list[int]:
        """Measured in the loop: `status` must not wait for a thread, as handlers of the user may occupy them all."""
        try:
            return [path.stat().st_size for path in files(self._directory.journal)]
        except OSError:
            return []  # `error` shows why

    async def close(self) -> None:
        """Hand the last commits to the thread, and end it. Safe to call when the start failed half-way."""
        if self._feed is not None:
            with contextlib.suppress(StorageFailed, CorruptRecord, DiskFull):  # the missing rows are in the outbox
                await self._writer.catch_up()
            self._feed.journal.close()
            if self._appending is not None:
                await asyncio.wait({self._appending}, timeout=PATIENCE_S)


def _text(error: Exception) -> str:
    """The message of an error; its type if it has none, as a MemoryError."""
    return str(error) or type(error).__name__


def _set_chain(connection: sqlite3.Connection, chain: str) -> int:
    """Name the new chain. The triggers are made again, as the previous journal may have been given up."""
    outbox.arm(connection)
    outbox.set_chain(connection, chain)
    return 1
