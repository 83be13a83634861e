"""Databases built from the journal: from a whole chain of it, or from a backup and what followed it.

Owns the choice of the chain, and its end for `--to`. Invariants: a database ends between two commits; if the journal
lacks something for that, the error names what it has.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct

from stoker.core.clock import wall_ms
from stoker.core.errors import BackupRefused, JournalBroken
from stoker.core.units import instant
from stoker.files import make_regular
from stoker.store import changes, outbox, recorded_specs
from stoker.store.database import transaction
from stoker.store.high_water import ID_TABLES, Mark
from stoker.store.journal_chains import JournalChain, Torn, chains, read_chain
from stoker.store.journal_files import Line, Position, read_line
from stoker.store.migrate import apply_all, schema_of
from stoker.store.replay import replaying, use_without_care

Progress = Callable[[int, int], None]
"""How many bytes of the journal were read, and of how many."""


def silent(*_: object) -> None:
    """Progress that is not shown."""


class Until(Struct, frozen=True):
    """The end of what is rebuilt: the last change, or a time (UTC ms); neither for everything."""

    seq: int | None = None
    at: int | None = None

    def includes(self, seq: int, at: int) -> bool:
        return (self.seq is None or seq <= self.seq) and (self.at is None or at <= self.at)

    def __str__(self) -> str:
        return f"change {self.seq}" if self.at is None else instant(self.at)


class Rebuilt(Struct, frozen=True):
    """The result: the newest change and its time, ids that the rest of the journal gave out, and remarks."""

    seq: int
    at: int
    given_out: Mark
    remarks: list[str]


def from_journal(journal: Path, fresh: Path, until: Until, progress: Progress = silent) -> Rebuilt:
    """Make a new database of the rows in a journal. Raises BackupRefused, JournalBroken, OSError or sqlite3.Error."""
    _refuse_future(until)
    every = chains(journal)
    if not every:
        raise BackupRefused(f"there is no journal in {journal}", hint="stoker restore --from-backup latest")
    chain = _chain_for(every, until)
    os.close(make_regular(str(fresh)))  # SQLite would make it readable by others
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        use_without_care(connection)
        apply_all(connection, chain.header.schema)
        return _apply(connection, chain, Position(-1, -1), until, progress)


def behind_backup(journal: Path, fresh: Path, until: Until, progress: Progress = silent) -> Rebuilt:
    """Apply to `fresh`, a copy of a backup, the later commits of the journal. Raises as `from_journal` does."""
    _refuse_future(until)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        use_without_care(connection)
        start = _start_of(connection, until)
        if start is None:
            raise BackupRefused("the backup is older than the journal", hint="leave --to out, or take a newer backup")
        name, position = start
        following = [chain for chain in chains(journal) if chain.header.chain == name]
        if not following:
            raise BackupRefused(f"{journal} has nothing that follows this backup", hint="leave --to out")
        (chain,) = following
        if chain.header.schema != schema_of(connection):
            raise BackupRefused(
                f"the journal behind this backup has schema {chain.header.schema}", hint="leave --to out"
            )
        if Position(chain.header.last, chain.header.seq) > position and not chain.is_whole:
            raise BackupRefused(
                f"the journal begins behind change {chain.header.seq}, the backup ends at change {position.seq}: "
                "the changes between were removed",
                hint="take a newer backup: stoker backup ls",
            )
        return _apply(connection, chain, position, until, progress)


def put_back_specs(fresh: Path) -> list[str]:
    """Put back every damaged spec of a rebuilt database that its log of changes has; a sentence for each."""
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        use_without_care(connection)
        with transaction(connection):
            return recorded_specs.put_back(connection)


def _start_of(connection: sqlite3.Connection, until: Until) -> tuple[str, Position] | None:
    """The chain that a backup belongs to, and its position in it. Raises BackupRefused if `until` is before it."""
    seq = changes.last(connection)[0]
    at = changes.last_at(connection)
    if not until.includes(seq, at):
        raise BackupRefused(
            f"{until} is before the end of the backup: change {seq}, {instant(at)}",
            hint="take an older one: stoker backup ls",
        )
    name = outbox.chain(connection) if outbox.exists(connection) else None
    return None if name is None else (name, Position(outbox.entry_range(connection)[1], seq))


def _refuse_future(until: Until) -> None:
    if until.at is not None and until.at > wall_ms():
        raise BackupRefused(f"{until} is in the future", hint="name a time that is past, or leave --to out")


def _chain_for(every: list[JournalChain], until: Until) -> JournalChain:
    """The newest chain that begins before `until` and has all its initial rows."""
    begun = [chain for chain in every if until.includes(chain.header.seq, chain.header.at)]
    if not begun:
        first = every[0].header
        raise BackupRefused(
            f"{until} is before the journal begins: at change {first.seq}, {instant(first.at)}",
            hint="take a backup of that time: stoker backup ls",
        )
    for chain in reversed(begun):
        if not chain.is_whole:
            break
        if any(isinstance(line, Line) and not line.more for line in read_chain(chain)):  # stops at the first
            return chain
    raise BackupRefused(
        f"the journal begins with change {begun[-1].header.seq}: earlier changes were removed or are incomplete",
        hint="stoker restore --from-backup latest --to TIME|SEQ",
    )


def _apply(
    connection: sqlite3.Connection, chain: JournalChain, start: Position, until: Until, progress: Progress
) -> Rebuilt:
    """Apply the commits of a chain behind `start`, and read the rest for its ids."""
    seq, at, ids, remarks, over = start.seq, 0, _Ids(), list[str](), False
    end: Line | None = None
    header = chain.header
    with replaying(connection) as replay:
        if header.base and Position(header.last, header.seq) > start and until.includes(header.seq, header.at):
            replay.clear()
        for commit in _commits(chain, remarks, progress):
            newest = commit[-1]
            over = over or not until.includes(newest.seq, newest.at)
            if not over and newest.position > start:
                for line in commit:
                    replay.apply(line)
                seq, at = newest.seq, newest.at
            ids.see(commit)
            end = end if newest.more else newest
        _check_end(chain, end, until)
    remarks.extend(recorded_specs.put_back_held(connection))
    if until.seq is not None and seq < until.seq:
        remarks.append(f"change {until.seq} was committed together with later ones: it is not part of this")
    return Rebuilt(seq, at, ids.mark, remarks)


def _check_end(chain: JournalChain, end: Line | None, until: Until) -> None:
    """Refuse an end that is not in this chain. Raises BackupRefused."""
    if end is None:
        raise BackupRefused("the journal behind this backup has no complete commit", hint="leave --to out")
    misses_seq = until.seq is not None and end.seq < until.seq
    misses_time = until.at is not None and chain.next_at is not None and chain.next_at <= until.at
    if not misses_seq and not misses_time:
        return
    where, hint = "the journal", "leave --to out for everything"
    if chain.next_at is not None:
        to = until.seq if until.at is None else instant(until.at)
        where, hint = "the part of the journal behind this backup", f"stoker restore --from-journal --to {to}"
    raise BackupRefused(f"{where} ends at change {end.seq}, {instant(end.at)}", hint=hint)


def _commits(chain: JournalChain, remarks: list[str], progress: Progress = silent) -> Iterator[list[Line]]:
    """The lines of each commit, in order. An incomplete commit at the end of a journal is left out.

    A chain begins with every row of the database: its lines are given one by one, to hold few of them in memory.
    """
    commit: list[Line] = []
    for line in read_chain(chain, _counting(chain, progress)):
        if isinstance(line, Torn):
            remarks.append(str(line))
            continue
        commit.append(line)
        if not line.more or line.base:
            yield commit
            commit = []
    if commit:
        remarks.append(f"the last commit, up to change {commit[-1].seq}, is not complete and does not count")


def _counting(chain: JournalChain, progress: Progress) -> Callable[[Path, bytes], Line]:
    """Reads a line, and says how much of the chain has been read."""
    done, of = 0, sum(path.stat().st_size for path in chain.paths)

    def read(path: Path, text: bytes) -> Line:
        nonlocal done
        done += len(text)
        progress(done, of)
        return read_line(path, text)

    return read


def given_out(journal: Path) -> Mark:
    """The highest ids and epoch in a journal, as far as it can be read. Raises OSError."""
    ids = _Ids()
    with suppress(JournalBroken):
        for chain in chains(journal):
            with suppress(JournalBroken):
                for line in read_chain(chain):
                    if isinstance(line, Line):
                        ids.see([line])
    return ids.mark


class _Ids:
    """The highest ids and epoch in lines that were read."""

    def __init__(self) -> None:
        self._last = dict.fromkeys(ID_TABLES, 0)
        self._epoch = 0

    def see(self, commit: list[Line]) -> None:
        """Raises JournalBroken."""
        try:
            for line in commit:
                for table in ID_TABLES:
                    self._last[table] = max([self._last[table], *(row["id"] for row in line.put.get(table, ()))])
                epochs = [row["value"] for row in line.put.get("meta", ()) if row["key"] == "epoch"]
                self._epoch = max([self._epoch, *epochs])
        except (KeyError, TypeError) as error:
            raise JournalBroken(f"a line of the journal has a row without a number: {error}") from error

    @property
    def mark(self) -> Mark:
        return Mark(self._epoch, **self._last)
