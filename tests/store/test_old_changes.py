"""Old changes: a turn gives them up, and pieces delete them from the beginning of the log."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.errors import ChangesRemoved
from stoker.store import changes, old_changes
from stoker.store.batch import Batch, store
from stoker.store.integrity import find_damage
from stoker.store.retention import SWEPT_BYTES, PurgePortion, Swept
from tests.support.batches import accepted, change
from tests.support.jobs import job


def give_up(connection: sqlite3.Connection, seq: int) -> bytes:
    """In the commit of a further change; returns its hash."""
    last, head = changes.last(connection)
    return store(connection, Batch(purge=PurgePortion(0, changes=seq), changes=[change(last + 1)]), head).head


def rows(connection: sqlite3.Connection, sql: str) -> list[Any]:
    return [row[0] for row in connection.execute(sql)]


def left(connection: sqlite3.Connection) -> list[int]:
    return rows(connection, "SELECT seq FROM changes ORDER BY seq")


def test_changes_when_a_prefix_is_removed_then_the_chain_goes_on_from_its_hash(database: sqlite3.Connection) -> None:
    store(database, accepted(*(job(id=ident) for ident in range(1, 6))), changes.GENESIS)
    hashes = rows(database, "SELECT hash FROM changes ORDER BY seq")

    head = give_up(database, 3)
    assert left(database) == [1, 2, 3, 4, 5, 6]
    assert old_changes.sweep(database) == Swept(3, 0, is_last=True)

    assert left(database) == [4, 5, 6]
    assert rows(database, "SELECT value FROM meta WHERE key = 'changes_purged_hash'") == [hashes[2]]
    assert changes.last(database) == (6, head)
    assert changes.insert_rows([replace(change(4, subject="4"), payload={"n": 4})], hashes[2])[0][0][-1] == hashes[3]


def test_sweep_when_nothing_was_given_up_then_all_changes_stay(database: sqlite3.Connection) -> None:
    store(database, accepted(job()), changes.GENESIS)

    assert old_changes.sweep(database) == Swept(0, 0, is_last=True)
    assert left(database) == [1]


def test_sweep_when_a_commit_waits_then_few_changes_go(database: sqlite3.Connection) -> None:
    count = old_changes.SWEPT + 2 * old_changes.FEW
    store(database, Batch(changes=[change(seq) for seq in range(1, count + 2)]), changes.GENESIS)
    give_up(database, count)

    few = old_changes.sweep(database, lambda: True)
    many, rest = old_changes.sweep(database), old_changes.sweep(database)

    assert [few.removed, many.removed, rest.removed] == [old_changes.FEW, old_changes.SWEPT, old_changes.FEW]
    assert [few.is_last, many.is_last, rest.is_last] == [False, False, True]


def test_sweep_when_changes_are_large_then_few_go_in_one_piece(database: sqlite3.Connection) -> None:
    text = "x" * (SWEPT_BYTES // 2)
    log = [replace(change(seq), payload={"text": text if seq in (2, 3) else ""}) for seq in range(1, 7)]
    store(database, Batch(changes=log), changes.GENESIS)
    give_up(database, 6)

    assert [old_changes.sweep(database).removed for _ in range(3)] == [3, 3, 0]


def test_sweep_when_it_is_half_done_then_the_log_is_whole(database: sqlite3.Connection) -> None:
    count = 2 * old_changes.FEW
    store(database, Batch(changes=[change(seq) for seq in range(1, count + 2)]), changes.GENESIS)
    give_up(database, count)

    assert old_changes.sweep(database, lambda: True).removed == old_changes.FEW

    assert find_damage(database) is None
    assert changes.last_removed(database) == old_changes.FEW


def test_changes_when_a_purge_says_nothing_then_the_trigger_refuses_to_delete(database: sqlite3.Connection) -> None:
    store(database, accepted(job()), changes.GENESIS)

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(old_changes.DELETE, (1,))


def test_cursor_when_changes_behind_it_were_removed_then_it_is_refused(database: sqlite3.Connection) -> None:
    store(database, accepted(*(job(id=ident) for ident in (1, 2, 3))), changes.GENESIS)
    changes.check_cursor(database, 0)
    give_up(database, 2)
    old_changes.sweep(database)

    assert [one.seq for one in changes.after(database, 2, 4, 9).changes] == [3, 4]
    with pytest.raises(ChangesRemoved, match="up to 2 were removed"):
        changes.after(database, 1, 4, 9)
    assert (changes.begins(database, 3), changes.begins(database, 2)) == (True, False)


def test_restart_when_all_but_the_last_change_went_then_the_log_goes_on(database: sqlite3.Connection) -> None:
    store(database, accepted(job()), changes.GENESIS)
    give_up(database, 1)
    old_changes.sweep(database)

    store(database, Batch(changes=[change(3)]), changes.last(database)[1])

    assert left(database) == [2, 3]
