"""The journal of a running daemon: what each commit changed goes to files of JSON lines, behind the commit.

The writer's thread reads the changed rows right after a commit (`collect`); a thread of the journal writes them and
syncs, many commits at once, while answers go out. It may lag or fail, and nothing waits for it: what is not in the
files yet stands in the outbox. Who may use it: `collect` only the writer's thread; `resume` and `begin_chain` one task
while the journal is stopped. Invariant: the files never have a gap, and no entry of the outbox is forgotten before its
row is durable in a file.
"""

from __future__ import annotations

import queue
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from stoker.core.clock import wall_ms
from stoker.core.errors import JournalBroken
from stoker.store import changes, outbox
from stoker.store.backup_files import time_name
from stoker.store.database import reading, snapshot
from stoker.store.journal_files import (
    ROTATED_BYTES,
    START,
    End,
    Header,
    Line,
    Position,
    Tail,
    files,
    find_end,
    whole_files,
)

PORTION = 512  # entries, and changes, in one line
PORTIONS = 4  # in one call between two commits
MOST_AHEAD = 4 * PORTION  # entries that are read and not yet durable
LINE_BYTES = 1024 * 1024  # of rows, unless one row has more
MOST_AHEAD_BYTES = 16 * LINE_BYTES  # of rows that are read and not yet written
GATHER_S = 0.02  # commits of this time share one write and one sync: to sync after each would cost jobs a tenth
FORGET_AFTER = 256  # entries: to delete a few at each commit would cost more
MOST_FORGOTTEN = 1_024  # entries in one commit, whose answers wait for it

CHANGES = "SELECT {columns} FROM changes AS t WHERE seq > ? ORDER BY seq LIMIT ?"


class Outbox(Struct, frozen=True):
    """What the database knows of its journal: its chain, the oldest and newest entry, and the newest change."""

    chain: str | None
    first: int
    last: int
    seq: int


def read_outbox(connection: sqlite3.Connection) -> Outbox:
    return Outbox(outbox.chain(connection), *outbox.entry_range(connection), changes.last(connection)[0])


class NewChain(Struct, frozen=True):
    """Why the files that are there cannot be continued. `damaged`: something of them, or behind them, is lost."""

    reason: str
    damaged: bool = False


class Handed(Struct, frozen=True):
    """A line for the thread of the journal, of one life of the files; `size`: about how many bytes its rows have."""

    life: int
    line: Line
    size: int


