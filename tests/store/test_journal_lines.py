"""The journal beside a writer: how much of it is read ahead, and in lines of which size, after its disk was away."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.store import journal_feed, outbox
from stoker.store.database import transaction
from stoker.store.journal import Journal, new_chain, read_outbox
from stoker.store.journal_feed import JournalFeed
from stoker.store.journal_files import files, lines
from stoker.store.migrate import migrate
from stoker.store.queues import SET_META

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 700_000
ROWS = 40


class Life:
    """A database, its journal, and commits of one large row each."""

    def __init__(self, root: Path, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.executescript("PRAGMA journal_mode = WAL")
        schema = migrate(connection, root / "backups")
        self.journal = Journal(root / "journal", "instance", schema, armed=outbox.arm(connection))
        self.feed = JournalFeed(self.journal)
        chain = new_chain()
        outbox.set_chain(connection, chain)
        self.journal.begin_chain(chain, root / "stoker.db")
        self.feed.collect(connection)

    def commit(self, number: int) -> None:
        with transaction(self.connection):
            self.connection.execute(SET_META, (f"key {number}", "x" * LARGE))
        self.feed.hand_over(self.feed.read(self.connection, outbox.Written(LARGE)))

    def write(self) -> None:
        """The work of its thread until it has nothing to do."""
        self.journal.close()
        self.journal.append_all()


@contextmanager
def little_memory() -> Iterator[None]:
    """The process gets no more address space than it has, and the memory that earlier tests have freed is taken."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), before[1]))
    taken: list[bytearray] = []
    try:
        with suppress(MemoryError):
            while True:
                taken.append(bytearray(LARGE // 2))
        yield
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    with closing(sqlite3.connect(tmp_path / "stoker.db", isolation_level=None)) as connection:
        yield Life(tmp_path, connection)


def test_journal_when_its_disk_was_away_then_it_catches_up_in_short_lines(life: Life, tmp_path: Path) -> None:
    life.journal.writing = False
    for number in range(ROWS):
        life.commit(number)
    needed = life.journal.resume(read_outbox(life.connection))

    while life.feed.behind:
        life.journal.resume(read_outbox(life.connection))
        life.feed.collect(life.connection)
        life.write()

    texts = [text for path in files(tmp_path / "journal") for text in lines(path)]
    assert needed is None
    assert sum(text.count(b"x" * LARGE) for text in texts) == ROWS
    assert max(map(len, texts)) < 2 * journal_feed.LINE_BYTES


def test_journal_when_its_disk_is_slow_then_few_bytes_are_read_ahead(life: Life) -> None:
    """Nothing is written: every line that was read waits."""
    for number in range(ROWS):
        life.commit(number)

    assert life.feed.behind
    assert life.feed.waiting_bytes <= journal_feed.MOST_AHEAD_BYTES + 2 * journal_feed.LINE_BYTES


def test_journal_when_memory_is_short_then_it_stops_and_goes_on_without_a_gap(life: Life, tmp_path: Path) -> None:
    for number in range(ROWS):
        life.commit(number)
    with little_memory():
        life.write()
    failed, writing, waiting = life.journal.error, life.journal.writing, life.feed.waiting_bytes

    while life.feed.behind:
        assert life.journal.resume(read_outbox(life.connection)) is None
        life.feed.collect(life.connection)
        life.write()

    texts = [text for path in files(tmp_path / "journal") for text in lines(path)]
    assert isinstance(failed, MemoryError)
    assert (writing, waiting) == (False, 0)
    assert sum(text.count(b"x" * LARGE) for text in texts) == ROWS


def test_chain_when_there_is_no_room_for_its_rows_then_nothing_of_it_stays(life: Life, tmp_path: Path) -> None:
    for number in range(ROWS):
        life.commit(number)
    before = files(tmp_path / "journal")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * LARGE, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            life.journal.begin_chain(new_chain(), tmp_path / "stoker.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert files(tmp_path / "journal") == before
    life.journal.begin_chain(new_chain(), tmp_path / "stoker.db")
    assert len(files(tmp_path / "journal")) > len(before)
