"""A journal that is behind its database catches up in pieces: no commit waits long for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.store import changes, journaled_rows, outbox, retention
from stoker.store.batch import Batch, store
from stoker.store.database import open_writer, transaction
from stoker.store.high_water import HighWater
from stoker.store.journal import Journal, new_chain, read_outbox
from stoker.store.journal_chains import newest_chain
from stoker.store.journal_feed import FORGET_AFTER, MOST_FORGOTTEN, PORTION, PORTIONS, JournalFeed
from stoker.store.journal_files import files, find_end, lines, read_line
from stoker.store.keys import NewKey
from stoker.store.migrate import migrate, schema_of
from stoker.store.outbox import Written
from stoker.store.queues import SET_META
from stoker.store.reserve import Reserve
from stoker.store.writer import Writer
from tests.support.batches import accepted, change, put
from tests.support.jobs import job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 5 * MOST_FORGOTTEN


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, tmp_path / "backups")
        outbox.arm(connection)
        yield connection


@pytest.fixture
def feed(connection: sqlite3.Connection, tmp_path: Path) -> JournalFeed:
    """Its journal has every row of a database with many entries that are still to be deleted."""
    add_rows(connection, "before")
    journal = Journal(tmp_path / "journal", "instance", schema_of(connection), armed=True)
    assert journal.resume(read_outbox(connection)) is not None
    feed = JournalFeed(journal)
    journal.begin_chain(new_chain(), tmp_path / "stoker.db")
    assert feed.behind
    return feed


def add_rows(connection: sqlite3.Connection, when: str) -> None:
    with transaction(connection):
        connection.executemany(SET_META, [(f"{when} {number}", number) for number in range(ROWS)])


def entries(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return int(count)


def test_entries_when_many_are_durable_then_a_commit_deletes_some(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    feed.collect(connection)
    left = [entries(connection)]
    while feed.lags:
        with transaction(connection):
            feed.forget(connection)
        left.append(entries(connection))

    steps = [before - after for before, after in pairwise(left)]
    assert left[0] == ROWS
    assert left[-1] <= MOST_FORGOTTEN
    assert 0 < min(steps) <= max(steps) <= MOST_FORGOTTEN


def test_journal_when_it_is_behind_then_a_commit_hands_over_one_portion(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    add_rows(connection, "after")

    assert feed.collect(connection) == 1
    assert feed.behind


async def caught_up_writer(connection: sqlite3.Connection, feed: JournalFeed, at: Path) -> Writer:
    """A writer whose journal has all that was committed."""
    while feed.behind:
        feed.collect(connection)
    database = await open_writer(at / "stoker.db")
    return Writer(database, changes.GENESIS, Reserve(at / "reserve", 0), HighWater(at / "mark"), feed)


async def test_sweep_when_it_changed_rows_then_no_later_commit_reads_them(
    connection: sqlite3.Connection, feed: JournalFeed, tmp_path: Path
) -> None:
    """The answers to the requests of that commit would wait for it."""
    writer = await caught_up_writer(connection, feed, tmp_path)

    await writer.sweep(_swept)
    handed = feed.collect(connection)

    await writer.close()
    assert handed == 0


async def test_sweep_when_it_is_not_synced_then_the_journal_waits_for_the_sync(
    connection: sqlite3.Connection, feed: JournalFeed, tmp_path: Path
) -> None:
    """After a power loss the database may lack it: a journal that has it would be of another future."""
    writer = await caught_up_writer(connection, feed, tmp_path)
    while feed.journal.durable.last - feed._forgotten >= FORGET_AFTER:
        await writer.catch_up()
    wal, lines = tmp_path / "stoker.db-wal", feed.journal._lines
    handed = [lines.qsize()]

    async def synced() -> bool:
        handed.append(lines.qsize())
        return await writer.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone() == (2,))

    await writer.sweep(_swept)
    seen = [await synced()]
    before = wal.read_bytes()
    await writer.sync_sweeps()
    seen.append(await synced())
    wrote = wal.read_bytes() != before
    async with writer.being_copied():
        await writer.sweep(_swept)
        seen.append(await synced())
    await writer.sweep(_swept)
    await writer.commit(Batch(changes=[change(changes.last(connection)[0] + 1)]))
    seen.append(await synced())

    await writer.close()
    assert seen == [False, True, True, True]
    assert wrote  # SQLite does not sync a commit that writes nothing
    assert [now - earlier for earlier, now in pairwise(handed)] == [0, 1, 1, 2]


def _swept(connection: sqlite3.Connection) -> retention.Swept:
    connection.execute(SET_META, ("swept", 1))
    return retention.Swept(1)


def test_rows_when_few_fit_into_memory_then_each_is_compared_with_the_journal(
    connection: sqlite3.Connection, feed: JournalFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journaled_rows, "AT_ONCE", ROWS // 2)
    outbox.set_chain(connection, newest_chain(feed.journal.directory) or "")
    assert list(journaled_rows.differences(connection, feed.journal.directory)) == []

    connection.execute("DROP TRIGGER outbox_meta_update")
    connection.executemany("UPDATE meta SET value = -1 WHERE key = ?", [("before 1",), ("before 5000",)])

    assert sorted(journaled_rows.differences(connection, feed.journal.directory)) == [
        "meta before 1: value is -1, the journal has 1",
        "meta before 5000: value is -1, the journal has 5000",
    ]


def test_rows_when_a_daemon_ended_while_it_began_the_chain_then_none_is_compared(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    outbox.set_chain(connection, newest_chain(feed.journal.directory) or "")
    (file,) = files(feed.journal.directory)
    written = file.read_bytes().splitlines(keepends=True)
    initial = [number for number, line in enumerate(written) if b'"base":true' in line and b'"more":true' in line]

    for kept in (1, initial[0] + 1, initial[-1] + 1):  # its header, some of its initial rows, all but their end
        file.write_bytes(b"".join(written[:kept]))
        assert list(journaled_rows.differences(connection, feed.journal.directory)) == []

    file.write_bytes(b"".join(written[: initial[-1] + 2]))
    connection.execute("DROP TRIGGER outbox_meta_update")
    connection.execute("UPDATE meta SET value = -1 WHERE key = 'before 1'")
    assert len(list(journaled_rows.differences(connection, feed.journal.directory))) == 1


def test_entry_when_it_names_no_table_then_the_journal_waits_for_a_new_chain(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    feed.collect(connection)
    assert outbox.arm(connection)
    with transaction(connection):
        connection.execute(SET_META, ("a key", 1))
        connection.execute("UPDATE outbox SET place = 'mete' WHERE id = (SELECT max(id) FROM outbox)")

    assert feed.collect(connection) == 0
    assert (str(feed.unread), feed.behind) == ("an entry of the outbox names the table mete", True)
    assert not outbox.arm(connection)


def test_resume_when_the_end_was_read_before_then_the_last_file_is_not_read_again(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    """Seen by a damage that was done in between: only who reads the file again sees it."""
    directory = feed.journal.directory
    outbox.set_chain(connection, newest_chain(directory) or "")
    end = find_end(directory)
    assert end is not None
    journal = Journal(directory, "instance", schema_of(connection), armed=True, end=end)
    end.path.write_bytes(end.path.read_bytes().replace(b'"before 7"', b'"before 8"', 1))

    assert journal.resume(read_outbox(connection)) is None
    assert journal.resume(read_outbox(connection)) is not None


def test_journal_when_it_is_not_behind_then_a_large_commit_is_handed_over(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    feed.collect(connection)
    assert not feed.behind
    with transaction(connection):
        connection.executemany(SET_META, [(f"after {number}", number) for number in range(PORTION * PORTIONS - 1)])

    assert feed.collect(connection) == PORTIONS
    assert not feed.behind


def test_journal_when_commits_hand_over_their_changes_then_it_has_each_once(
    connection: sqlite3.Connection, feed: JournalFeed, tmp_path: Path
) -> None:
    """The changes of the first commit are still unread when those of the second are handed over."""
    feed.collect(connection)
    first = store(connection, accepted(job(id=1)), bytes(32))
    second = store(connection, accepted(job(id=2), seq=2), first.head)
    third = store(connection, accepted(job(id=3), seq=3), second.head)
    feed.hand_over(feed.read(connection, Written(0, second.inserted)))
    feed.hand_over(feed.read(connection, Written(0, third.inserted)))
    fourth = store(connection, accepted(job(id=4), seq=4), third.head)
    feed.hand_over(feed.read(connection, Written(0, fourth.inserted)))

    feed.journal.close()
    feed.journal.append_all()

    texts = [text for path in files(tmp_path / "journal") for text in list(lines(path))[1:]]
    written = [row for text in texts for row in read_line(tmp_path, text).put.get("changes", [])]
    columns = [column for _, column, *_ in connection.execute("PRAGMA table_info(changes)")]
    rows = connection.execute("SELECT * FROM changes ORDER BY seq").fetchall()
    assert [row["seq"] for row in written] == [1, 2, 3, 4]
    assert [row["payload"] for row in written] == [row[columns.index("payload")] for row in rows]
    assert {name for row in written for name in row} == {
        column for place, column in enumerate(columns) if any(row[place] is not None for row in rows)
    }


def test_jobs_when_a_line_has_only_a_part_of_their_commit_then_they_are_read(
    connection: sqlite3.Connection, feed: JournalFeed
) -> None:
    """The second line of the commit has as many entries of jobs as there are new ones, and they are of other jobs."""
    outbox.set_chain(connection, newest_chain(feed.journal.directory) or "")
    feed.collect(connection)
    old = [job(id=ident) for ident in range(1, PORTION // 2 + 1)]
    new = [job(id=PORTION + ident) for ident in range(1, PORTION // 2 + 1)]
    put(connection, old)
    feed.collect(connection)
    several = Batch(
        new_jobs={one.id: one for one in new},
        keys=[NewKey(0, str(one.id), bytes(16), one.id, 0) for one in new],
        jobs={one.id: replace(one, exit_code=7) for one in old},
    )

    store(connection, several, bytes(32), feed=feed)
    feed.journal.close()
    feed.journal.append_all()

    assert not feed.behind
    assert list(journaled_rows.differences(connection, feed.journal.directory)) == []