class Journal:
    """`armed`: whether every change since the last start was recorded in the outbox."""

    def __init__(
        self, directory: Path, instance: str, schema: int, *, armed: bool, rotated_bytes: int = ROTATED_BYTES
    ) -> None:
        self.directory = directory
        self._instance = instance
        self._schema = schema
        self._armed = armed
        self._tail = Tail(directory, rotated_bytes)
        self._tables: dict[str, outbox.Table] = {}
        self._log: outbox.Table | None = None
        self._lines: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._life = 0  # of the files: lines that were read for an earlier one are dropped
        self._read = Position()
        self._read_bytes = self._written_bytes = 0  # each is changed by one thread
        self._forgotten = 0
        self._unfinished = False
        self.durable = Position()
        self.durable_at = 0
        self.writing = False
        self.behind = False
        self.error: Exception | None = None
        self._closing = threading.Event()

    # --- in the writer's thread ---

    def forget(self, connection: sqlite3.Connection) -> None:
        """Delete some entries that are durable in the files; inside a transaction."""
        durable = min(self.durable.last, self._forgotten + MOST_FORGOTTEN)
        if durable - self._forgotten >= FORGET_AFTER:
            outbox.forget(connection, durable)
            self._forgotten = durable

    def collect(self, connection: sqlite3.Connection, committed_bytes: int = 0) -> int:
        """Read what was committed, between two commits, and hand it to the thread; returns the number of lines.

        `committed_bytes`: about the size of the last commit. Rows are measured only if they may be many or large. While
        the files are behind a call reads one portion: commits go on meanwhile, and their answers wait for it.
        """
        measured = self.behind or committed_bytes > LINE_BYTES
        portions = 1 if self.behind else PORTIONS
        for count in range(portions):
            if not self.writing or self._is_far_ahead:
                self.behind = True
                return count
            portion = self._next(connection, LINE_BYTES if measured else None)
            if portion is None:
                self.behind = False
                return count
            line, size = portion
            self._read, self._unfinished = line.position, line.more
            self._read_bytes += size or committed_bytes
            self._lines.put(Handed(self._life, line, size or committed_bytes))
            if not line.more:
                self.behind = False
                return count + 1
        self.behind = True
        return portions

    @property
    def lags(self) -> bool:
        """Whether rows are to be read, or many entries to be deleted."""
        return self.behind or self.durable.last - self._forgotten > MOST_FORGOTTEN

    @property
    def _is_far_ahead(self) -> bool:
        """Whether so much waits for the disk that no more is to be read."""
        return self._read.last - self.durable.last > MOST_AHEAD or self.waiting_bytes > MOST_AHEAD_BYTES

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes of rows were read and are not written yet."""
        return self._read_bytes - self._written_bytes

    def _next(self, connection: sqlite3.Connection, most_bytes: int | None) -> tuple[Line, int] | None:
        """The next line, and how many bytes its rows have; 0 if they were not measured."""
        log = self._know_tables(connection)
        with snapshot(connection):
            images = outbox.images(connection, self._tables, self._read.last, PORTION, most_bytes)
            select = CHANGES.format(columns=", ".join(log.columns))
            rows, size = outbox.rows_within(connection.execute(select, (self._read.seq, PORTION)), most_bytes)
        more = images.more or len(rows) == PORTION or (most_bytes is not None and size >= most_bytes)
        if rows:
            images.put[outbox.LOG] = [log.row(row) for row in rows]
        elif images.last == self._read.last and not self._unfinished:
            return None
        line = Line(
            last=images.last,
            seq=rows[-1][log.key_indexes[0]] if rows else self._read.seq,
            at=wall_ms(),
            more=more,
            put=images.put,
            gone=images.gone,
        )
        return line, images.size + size

    def _know_tables(self, connection: sqlite3.Connection) -> outbox.Table:
        if self._log is None:
            self._tables = {table.name: table for table in outbox.tables(connection)}
            self._log = outbox.table(connection, outbox.LOG)
        return self._log

    # --- in its own thread ---

    def append_all(self) -> None:
        """Write what is handed over, until the end: to be called in a thread of its own."""
        ends = False
        while not ends and (first := self._lines.get()) is not None:
            ends = self._closing.wait(GATHER_S)
            handed = [first, *self._waiting()]
            lines = [one.line for one in handed if one.life == self._life]
            if lines and self.writing:
                try:
                    self._append(lines)
                except Exception as error:  # noqa: BLE001 - status and log show each failure, and it is tried again
                    self.writing, self.behind, self.error = False, True, error
            self._written_bytes += sum(one.size for one in handed)
        self._tail.close()

    def _waiting(self) -> Iterator[Handed]:
        while not self._lines.empty() and (further := self._lines.get()) is not None:
            yield further

    def _append(self, lines: list[Line]) -> None:
        if not self._tail.in_place:
            raise FileNotFoundError(2, "it was removed or replaced", str(self._tail.path))
        self._tail.write(lines)
        self._tail.sync()
        self.durable, self.durable_at = lines[-1].position, lines[-1].at
        self._tail.rotate_if_due(lines[-1])

    # --- while it is stopped ---

    def resume(self, known: Outbox) -> NewChain | None:
        """Go on with the files that are there, or say why a new chain must begin. Raises OSError."""
        try:
            end = find_end(self.directory)
        except JournalBroken as error:
            self._set_last_file_aside()
            return NewChain(error.message, damaged=True)
        if end is None:
            return NewChain("there was none")
        needed = self._find_reason(end, known)
        if needed is None:
            self._tail.resume(end)
            self._go_on_from(end.position, end.at, known)
        return needed

    def _set_last_file_aside(self) -> None:
        """It is evidence, and under this name it is in the way of no restore."""
        path = whole_files(self.directory)[-1]
        path.rename(path.with_name(f"{path.name}.damaged-{time_name(wall_ms())}"))

    def _find_reason(self, end: End, known: Outbox) -> NewChain | None:
        at, header = end.position, end.header
        ahead = at.last > known.last or at.seq > known.seq
        reasons = {
            NewChain("the database was restored, or kept no journal"): known.chain is None,
            NewChain("the database is another one"): known.chain != header.chain,
            NewChain(f"the database has a new schema, {self._schema}"): header.schema != self._schema,
            NewChain("the database was changed while no journal was kept"): not self._armed,
            NewChain("its first rows are not complete"): not end.complete,
            NewChain(f"what followed change {at.seq} is lost", damaged=True): at.last < known.first - 1,
            NewChain(f"it has changes up to {at.seq}, the database up to {known.seq}", damaged=True): ahead,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def begin_chain(self, chain: str, database: Path) -> None:
        """Write all rows of the database to a new chain of files. Raises OSError or sqlite3.Error.

        Without room for all of them nothing stays of it: each further try would take what is left of the disk.
        """
        before = files(self.directory)
        try:
            with reading(database) as connection:
                connection.execute("BEGIN")
                known, at = read_outbox(connection), wall_ms()
                position = Position(known.last, known.seq)
                self._tail.begin(self._first_header(chain, position, at))
                for line in _all_rows(connection, position, at):
                    self._tail.write([line])
                    self._tail.rotate_if_due(line)
                self._tail.sync()
        except BaseException:
            self._tail.close()
            for path in files(self.directory):
                if path not in before:
                    path.unlink()
            raise
        self._armed = True
        self._go_on_from(position, at, known)

    def _first_header(self, chain: str, position: Position, at: int) -> Header:
        return Header(
            chain=chain,
            instance=self._instance,
            schema=self._schema,
            follows=START.hex(),
            last=position.last,
            seq=position.seq,
            at=at,
            base=True,
        )

    def _go_on_from(self, position: Position, at: int, known: Outbox) -> None:
        self._life += 1
        self._forgotten = known.first - 1
        self._read = self.durable = position
        self.durable_at, self._unfinished = at, False
        self.error = None
        self.behind = self.writing = True

    def close(self) -> None:
        """Let the thread write what was handed over, and end."""
        self._closing.set()
        self._lines.put(None)


def new_chain() -> str:
    return secrets.token_hex(8)


def _all_rows(connection: sqlite3.Connection, position: Position, at: int) -> Iterator[Line]:
    """Every row of a database, in lines of which the last one has none."""
    every = [*outbox.tables(connection), outbox.table(connection, outbox.LOG)]
    for table in every:
        for rows in outbox.all_rows(connection, table):
            yield Line(last=position.last, seq=position.seq, at=at, more=True, base=True, put={table.name: rows})
    yield Line(last=position.last, seq=position.seq, at=at, base=True)
