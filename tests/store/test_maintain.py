"""Maintenance between commits, in the thread of the writer."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StorageFailed
from stoker.store.database import optimize

if TYPE_CHECKING:
    from stoker.store.open import Opened


async def test_maintain_when_a_piece_of_upkeep_is_done_then_its_count_comes_back(state: Opened) -> None:
    assert await state.writer.maintain(optimize) == 0


async def test_maintain_when_the_connection_is_gone_then_it_fails(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.close)

    with pytest.raises(StorageFailed):
        await state.writer.maintain(optimize)
