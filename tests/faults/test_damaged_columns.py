"""One wrong bit in a value of any column of any table: the doctor has a finding, or a start refuses the state.

Each column is tried, so that no luck decides which. The values are damaged behind SQLite's back, without triggers and
constraints, in a state whose daemon was killed after the journal had everything. `STOKER_SEED` chooses row and bit,
`STOKER_FAULTS` how many of each column.
"""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import StokerError
from stoker.store import journaled_rows
from stoker.store.database import open_unchanged
from stoker.store.directory import StateDirectory
from stoker.store.migrate import apply_all
from stoker.store.open import open_existing
from tests.support import busy_life
from tests.support.daemon import DaemonProcess
from tests.support.examined import examined, findings, is_journaled
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMES = max(1, int(os.environ.get("STOKER_FAULTS", "26")) // 26)
NOT_TRIED = {
    *("purging_jobs", "purged_jobs", "checkpoint_purges"),  # empty, unless a purge goes on
    "outbox",  # every entry is in the journal here, so no entry is read again
    "sqlite_sequence",  # empty since schema 23
}
# A last id above the ids in use only leaves ids out, and far above them the mark of given-out ids shows it; below them
# the newest row counts.
HARMLESS = {"meta": "key NOT LIKE 'last!_%' ESCAPE '!'"}


def tables() -> list[str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply_all(connection)
        found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        return [name for (name,) in found if name not in NOT_TRIED]


class Sound:
    """A state with rows in every table, as bytes of its database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "stoker.db"
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._bytes = self.database.read_bytes()

    def put_back(self) -> None:
        for suffix in ("-wal", "-shm"):
            self.database.with_name(f"stoker.db{suffix}").unlink(missing_ok=True)
        self.database.write_bytes(self._bytes)

    def columns(self, table: str) -> list[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sound]:
    with DaemonProcess() as daemon:
        busy_life.live(daemon, tmp_path_factory.mktemp("life"))
        until(lambda: is_journaled(daemon.state_dir), why="the journal has every row")
        daemon.kill9()
        yield Sound(daemon.state_dir)


def with_wrong_bit(value: object, dice: random.Random) -> Any:
    match value:
        case int():
            return value ^ (1 << dice.randrange(max(1, value.bit_length())))
        case float():
            return struct.unpack(">d", with_wrong_bit(struct.pack(">d", value), dice))[0]
        case str() | bytes():
            damaged = bytearray(value.encode() if isinstance(value, str) else value)
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
            return bytes(damaged)
    raise AssertionError(value)


def damage(database: Path, table: str, column: str, dice: random.Random) -> str | None:
    """Damage one value of a column; returns what was done, None if the column has no values or cannot be written."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        keys = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0", (table,))]
        keys = keys or ["rowid"]
        names = ", ".join(keys)
        rows = connection.execute(
            f"SELECT {column}, {names} FROM {table} WHERE {column} IS NOT NULL AND {column} <> ''"
            f" AND {HARMLESS.get(table, 'true')} ORDER BY {names}"
        ).fetchall()
        if not rows:
            return None
        value, *key = dice.choice(rows)
        wrong = with_wrong_bit(value, dice)
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        mark = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        where = " AND ".join(f"{name} IS ?" for name in keys)
        try:
            changed = connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {mark} WHERE {where}", (wrong, *key))
        except sqlite3.OperationalError as refused:
            if str(refused) != "malformed JSON":  # of which a generated column would be made: SQLite writes no such row
                raise
            return None
        done = changed.rowcount == 1
        for _, sql in triggers:
            connection.execute(sql)
        return f"{table}.{column} of {key}: {value!r} became {wrong!r}" if done else None


def is_seen(root: Path) -> bool:
    """Whether the doctor has a finding or a start refuses the state. The check that finds most is made first, alone."""
    with suppress(StokerError, sqlite3.Error, ValueError, TypeError), open_unchanged(root / "stoker.db") as connection:
        if any(journaled_rows.differences(connection, root / "journal")):
            return True
    return bool(findings(examined(root))) or is_refused(root)


def is_refused(root: Path) -> bool:
    """Whether a start refuses the state, by the checks that it makes before it changes anything."""
    directory = StateDirectory(root)
    try:
        with directory.shared(), open_existing(directory):
            return False
    except StokerError:
        return True


@pytest.mark.parametrize("table", tables())
@pytest.mark.timeout(3_600)
def test_value_when_one_bit_of_it_is_wrong_then_it_is_seen(sound: Sound, table: str) -> None:
    sound.put_back()
    assert findings(examined(sound.root)) == {}
    assert busy_life.unfilled(sound.database, [table]) == set(), "fill them, or name them there"
    tried, unseen = 0, []
    for column in sound.columns(table):
        for number in range(TIMES):
            dice = random.Random(f"{os.environ.get('STOKER_SEED', '20261129')} {table} {column} {number}")
            sound.put_back()
            done = damage(sound.database, table, column, dice)
            if done is not None:
                tried += 1
                unseen += [] if is_seen(sound.root) else [done]
    sound.put_back()

    assert unseen == []
    assert tried, f"no value of {table} was damaged"
    sys.stderr.write(f"{table}: {tried} values damaged\n")
