"""Making and upgrading a database: refusals that change nothing, a creation that was cut off, a copy before an upgrade.

A later release is this tree copied elsewhere with one more file in migrations/, run by another interpreter.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stoker.core.errors import StateRefused
from stoker.store import database as databases
from stoker.store import given_ids
from stoker.store.backup_files import checksum_of, listed, read_checksum
from stoker.store.migrate import Migration, _apply, apply_all, migrate, shipped_migrations
from tests.migrations.test_schema import JOB, insert
from tests.support.batches import put, tables
from tests.support.jobs import job

ROOT = Path(__file__).parents[2]
NEWEST = shipped_migrations()[-1].number

NEXT = f"{NEWEST + 1:04d}_add_note.sql"
ADD_NOTE = """-- A note for each job; with a comment that holds a semicolon; like this one.
ALTER TABLE jobs ADD COLUMN note TEXT DEFAULT 'a;b';
CREATE TRIGGER note_is_short BEFORE UPDATE OF note ON jobs WHEN length(NEW.note) > 10
BEGIN
    SELECT raise(ABORT, 'too long; really');
END;
-- The last word is a comment;
"""
UPGRADE = """
import sqlite3, sys
from pathlib import Path
from stoker.store.migrate import migrate
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print(migrate(connection, Path(sys.argv[2])))
"""


def later_release(at: Path, sql: str) -> Path:
    """A tree that knows one migration more."""
    shutil.copytree(ROOT / "daemon" / "stoker", at / "stoker", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "migrations", at / "stoker" / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (at / "stoker" / "migrations" / NEXT).write_text(sql)
    return at


def test_migration_when_the_newest_job_was_purged_before_then_its_id_stays_in_use() -> None:
    """Up to schema 22 the last ids stand in a table that SQLite keeps only for AUTOINCREMENT."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply_all(connection, 22)
        insert(connection, "jobs", JOB | {"id": 9})
        connection.execute("DELETE FROM jobs")
        for migration in shipped_migrations()[22:]:
            _apply(connection, migration)
        connection.execute("VACUUM")

        assert given_ids.last(connection, "jobs") == 9


def upgrade(release: Path, path: Path, backups: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", UPGRADE, path, backups],
        env={"PYTHONPATH": str(release)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None))


def pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The file of a database of this release, with one job."""
    path = tmp_path / "stoker.db"
    with opened(path) as connection:
        migrate(connection, tmp_path / "backups")
        put(connection, [job()])
    return path


# --- making one ---------------------------------------------------------------------------------------------


def test_migrations_when_listed_then_they_are_numbered_from_one_without_gaps() -> None:
    shipped = shipped_migrations()

    assert [migration.number for migration in shipped] == list(range(1, len(shipped) + 1))
    assert [migration.name for migration in shipped] == sorted(
        path.name for path in (ROOT / "migrations").glob("*.sql")
    )


def test_checksum_when_a_byte_differs_then_it_differs() -> None:
    assert Migration(1, "n", "a").checksum == Migration(2, "m", "a").checksum != Migration(1, "n", "b").checksum


def test_migrate_when_the_file_is_new_then_it_has_our_id_and_records_what_ran(tmp_path: Path) -> None:
    with opened(tmp_path / "stoker.db") as connection:
        schema = migrate(connection, tmp_path / "backups")

        rows = connection.execute("SELECT number, name, checksum FROM migrations").fetchall()
        assert (schema, pragma(connection, "user_version")) == (NEWEST, NEWEST)
        assert pragma(connection, "application_id") == databases.APPLICATION_ID == int.from_bytes(b"Stok", "big")
        assert rows == [(each.number, each.name, each.checksum) for each in shipped_migrations()]
    assert not (tmp_path / "backups").exists()  # nothing was there to copy


def test_migrate_when_everything_ran_before_then_nothing_changes(old: Path, tmp_path: Path) -> None:
    before = old.read_bytes()

    with opened(old) as connection:
        assert migrate(connection, tmp_path / "backups") == NEWEST

    assert old.read_bytes() == before
    assert not (tmp_path / "backups").exists()


# --- refusing one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE migrations SET checksum = 'edited' WHERE number = 1", "is not the one that made this database"),
        ("UPDATE migrations SET number = 99 WHERE number = 1", "migration 1 is not the one that made this database"),
        (f"PRAGMA user_version = {NEWEST + 1}", f"has schema {NEWEST + 1}, this daemon knows up to {NEWEST}"),
    ],
    ids=["edited migration", "unknown migration", "newer schema"],
)
def test_migrate_when_the_database_is_of_another_release_then_it_is_left_alone(
    old: Path, tmp_path: Path, damage: str, complaint: str
) -> None:
    with opened(old) as connection:
        connection.execute(damage)
    before = old.read_bytes()

    with opened(old) as connection, pytest.raises(StateRefused, match=complaint):
        migrate(connection, tmp_path / "backups")

    assert old.read_bytes() == before
    assert not (tmp_path / "backups").exists()


# --- a creation that was cut off ----------------------------------------------------------------------------

DIE_IN_THE_MIDDLE = """
import os, signal, sqlite3, sys
from stoker.store import migrate
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.executescript("PRAGMA journal_mode = WAL; PRAGMA cache_size = 1; PRAGMA cache_spill = 1")
statements = migrate._statements(migrate.shipped_migrations()[0].sql)
connection.execute("BEGIN IMMEDIATE")
for statement in statements[: len(statements) // 2]:
    connection.execute(statement)
connection.execute("CREATE TABLE ballast (x)")
connection.executemany("INSERT INTO ballast VALUES (?)", [("x" * 5000,)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_migrate_when_a_creation_was_killed_halfway_then_the_next_start_completes_it(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    killed = subprocess.run([sys.executable, "-c", DIE_IN_THE_MIDDLE, path], check=False)
    torn = path.with_name("stoker.db-wal").stat().st_size
    assert (killed.returncode, torn > 500_000) == (-9, True)

    assert databases.examine(path, tmp_path / "state.json")
    with opened(path) as connection:
        schema = migrate(connection, tmp_path / "backups")
        names = set(tables(connection))

    assert schema == NEWEST
    assert "ballast" not in names
    assert {"jobs", "attempts", "changes"} <= names


# --- upgrading one ------------------------------------------------------------------------------------------


def test_upgrade_when_a_release_has_more_then_the_database_is_copied_and_migrated(old: Path, tmp_path: Path) -> None:
    with opened(old) as connection:
        before = tables(connection)

    done = upgrade(later_release(tmp_path / "later", ADD_NOTE), old, tmp_path / "backups")

    assert (done.stdout, done.stderr) == (f"{NEWEST + 1}\n", "")
    (copy,) = listed(tmp_path / "backups")
    assert (copy.before, copy.path.stat().st_mode & 0o777) == (NEWEST + 1, 0o600)
    assert read_checksum(copy.path) == checksum_of(copy.path)
    with opened(copy.path) as connection:
        assert tables(connection) == before
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with opened(old) as connection:
        assert connection.execute("SELECT id, note FROM jobs").fetchall() == [(7, "a;b")]
        assert pragma(connection, "user_version") == NEWEST + 1
        with pytest.raises(sqlite3.IntegrityError, match="too long; really"):
            connection.execute("UPDATE jobs SET note = 'a note of many words'")


def test_upgrade_when_the_old_release_starts_again_then_it_refuses_the_new_database(old: Path, tmp_path: Path) -> None:
    upgrade(later_release(tmp_path / "later", ADD_NOTE), old, tmp_path / "backups")

    with opened(old) as connection, pytest.raises(StateRefused) as refused:
        migrate(connection, tmp_path / "backups")

    assert refused.value.hint == "start the newer stokerd that wrote it"


def test_upgrade_when_a_migration_fails_then_nothing_of_it_stays(old: Path, tmp_path: Path) -> None:
    with opened(old) as connection:
        before = tables(connection)
    broken = "-- Half of it works.\nCREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);\n"

    done = upgrade(later_release(tmp_path / "later", broken), old, tmp_path / "backups")

    assert "no such table: nowhere" in done.stderr
    with opened(old) as connection:
        assert tables(connection) == before
        assert pragma(connection, "user_version") == NEWEST


def test_upgrade_when_a_list_of_words_grows_then_every_connection_accepts_new_words(tmp_path: Path) -> None:
    path, backups = tmp_path / "stoker.db", tmp_path / "backups"
    with opened(path) as connection, opened(path) as reader:
        connection.execute("PRAGMA foreign_keys = ON")
        for migration in shipped_migrations()[:3]:
            _apply(connection, migration)
        insert(connection, "jobs", JOB)
        stored = f"SELECT {', '.join(JOB)} FROM jobs"
        before = connection.execute(stored).fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            reader.execute("UPDATE jobs SET reason = 'output'")

        assert migrate(connection, backups) == NEWEST

        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute(stored).fetchall() == before
        for each in (connection, reader):
            each.execute("UPDATE jobs SET reason = 'output'")
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                each.execute("UPDATE jobs SET reason = 'nonsense'")


# --- the copy before it -------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """Zeroes where the rows of a table begin."""
    with opened(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs'").fetchone()
        size = pragma(connection, "page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


def test_upgrade_when_the_database_is_damaged_then_it_stays_and_no_bad_copy_is_left(old: Path, tmp_path: Path) -> None:
    damage(old)
    before = old.read_bytes()

    done = upgrade(later_release(tmp_path / "later", ADD_NOTE), old, tmp_path / "backups")

    assert "is not sound" in done.stderr
    assert list((tmp_path / "backups").iterdir()) == []
    assert old.read_bytes() == before
