"""Repairs of rows: damage that cannot be repaired is reported, and counts follow from rows alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stoker.store import repair, shipped_schema
from stoker.store.integrity import damaged_pages
from stoker.store.migrate import apply_all

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of the current schema."""
    with closing(sqlite3.connect(tmp_path / "stoker.db", isolation_level=None)) as connection:
        apply_all(connection)
    return tmp_path / "stoker.db"


def test_indexes_when_rebuilding_them_is_not_enough_then_it_fails(path: Path) -> None:
    with repair.writing(path) as connection:
        connection.executescript(
            "CREATE TABLE t (a); INSERT INTO t VALUES (NULL); PRAGMA writable_schema = ON;"
            "UPDATE sqlite_schema SET sql = 'CREATE TABLE t (a NOT NULL)' WHERE name = 't';"
        )
    with repair.writing(path) as connection:
        assert list(damaged_pages(connection)) == ["NULL value in t.a"]

        with pytest.raises(sqlite3.DatabaseError, match=r"this is left: NULL value in t\.a"):
            repair.rebuild_indexes(connection)


def test_objects_when_all_indexes_and_triggers_are_lost_then_all_are_made_again(path: Path) -> None:
    with repair.writing(path) as connection:
        for one in shipped_schema.differences(connection):
            raise AssertionError(str(one))
        lost = connection.execute(
            "SELECT type, name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
        ).fetchall()
        for kind, name in lost:
            connection.execute(f"DROP {kind} {name}")
        assert len(shipped_schema.differences(connection)) == len(lost) > 10

        remade = repair.remake_objects(connection)

        assert len(remade) == len(lost)
        assert shipped_schema.differences(connection) == []


def test_counts_when_every_row_is_right_then_nothing_is_changed(path: Path) -> None:
    with repair.writing(path) as connection:
        assert repair.recount(connection) == []
