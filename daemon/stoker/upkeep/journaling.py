"""The journal's care: it is resumed at a start and after a failure, caught up, begun anew, and kept within its bound.

Owns the tries: a journal that cannot be written is logged once, shown by `stoker status` and `system.health`, and tried
again; jobs go on meanwhile. If it lacks too many rows it is given up: a new chain begins once it can be written, and
the database keeps no list until then. Invariants: one task at a time works on the files; files that no backup replaces
stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.errors import BackupFailed, DiskFull, JournalBroken, StorageFailed
from stoker.core.retention import removable_files
from stoker.host.threads import run_apart
from stoker.store import outbox
from stoker.store.backup_files import listed
from stoker.store.directory import StateDirectory
from stoker.store.journal import Journal, NewChain, Outbox, new_chain, read_outbox
from stoker.store.journal_files import files, replaced_by
from stoker.store.reader import Reader
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.health import PATIENCE_S
from stoker.upkeep.pace import Pace

if TYPE_CHECKING:
    from stoker.core.daemon_views import JournalStatus

AGAIN_MS = 5_000  # after a failure
PRUNED_EVERY_MS = 60_000
MOST_WAITING = 1_000_000  # entries of the outbox, about 60 MB; a new chain takes less than to add so many rows
REST = 1.0  # catching up rests as long as it works


class Journaling:
    """Call `begin` once the daemon has recovered, and `tick` about every second."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        journal: Journal | None,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        background: BackgroundTasks,
    ) -> None:
        self._config = config
        self._directory = directory
        self._journal = journal
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._background = background
        self._working: asyncio.Task[None] | None = None
        self._appending: asyncio.Future[None] | None = None
        self._due = self._prune_due = 0
        self._failure: str | None = None
        self._given_up = False

    def use(self, config: Config) -> None:
        """Work by these settings from now on."""
        self._config = config
        self._prune_due = 0

    def begin(self) -> None:
        if self._journal is not None:
            self._working = self._background.start("journal", self._open(self._journal))

    def tick(self) -> None:
        """Try again what failed, and catch up."""
        journal = self._journal
        if journal is None or (self._working is not None and not self._working.done()):
            return
        if not journal.writing:
            self._note(journal.error)
            if self._clock.now().steady >= self._due:
                self._working = self._background.start("journal", self._open(journal))
        elif journal.lags:
            self._working = self._background.start("journal", self._catch_up(journal))
        elif self._clock.now().steady >= self._prune_due:
            self._prune_due = self._clock.now().steady + PRUNED_EVERY_MS
            self._working = self._background.start("journal", asyncio.to_thread(self._prune))

    def _start_thread(self, journal: Journal) -> None:
        """Raises RuntimeError if the kernel refuses a thread, and the error with which the last one ended."""
        ended = self._appending
        if ended is None or ended.done():
            self._appending = run_apart(journal.append_all, "journal")
            if ended is not None:
                ended.result()

    async def _open(self, journal: Journal) -> None:
        """Resume the files that are there, or begin a new chain."""
        try:
            self._start_thread(journal)
            known = await self._reader.run(read_outbox)
            if known.last - known.first >= MOST_WAITING:
                known = await self._give_up(journal)
            self._given_up = known.chain is None
            needed = await run_apart(lambda: journal.resume(known), "journal")
            if needed is not None:
                await self._begin_chain(journal, needed)
        except (OSError, sqlite3.Error, StorageFailed, DiskFull, MemoryError, RuntimeError) as error:
            # RuntimeError: the kernel refused a thread
            self._note(error)
            self._due = self._clock.now().steady + AGAIN_MS
            return
        if self._failure is not None:
            self._failure = None
            log(LogEvent.JOURNAL_BACK, path=journal.directory)
        await self._catch_up(journal)

    async def _give_up(self, journal: Journal) -> Outbox:
        """Drop the list of what the journal lacks, and keep none until a new chain begins."""
        await self._writer.maintain(outbox.disarm)
        log(LogEvent.JOURNAL_GIVEN_UP, path=journal.directory, most_waiting=MOST_WAITING)
        return await self._reader.run(read_outbox)

    async def _begin_chain(self, journal: Journal, needed: NewChain) -> None:
        """The name is in the database before its rows are read: a backup that follows knows where it joins on."""
        chain = new_chain()
        event = LogEvent.JOURNAL_DAMAGED if needed.damaged else LogEvent.JOURNAL_BEGUN
        log(event, path=journal.directory, reason=needed.reason)
        await self._writer.maintain(_set_chain, chain)
        await run_apart(lambda: journal.begin_chain(chain, self._directory.database), "journal")
        self._given_up = False

    async def _catch_up(self, journal: Journal) -> None:
        pace = Pace(REST)
        with contextlib.suppress(DiskFull):  # the next tick tries again
            while journal.writing and journal.lags:
                async with pace.piece():
                    await self._writer.catch_up()

    def _prune(self) -> None:
        """Remove the oldest files that are too many and that a backup replaces."""
        try:
            paths, backups = files(self._directory.journal), listed(self._directory.backups)
            replaced = replaced_by(paths, backups[0].at, backups[0].last_seq) if backups else 0
            sizes = [path.stat().st_size for path in paths]
            for path in paths[: removable_files(sizes, replaced, self._config.journal.keep_bytes)]:
                path.unlink()
        except (OSError, BackupFailed, JournalBroken) as error:
            self._note(error)

    def _note(self, error: Exception | None) -> None:
        """Log a failure once."""
        failure = _text(error)
        if failure != self._failure:
            self._failure = failure
            log(LogEvent.JOURNAL_FAILED, path=self._directory.journal, error=error)

    @property
    def error(self) -> str | None:
        """Why the journal cannot be written now."""
        error = None if self._journal is None else self._journal.error
        return self._failure if error is None else _text(error)

    async def describe(self) -> JournalStatus:
        """For `system.status`."""
        journal = self._journal
        if journal is None:
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
        sizes = await asyncio.to_thread(self._sizes)
        return {
            "enabled": True,
            "files": len(sizes),
            "bytes": sum(sizes),
            "keep_bytes": self._config.journal.keep_bytes,
            "seq": journal.durable.seq,
            "at": journal.durable_at or None,
            "behind": journal.behind,
            "given_up": self._given_up,
            "error": self.error,
        }

    def _sizes(self) -> list[int]:
        try:
            return [path.stat().st_size for path in files(self._directory.journal)]
        except OSError:
            return []  # the failure of the journal says more

    async def close(self) -> None:
        """Hand over the last commits, and end. Safe to call when the start failed half-way."""
        if self._journal is not None:
            with contextlib.suppress(StorageFailed, DiskFull):  # what is missing stands in the outbox
                await self._writer.catch_up()
            self._journal.close()
            if self._appending is not None:
                await asyncio.wait({self._appending}, timeout=PATIENCE_S)  # a dead disk may never answer


def _text(error: Exception | None) -> str:
    """An error without a message, as of memory, has a name."""
    return str(error) or type(error).__name__


def _set_chain(connection: sqlite3.Connection, chain: str) -> int:
    """It may have been given up: every change from here on is recorded again."""
    outbox.arm(connection)
    outbox.set_chain(connection, chain)
    return 1
