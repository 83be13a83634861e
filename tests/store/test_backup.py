"""A backup of a real database: its snapshot, its check, its name, and what is left when it fails.

Another connection writes between the steps of a copy, so the moment of a write is known and not a matter of luck.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import BackupFailed, CannotCreate, DiskFull
from stoker.core.job.model import Reason, State
from stoker.store import backup as making
from stoker.store.backup import back_up, target
from stoker.store.backup_files import BackupFile, listed, make_directory, path_in, read_checksum, remove_unfinished
from stoker.store.batch import store
from stoker.store.database import reading
from stoker.store.directory import StateDirectory
from stoker.store.integrity import find_damage
from tests.support.batches import accepted, put, tables
from tests.support.jobs import attempt, job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 2_000  # of a few hundred bytes: several steps


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "STEP_PAGES", 8)


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    make_directory(tmp_path / "backups")
    return tmp_path / "backups"


@pytest.fixture
def full(database: sqlite3.Connection) -> sqlite3.Connection:
    """A database of several megabytes, whose log of changes ends at 3."""
    store(database, accepted(*(job(id=ident) for ident in (1, 2, 3))), bytes(32))
    database.execute("BEGIN")
    put(database, [job(State.SUCCEEDED, id=ident, reason=Reason.EXIT) for ident in range(10, ROWS + 10)])
    database.execute("COMMIT")
    return database


@pytest.fixture
def source(full: sqlite3.Connection, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with reading(tmp_path / "stoker.db") as connection:
        yield connection


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(backup: BackupFile) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(f"{backup.path.as_uri()}?immutable=1", uri=True)) as copy:
        return tables(copy)


def test_backup_when_others_commit_meanwhile_then_it_has_the_state_of_its_beginning(
    full: sqlite3.Connection, source: sqlite3.Connection, backups: Path
) -> None:
    before = tables(full)
    commits: list[int] = []

    def commit(done: int, of: int) -> None:
        assert len(commits) < ROWS, "it begins again and again"
        if done < of:
            full.execute("UPDATE jobs SET failures = failures + 1 WHERE id % 50 = ?", (len(commits) % 50,))
            full.execute("PRAGMA wal_checkpoint(PASSIVE)")
            commits.append(done)

    backup = back_up(source, partial(path_in, backups), commit)

    assert (len(commits) > 10, commits) == (True, sorted(commits))  # it never began again
    assert contents(backup) == before != tables(full)
    assert (backup.last_seq, backup.path.stat().st_mode & 0o777) == (3, 0o600)
    assert read_checksum(backup.path) == hashlib.sha256(backup.path.read_bytes()).hexdigest()
    assert names(backups) == {backup.path.name, backup.path.name + ".sha256"}
    assert listed(backups) == [backup]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=["Ctrl-C", "given up"])
def test_backup_when_it_is_given_up_then_nothing_is_left(
    source: sqlite3.Connection, backups: Path, error: type[BaseException]
) -> None:
    steps: list[int] = []

    def give_up(done: int, _of: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise error

    with pytest.raises(error):
        back_up(source, partial(path_in, backups), give_up)

    assert not names(backups)
    assert not source.in_transaction


def test_backup_when_the_database_is_damaged_then_it_says_where_and_leaves_nothing(
    full: sqlite3.Connection, backups: Path, tmp_path: Path
) -> None:
    (page,) = full.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_ended'").fetchone()
    full.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    full.close()
    with (tmp_path / "stoker.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))

    with reading(tmp_path / "stoker.db") as source, pytest.raises(BackupFailed, match=r"is not sound: Page \d+"):
        back_up(source, partial(path_in, backups))

    assert not names(backups)


def test_backup_when_its_name_is_taken_then_that_file_stays(source: sqlite3.Connection, tmp_path: Path) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("mine")

    with pytest.raises(CannotCreate, match="exists already"):
        back_up(source, lambda _at, _seq: taken)

    assert taken.read_text() == "mine"
    assert not list(tmp_path.glob("taken.db.*"))


def test_backup_when_there_is_too_little_room_then_it_does_not_begin(source: sqlite3.Connection, backups: Path) -> None:
    with pytest.raises(DiskFull, match="are kept free"):
        back_up(source, partial(path_in, backups), keep_free=1 << 60)

    assert not names(backups)


def test_files_when_a_backup_was_cut_off_then_only_its_remains_are_removed(
    source: sqlite3.Connection, backups: Path
) -> None:
    whole = back_up(source, partial(path_in, backups))
    before = back_up(source, partial(path_in, backups, before=7))
    cut = path_in(backups, 5, 9)
    for name in (f"{cut.name}.0a1b2c3d.new", f"{cut.name}.sha256", "notes.txt"):
        (backups / name).write_text("")
    (backups / "link.new").symlink_to(backups)
    (backups / "directory.new").mkdir()

    remove_unfinished(backups)

    kept = {one.path.name + suffix for one in (whole, before) for suffix in ("", ".sha256")}
    assert names(backups) == kept | {"notes.txt", "directory.new"}
    assert [(one.path, one.before) for one in listed(backups)] == [(before.path, 7), (whole.path, None)]


TARGETS = {
    "a directory": ("", "is a directory"),
    "in the state": ("state/x.db", "is in the state directory"),
    "in its backups by a link": ("link/x.db", "is in the state directory"),
    "a file": ("file", "exists already"),
    "beside a checksum": ("sums", "sums.sha256 exists already"),
}


@pytest.mark.parametrize(("name", "complaint"), TARGETS.values(), ids=TARGETS)
def test_target_when_it_cannot_be_a_backup_then_it_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.backups.mkdir(parents=True)
    (tmp_path / "link").symlink_to(directory.backups)
    (tmp_path / "file").touch()
    (tmp_path / "sums.sha256").touch()

    with pytest.raises(CannotCreate, match=complaint):
        target(directory, tmp_path / name)


BROKEN = {
    "a change is missing": (
        "DROP TRIGGER changes_keep_their_tail; DELETE FROM changes WHERE seq = 2",
        "2 changes are left of those from 1 to 3",
    ),
    "the first change is missing": (
        "DROP TRIGGER changes_keep_their_tail; DELETE FROM changes WHERE seq = 1",
        "the log of changes begins at 2, though retention removed only those up to 0",
    ),
    "an attempt of a queued job": ("UPDATE jobs SET state = 'queued' WHERE id = 4", "its job 4 is queued"),
    "an attempt of no job": ("PRAGMA foreign_keys = OFF; DELETE FROM jobs WHERE id = 4", "refers to a row of jobs"),
}


@pytest.mark.parametrize(("damage", "evidence"), BROKEN.values(), ids=BROKEN)
def test_soundness_when_a_law_is_broken_then_the_evidence_names_it(
    database: sqlite3.Connection, damage: str, evidence: str
) -> None:
    store(database, accepted(*(job(id=ident) for ident in (1, 2, 3))), bytes(32))
    running = job(State.RUNNING, id=4, attempts=1)
    put(database, [running], [attempt(running)])
    assert find_damage(database) is None

    database.executescript(damage)

    assert evidence in (find_damage(database) or "")
