"""The journal's part in the writer's thread: read what a commit changes, and hand it to the journal after it.

Owns how far the outbox and the log of changes were read, and how many entries were deleted. Only the writer's thread
uses it. Mostly the rows are read in the transaction that writes them: to begin one of their own would cost more than
to read them. Rows that cannot be read or handed over now stay in the outbox, and are read later.
Invariants: no entry is deleted before its row is durable in a file; no file has a row that a power loss could take
from the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from stoker.core.clock import wall_ms
from stoker.core.errors import CorruptRecord
from stoker.store import outbox
from stoker.store.database import snapshot, transaction
from stoker.store.journal import Handed, Journal
from stoker.store.journal_files import Line, Position
from stoker.store.outbox import Written

PORTION = 512  # entries, and changes, in one line
PORTIONS = 4  # in one call between two commits
MOST_AHEAD = 16 * PORTION  # entries that are read and not yet durable: a fast purge adds 4 000 in one sync of the files
LINE_BYTES = 1024 * 1024  # of rows, unless one row has more
MOST_AHEAD_BYTES = 16 * LINE_BYTES  # of rows that are read and not yet written
FORGET_AFTER = 256  # entries: to delete a few at each commit would cost more
MOST_FORGOTTEN = 1_024  # entries in one commit, whose answers wait for it

SEQ = 0  # its place in a row of the log of changes
CHANGES = "SELECT {columns} FROM changes AS t WHERE seq > ? ORDER BY seq LIMIT ?"


class ReadUpTo(NamedTuple):
    """Up to where lines were read. `more`: further ones of the same commits follow."""

    position: Position
    more: bool


class JournalFeed:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._start = journal.start
        self._read = self._start.position
        self._read_bytes = 0
        self._held: list[Handed] = []  # of commits that were not synced yet
        self._forgotten = 0
        self._unfinished = False  # more lines of the same commits follow the last one
        self._behind = False
        self.unread: Exception | None = None  # why committed rows could not be read the last time
        self._tables: dict[str, outbox.Table] = {}
        self._log: outbox.Table | None = None

    @property
    def behind(self) -> bool:
        """Whether committed rows are still to be read."""
        return self._behind or not self.journal.writing or self._start is not self.journal.start

    @property
    def lags(self) -> bool:
        """Whether rows are to be read or handed over, or many entries to be deleted."""
        return self.behind or bool(self._held) or self.journal.durable.last - self._forgotten > MOST_FORGOTTEN

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes of rows were read and are not written yet."""
        return self._read_bytes - self.journal.written_bytes

    def _is_far_ahead(self, at: ReadUpTo) -> bool:
        """Whether so much waits for the disk that no more is to be read."""
        return at.position.last - self.journal.durable.last > MOST_AHEAD or self.waiting_bytes > MOST_AHEAD_BYTES

    def forget(self, connection: sqlite3.Connection, lines: Sequence[tuple[Line, int]] = ()) -> None:
        """Delete some entries that are durable in the files; inside a transaction that adds those of `lines`.

        It deletes more than it adds, but not much: an answer waits for it.
        """
        self._follow_start()
        added = lines[-1][0].last - self._read.last if lines else 0
        durable = min(self.journal.durable.last, self._forgotten + min(MOST_FORGOTTEN, FORGET_AFTER + 2 * added))
        if durable - self._forgotten >= FORGET_AFTER:
            outbox.forget(connection, durable)
            self._forgotten = durable

    def collect(self, connection: sqlite3.Connection) -> int:
        """Read what was committed, between two commits, and hand it over; returns the number of lines."""
        return self.hand_over(self.read(connection))

    def read(self, connection: sqlite3.Connection, written: Written | None = None) -> Sequence[tuple[Line, int]]:
        """The next lines and the sizes of their rows, for `hand_over` once what they say is committed.

        `written`: of the open transaction. Rows are measured only if they may be many or large. While the files are
        behind a call reads one portion, as the next commit waits for it. Rows that cannot be read now (`unread`) are
        still in the outbox.
        """
        self._follow_start()
        written = Written() if written is None else written
        about, most_bytes = written.bytes, LINE_BYTES if self._behind or written.bytes > LINE_BYTES else None
        most = 1 if self._behind else PORTIONS
        lines: list[tuple[Line, int]] = []
        at, more = ReadUpTo(self._read, more=self._unfinished), True
        try:
            while more and len(lines) < most and self.journal.writing and not self._is_far_ahead(at):
                following = self._next(connection, at, most_bytes, written)
                more = following is not None and following[0].more
                if following is not None:
                    line, size = following
                    lines.append((line, size or about))
                    at = ReadUpTo(line.position, more=line.more)
                    written = Written(deleted=written.deleted)  # the rest has only some of the entries of a table
            self.unread = None
        except (sqlite3.Error, MemoryError, CorruptRecord) as error:
            self.unread = error.with_traceback(None)  # whose frames keep cursors, and so a snapshot, open
        self._behind = more
        return lines

    def hand_over(self, lines: Sequence[tuple[Line, int]], *, synced: bool = True) -> int:
        """Give lines whose rows are committed to the journal, once a commit was `synced`; returns their number."""
        for line, size in lines:
            self._read, self._unfinished = line.position, line.more
            self._read_bytes += size
            self._held.append(Handed(self._start, line, size))
        if synced:
            for handed in self._held:
                self.journal.put(handed)
            self._held.clear()
        return len(lines)

    def _follow_start(self) -> None:
        """Read on from where the files go on, if they were resumed or begun anew."""
        if self._start is not self.journal.start:
            self._start = self.journal.start
            self._read, self._forgotten = self._start.position, self._start.first_entry - 1
            self._unfinished, self._behind = False, True

    def _next(
        self, connection: sqlite3.Connection, at: ReadUpTo, most_bytes: int | None, written: Written
    ) -> tuple[Line, int] | None:
        """The line behind `at`, and how many bytes its rows have; 0 if they were not measured."""
        log = self._read_tables(connection)
        with snapshot(connection):
            images = outbox.images(connection, self._tables, at.position.last, PORTION, most_bytes, written)
            changes = written.inserted.get(outbox.LOG)
            if changes and changes[0][SEQ] == at.position.seq + 1 and most_bytes is None:
                rows, size = list(changes), 0  # no other rows are unread
            else:
                select = CHANGES.format(columns=", ".join(log.columns))
                rows, size = outbox.rows_within(connection.execute(select, (at.position.seq, PORTION)), most_bytes)
        more = images.more or len(rows) == PORTION or (most_bytes is not None and size >= most_bytes)
        if rows:
            images.put[outbox.LOG] = [log.row(row) for row in rows]
        elif images.last == at.position.last and not at.more:
            return None
        line = Line(
            last=images.last,
            seq=rows[-1][SEQ] if rows else at.position.seq,
            at=wall_ms(),
            more=more,
            put=images.put,
            gone=images.gone,
        )
        return line, images.size + size

    def _read_tables(self, connection: sqlite3.Connection) -> outbox.Table:
        """The table of changes; all others are in `_tables`."""
        if self._log is None:
            self._tables = {table.name: table for table in outbox.tables(connection)}
            self._log = outbox.table(connection, outbox.LOG)
        return self._log


@contextmanager
def journaled(connection: sqlite3.Connection, feed: JournalFeed | None, *, synced: bool = True) -> Iterator[Written]:
    """A transaction whose rows the journal gets after the commit; in it, entries that the journal has are deleted.

    The rows are read before the commit, unless the journal is behind: a read that fails in a transaction may end that,
    and rows of earlier commits may be damaged. `synced`: whether the connection syncs this commit, and with it all
    earlier ones.
    """
    written = Written()
    with transaction(connection):
        yield written
        if feed is not None:
            behind = feed.behind
            lines = () if behind else feed.read(connection, written)
            feed.forget(connection, lines)
    if feed is not None:
        feed.hand_over(feed.read(connection) if behind else lines, synced=synced)
