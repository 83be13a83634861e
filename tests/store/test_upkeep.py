"""Maintenance between commits: keys outlive their jobs for a while, and only old ones are deleted."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StorageFailed
from stoker.store import jobs, upkeep
from tests.support.batches import put, tables
from tests.support.jobs import job

if TYPE_CHECKING:
    from stoker.store.open import Opened


def key(connection: sqlite3.Connection, name: str, job_id: int, created_at: int) -> None:
    connection.execute(jobs.INSERT_KEY, (0, name, b"", job_id, created_at))


def names(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in tables(connection)["idempotency"]}


def test_keys_when_their_job_is_still_there_then_no_age_makes_them_forgotten(database: sqlite3.Connection) -> None:
    put(database, [job(id=1)])
    for name, job_id, created_at in (("kept", 1, 0), ("old", 2, 99), ("young", 3, 100)):
        key(database, name, job_id, created_at)

    assert upkeep.forget_keys(database, 100) == 1

    assert names(database) == {"kept", "young"}


def test_keys_when_there_are_many_then_each_call_does_a_bounded_piece(database: sqlite3.Connection) -> None:
    for number in range(600):
        key(database, str(number), number + 1, 0)

    assert [upkeep.forget_keys(database, 1) for _ in range(3)] == [500, 100, 0]


async def test_maintain_when_a_piece_of_upkeep_is_done_then_its_count_comes_back(state: Opened) -> None:
    assert await state.writer.maintain(upkeep.forget_keys, 0) == 0
    assert await state.writer.maintain(upkeep.optimize) == 0


async def test_maintain_when_the_connection_is_gone_then_it_says_so(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.close)

    with pytest.raises(StorageFailed):
        await state.writer.maintain(upkeep.optimize)
