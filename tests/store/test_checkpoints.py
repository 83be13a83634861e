"""Rows of checkpoints: data is read only where it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.core.workflow.checkpoint import Checkpoint
from stoker.store import checkpoints
from tests.support.jobs import checkpoint

if TYPE_CHECKING:
    import sqlite3

SIZES = (7, 100, 0, 30, 5)


@pytest.fixture
def chain(database: sqlite3.Connection) -> list[Checkpoint]:
    """Five of one chain, oldest first, and one of another."""
    links = [checkpoint(b"x" * size, seq) for seq, size in enumerate(SIZES, 1)]
    other = replace(links[0], id=9, chain="w2")
    database.executemany(checkpoints.INSERT, [checkpoints.insert_row(one) for one in (*links, other)])
    return links


def test_checkpoints_when_only_looked_at_then_no_data_is_read(
    database: sqlite3.Connection, chain: list[Checkpoint]
) -> None:
    bare = [replace(one, data=b"") for one in chain]

    assert checkpoints.page(database, "w1", None, 10) == bare[::-1]
    assert checkpoints.behind(database, "w1", 2, 10) == bare[2:]
    assert checkpoints.about(database, 2) == bare[1]
    assert checkpoints.by_ids(database, [4, 2]) == [chain[1], chain[3]]


@pytest.mark.parametrize(("limit", "since"), [(4, 0), (5, 5), (34, 5), (35, 3), (134, 3), (135, 2), (1_000, 1)])
def test_checkpoints_when_bytes_are_limited_then_the_newest_that_fit_are_found(
    database: sqlite3.Connection, chain: list[Checkpoint], limit: int, since: int
) -> None:
    assert checkpoints.newest_within(database, "w1", limit) == since
    assert sum(one.size for one in chain if one.seq >= since > 0) <= limit
