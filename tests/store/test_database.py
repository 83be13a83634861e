"""The checks of the files before SQLite may open them, and the abilities of its connections."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import CorruptRecord, StateRefused, StorageFailed
from stoker.store.database import APPLICATION_ID, examine, open_reader
from stoker.store.directory import Aside, StateDirectory
from stoker.store.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.store.open import Opened
    from tests.store.conftest import Open


def content(root: Path) -> dict[str, str]:
    """Every file below `root` by its hash; the lock belongs to the process that looks."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sqlite_file(path: Path, application_id: int, user_version: int = 0, *, wal: bool = False) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {user_version}")
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES ('precious')")


# --- before anything is opened ------------------------------------------------------------------------------


def test_examine_when_there_is_nothing_then_a_new_database_may_be_made(tmp_path: Path) -> None:
    assert examine(tmp_path / "stoker.db", tmp_path / "state.json") is False


def test_examine_when_an_empty_file_is_all_there_is_then_a_new_database_may_be_made(tmp_path: Path) -> None:
    for name in ("stoker.db", "stoker.db-wal", "stoker.db-journal"):
        (tmp_path / name).touch()

    assert examine(tmp_path / "stoker.db", tmp_path / "state.json") is False


@pytest.mark.parametrize("empty", [True, False], ids=["zero-length", "missing"])
@pytest.mark.parametrize("witness", ["stoker.db-wal", "stoker.db-journal", "state.json"])
async def test_open_when_the_database_is_lost_beside_its_files_then_it_is_refused(
    directory: StateDirectory, open_at: Open, witness: str, *, empty: bool
) -> None:
    directory.prepare()
    if witness == "state.json":
        directory.write_aside(Aside(instance="cafe", schema=1, last_seq=9))
    else:
        (directory.root / witness).write_bytes(b"\x37\x7f\x06\x82" + b"frames" * 999)
    if empty:
        directory.database.touch()
    before = content(directory.root)

    with pytest.raises(StateRefused, match=witness):
        await open_at(directory)

    assert content(directory.root) == before


@pytest.mark.parametrize("magic", [bytes.fromhex("d9d505f920a163d7"), bytes(8)], ids=["synced", "unsynced"])
def test_examine_when_a_journal_is_of_an_empty_database_then_it_does_not_count(tmp_path: Path, magic: bytes) -> None:
    """A creation that a power loss cut off: the journal of the first transaction of all is on disk, its page is not."""
    head = magic + bytes(4) + b"rand"
    (tmp_path / "stoker.db").touch()
    (tmp_path / "stoker.db-journal").write_bytes(head + bytes(4) + bytes(492))

    assert examine(tmp_path / "stoker.db", tmp_path / "state.json") is False

    (tmp_path / "stoker.db-journal").write_bytes(head + b"\0\0\0\7" + bytes(492))
    with pytest.raises(StateRefused, match="journal"):
        examine(tmp_path / "stoker.db", tmp_path / "state.json")


