"""A journal that is behind its database catches up in pieces: no commit waits long for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from stoker.store import outbox
from stoker.store.database import transaction
from stoker.store.journal import MOST_FORGOTTEN, PORTION, PORTIONS, Journal, new_chain, read_outbox
from stoker.store.migrate import migrate
from stoker.store.queues import SET_META

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
def journal(connection: sqlite3.Connection, tmp_path: Path) -> Journal:
    """One that has every row, of a database with many entries that are still to be deleted."""
    add_rows(connection, "before")
    journal = Journal(tmp_path / "journal", "instance", 1, armed=True)
    assert journal.resume(read_outbox(connection)) is not None
    journal.begin_chain(new_chain(), tmp_path / "stoker.db")
    assert journal.behind
    return journal


def add_rows(connection: sqlite3.Connection, when: str) -> None:
    with transaction(connection):
        connection.executemany(SET_META, [(f"{when} {number}", number) for number in range(ROWS)])


def entries(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return int(count)


def test_entries_when_many_are_durable_then_a_commit_deletes_some(
    connection: sqlite3.Connection, journal: Journal
) -> None:
    journal.collect(connection)
    left = [entries(connection)]
    while journal.lags:
        with transaction(connection):
            journal.forget(connection)
        left.append(entries(connection))

    steps = [before - after for before, after in pairwise(left)]
    assert left[0] == ROWS
    assert left[-1] <= MOST_FORGOTTEN
    assert 0 < min(steps) <= max(steps) <= MOST_FORGOTTEN


def test_journal_when_it_is_behind_then_a_commit_hands_over_one_portion(
    connection: sqlite3.Connection, journal: Journal
) -> None:
    add_rows(connection, "after")

    assert journal.collect(connection) == 1
    assert journal.behind


def test_journal_when_it_is_not_behind_then_a_large_commit_is_handed_over(
    connection: sqlite3.Connection, journal: Journal
) -> None:
    journal.collect(connection)
    assert not journal.behind
    with transaction(connection):
        connection.executemany(SET_META, [(f"after {number}", number) for number in range(PORTION * PORTIONS - 1)])

    assert journal.collect(connection) == PORTIONS
    assert not journal.behind
