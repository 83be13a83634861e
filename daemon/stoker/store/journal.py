"""The journal of a running daemon: what each commit changed goes to files of JSON lines, behind the commit.

Owns the files, and the thread that writes and syncs them, many commits at once, while answers go out. It may lag or
fail, and nothing waits for it: rows that are not in the files yet stand in the outbox, from where `journal_feed` hands
them over. `append_all` is its thread; while nothing is written one task may call `resume` and `begin_chain`.
Invariant: the files never have a gap.
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
from stoker.store.database import reading
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

GATHER_S = 0.05  # commits of this time share one write and one sync: to sync after each would cost jobs a tenth


class Outbox(Struct, frozen=True):
    """The journal according to the database: its chain, the oldest and newest entry, and the newest change."""

    chain: str | None
    first: int
    last: int
    seq: int


def read_outbox(connection: sqlite3.Connection) -> Outbox:
    return Outbox(outbox.chain(connection), *outbox.entry_range(connection), changes.last(connection)[0])


class NewChain(Struct, frozen=True):
    """The reason why the present files cannot be continued. `damaged`: changes in or after them are lost."""

    reason: str
    damaged: bool = False


class JournalStart(Struct, frozen=True):
    """Where the files go on. `first_entry`: the oldest one in the outbox then."""

    position: Position
    first_entry: int


class Handed(Struct, frozen=True):
    """A line to write behind that start; `size`: about how many bytes its rows have."""

    start: JournalStart
    line: Line
    size: int


class Journal:
    """`armed`: whether every change since the last start was recorded in the outbox.

    `end`: the end of the files, if it was read while the state is locked: the first `resume` takes it.
    """

    def __init__(
        self,
        directory: Path,
        instance: str,
        schema: int,
        *,
        armed: bool,
        end: End | None = None,
        rotated_bytes: int = ROTATED_BYTES,
    ) -> None:
        self.directory = directory
        self._instance = instance
        self._schema = schema
        self._armed = armed
        self._end = end
        self._tail = Tail(directory, rotated_bytes)
        self._lines: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self.start = JournalStart(Position(), 1)
        self.durable = Position()
        self.durable_at = 0
        self.written_bytes = 0  # of all that was handed over, with what a failure dropped
        self.writing = False
        self.error: Exception | None = None

    def put(self, handed: Handed) -> None:
        """Write this line soon; it is dropped if the files have another start by then."""
        self._lines.put(handed)

    # --- its thread ---

    def append_all(self) -> None:
        """Write what is handed over, until the end: to be called in a thread of its own."""
        ends = False
        while not ends and (first := self._lines.get()) is not None:
            ends = self._closing.wait(GATHER_S)
            handed = [first, *self._waiting()]
            lines = [one.line for one in handed if one.start is self.start]
            if lines and self.writing:
                try:
                    self._append(lines)
                except Exception as error:  # noqa: BLE001 - status and log show each failure, and it is tried again
                    self.writing, self.error = False, error
            self.written_bytes += sum(one.size for one in handed)
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

    # --- while nothing is written ---

    def resume(self, stored: Outbox) -> NewChain | None:
        """Go on with the files that are there, or say why a new chain must begin. Raises OSError."""
        current, self._end = self._end, None
        try:
            end = current or find_end(self.directory)
        except JournalBroken as error:
            self._set_last_file_aside()
            return NewChain(error.message, damaged=True)
        if end is None:
            return NewChain("there was none")
        needed = self._find_reason(end, stored)
        if needed is None:
            self._tail.resume(end)
            self._go_on_from(end.position, end.at, stored)
        return needed

    def _set_last_file_aside(self) -> None:
        """Rename a damaged file, so that it is kept for analysis and no restore reads it."""
        path = whole_files(self.directory)[-1]
        path.rename(path.with_name(f"{path.name}.damaged-{time_name(wall_ms())}"))

    def _find_reason(self, end: End, stored: Outbox) -> NewChain | None:
        at, header = end.position, end.header
        ahead = at.last > stored.last or at.seq > stored.seq
        reasons = {
            NewChain("the database was restored, or kept no journal"): stored.chain is None,
            NewChain("the database is another one"): stored.chain != header.chain,
            NewChain(f"the database has a new schema, {self._schema}"): header.schema != self._schema,
            NewChain("not every change of the database was recorded for it"): not self._armed,
            NewChain("its first rows are not complete"): not end.complete,
            NewChain(f"what followed change {at.seq} is lost", damaged=True): at.last < stored.first - 1,
            NewChain(f"it has changes up to {at.seq}, the database up to {stored.seq}", damaged=True): ahead,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def begin_chain(self, chain: str, database: Path) -> None:
        """Write all rows of the database to a new chain of files. Raises OSError or sqlite3.Error.

        If they do not fit on the disk, its files are removed: otherwise the tries would fill the disk.
        """
        before = files(self.directory)
        try:
            with reading(database) as connection:
                connection.execute("BEGIN")
                stored, at = read_outbox(connection), wall_ms()
                position = Position(stored.last, stored.seq)
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
        self._go_on_from(position, at, stored)

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

    def _go_on_from(self, position: Position, at: int, stored: Outbox) -> None:
        self.durable, self.durable_at, self.error = position, at, None
        self.start = JournalStart(position, stored.first)
        self.writing = True

    def close(self) -> None:
        """Let the thread write what was handed over, and end."""
        self._closing.set()
        self._lines.put(None)


def new_chain() -> str:
    return secrets.token_hex(8)


def _all_rows(connection: sqlite3.Connection, position: Position, at: int) -> Iterator[Line]:
    """Lines with every row of a database; the last line has no rows."""
    every = [*outbox.tables(connection), outbox.table(connection, outbox.LOG)]
    for table in every:
        for rows in outbox.all_rows(connection, table):
            yield Line(last=position.last, seq=position.seq, at=at, more=True, base=True, put={table.name: rows})
    yield Line(last=position.last, seq=position.seq, at=at, base=True)