async def test_open_when_the_wal_is_a_header_alone_beside_an_index_then_it_is_opened(
    directory: StateDirectory, open_at: Open
) -> None:
    directory.prepare()
    with closing(sqlite3.connect(directory.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")
        header = directory.database.with_name("stoker.db-wal").read_bytes()[:32]
    directory.database.with_name("stoker.db-wal").write_bytes(header)
    directory.database.with_name("stoker.db-shm").write_bytes(bytes(3))

    assert (await open_at(directory)).instance.epoch == 1


async def test_open_when_sqlite_alone_would_have_opened_it_then_the_wal_would_be_gone(tmp_path: Path) -> None:
    """The control: this is what the look beforehand is for."""
    wal = tmp_path / "stoker.db-wal"
    wal.write_bytes(b"\x37\x7f\x06\x82" + b"frames" * 999)

    with closing(sqlite3.connect(tmp_path / "stoker.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")

    assert not wal.exists()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("dear diary\n" * 500),
    "cut short": lambda path: path.write_bytes(b"SQLite for"),
    "another application": lambda path: sqlite_file(path, 0x0F055112),
    "another application without an id": lambda path: sqlite_file(path, 0),
    "another application without an id, with a WAL": lambda path: sqlite_file(path, 0, wal=True),
    "another application without an id, versioned": lambda path: sqlite_file(path, 0, user_version=1),
    "a directory": lambda path: path.mkdir(),
    "a newer schema": lambda path: sqlite_file(path, APPLICATION_ID, user_version=9_999, wal=True),
    "only a header": lambda path: path.write_bytes(b"SQLite format 3\x00"),
    "a damaged page": lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 8_000),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_open_when_the_file_is_a_foreign_database_then_it_is_refused_untouched(
    directory: StateDirectory, open_at: Open, kind: str
) -> None:
    directory.prepare()
    FOREIGN[kind](directory.database)
    before = content(directory.root)

    with pytest.raises(StateRefused):
        await open_at(directory)

    assert content(directory.root) == before


def test_examine_when_the_database_is_ours_then_it_may_be_opened(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "stoker.db", APPLICATION_ID)

    assert examine(tmp_path / "stoker.db", tmp_path / "state.json") is True


# --- connections --------------------------------------------------------------------------------------------


def pragmas(connection: sqlite3.Connection, *names: str) -> tuple[object, ...]:
    return tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)


async def test_writer_when_it_is_open_then_commits_reach_the_disk(state: Opened) -> None:
    values = await state.writer.read(pragmas, "journal_mode", "synchronous", "foreign_keys", "query_only")

    assert values == ("wal", 2, 1, 0)


async def test_reader_when_it_is_open_then_it_can_only_read_and_never_checkpoints(state: Opened) -> None:
    values = await state.reader.run(pragmas, "query_only", "wal_autocheckpoint")
    assert values == (1, 0)

    with pytest.raises(StorageFailed, match="readonly"):
        await state.reader.run(sqlite3.Connection.execute, "INSERT INTO meta VALUES ('forged', 1)")


async def test_reader_when_a_function_fails_then_the_next_read_sees_later_commits(state: Opened) -> None:
    def nothing(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    def facts(connection: sqlite3.Connection) -> int:
        assert connection.in_transaction
        return int(connection.execute("SELECT count(*) FROM meta WHERE key = 'seen'").fetchone()[0])

    with pytest.raises(StorageFailed, match="nowhere"):
        await state.reader.run(nothing)
    assert await state.reader.run(facts) == 0
    await state.writer.read(sqlite3.Connection.execute, "INSERT INTO meta VALUES ('seen', 1)")

    assert await state.reader.run(facts) == 1


async def test_reader_when_it_is_idle_then_it_holds_no_transaction(state: Opened) -> None:
    await state.reader.run(pragmas, "user_version")

    busy, _, _ = await state.writer.read(lambda one: one.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    assert busy == 0


async def test_reader_when_the_file_is_no_database_then_it_is_refused(tmp_path: Path, open_at: Open) -> None:
    (tmp_path / "x.db").write_text("x" * 5_000)

    with pytest.raises(sqlite3.DatabaseError):
        await Reader(await open_reader(tmp_path / "x.db")).run(pragmas, "user_version")


async def test_read_when_one_before_it_failed_half_way_then_it_sees_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "wal.db"
    sqlite_file(path, APPLICATION_ID, wal=True)
    reader = Reader(await open_reader(path))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("INSERT INTO theirs VALUES (CAST(X'ff' AS TEXT))")
            with pytest.raises(CorruptRecord, match="Could not decode") as failed:
                await reader.run(everything)
            writer.execute("DELETE FROM theirs")

            assert await reader.run(everything) == []
        assert failed.tb is not None, "the traceback is still held, as by a task or the log"
    finally:
        await reader.close()


def everything(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT x FROM theirs")]
