"""Secrets at rest: who can open them, which key there is, and that neither a backup nor a journal has them."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StateRefused
from stoker.core.job.model import Reason, State
from stoker.core.job.secret_values import SecretValue
from stoker.store import outbox, secret_rows
from stoker.store.backup import back_up
from stoker.store.batch import Batch, store
from stoker.store.database import copy_wal, open_writer, reading
from stoker.store.secret_box import CREDENTIAL, KEY_FILE, SecretBox, SecretUnreadable, box_of_file, open_box
from stoker.store.secret_rows import SecretsGone
from tests.support.batches import accepted, change
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from pathlib import Path

BOX = SecretBox(b"k" * 32)
VALUE = b"CANARY \x00\xff"
WITH_SECRETS = spec(secrets=("A", "B"))


@pytest.fixture
def stored(database: sqlite3.Connection) -> sqlite3.Connection:
    """A database with job 1, which has two secrets."""
    batch = accepted(job(id=1, asked=WITH_SECRETS))
    batch.secrets = {1: {"A": SecretValue.of(VALUE), "B": SecretValue.of(b"b")}}
    store(database, batch, bytes(32), box=BOX)
    return database


def sealed(database: sqlite3.Connection) -> dict[tuple[int, str], bytes]:
    rows = database.execute("SELECT job_id, name, sealed FROM secrets")
    return {(job_id, name): value for job_id, name, value in rows}


def test_secrets_when_stored_then_only_the_box_can_show_them(stored: sqlite3.Connection) -> None:
    assert secret_rows.of_job(stored, BOX, job(id=1, asked=WITH_SECRETS)) == {"A": VALUE, "B": b"b"}
    assert not any(b"CANARY" in value for value in sealed(stored).values())
    with pytest.raises(SecretsGone, match="another key"):
        secret_rows.of_job(stored, SecretBox(b"K" * 32), job(id=1, asked=WITH_SECRETS))


@pytest.mark.parametrize(("job_id", "name"), [(2, "A"), (1, "B")])
def test_secret_when_its_row_is_moved_then_it_cannot_be_opened(
    stored: sqlite3.Connection, job_id: int, name: str
) -> None:
    with pytest.raises(SecretUnreadable):
        BOX.unseal(job_id, name, sealed(stored)[1, "A"])


def test_secrets_when_one_cannot_be_opened_then_it_is_named(
    stored: sqlite3.Connection,
) -> None:
    assert list(secret_rows.unreadable(stored, BOX)) == []
    assert set(secret_rows.unreadable(stored, SecretBox(b"K" * 32))) == {(1, "A"), (1, "B")}

    stored.execute("UPDATE secrets SET job_id = 2 WHERE name = 'A'")

    assert list(secret_rows.unreadable(stored, BOX)) == [(2, "A")]


@pytest.mark.parametrize("damaged", [b"", b"short", bytes(64)])
def test_secret_when_its_row_is_damaged_then_the_job_cannot_start(stored: sqlite3.Connection, damaged: bytes) -> None:
    stored.execute("UPDATE secrets SET sealed = ? WHERE name = 'A'", (damaged,))

    with pytest.raises(SecretsGone, match="A is damaged"):
        secret_rows.of_job(stored, BOX, job(id=1, asked=WITH_SECRETS))


@pytest.mark.parametrize(
    ("state", "kept"), [(State.SUCCEEDED, 0), (State.SUPERSEDED, 0), (State.FAILED, 2), (State.QUEUED, 2)]
)
def test_secrets_when_their_job_changes_then_they_are_kept_for_a_retry(
    stored: sqlite3.Connection, state: State, kept: int
) -> None:
    reason = None if state is State.QUEUED else Reason.EXIT
    store(stored, Batch(jobs={1: job(state, id=1, asked=WITH_SECRETS, reason=reason)}, changes=[change(2)]), bytes(32))

    assert len(sealed(stored)) == kept


async def test_secret_when_its_job_has_succeeded_then_its_bytes_leave_the_file(migrated: Path, tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    shutil.copyfile(migrated, path)
    writer = await open_writer(path)  # whatever the build of SQLite does by itself
    batch = accepted(job(id=1, asked=WITH_SECRETS))
    batch.secrets = {1: {"A": SecretValue.of(VALUE * 2_000), "B": SecretValue.of(b"b")}}  # A takes pages of its own
    await writer.run(store, batch, bytes(32), box=BOX)
    last = (await writer.run(sealed))[1, "A"][-1_000:]
    await writer.run(copy_wal)
    assert last in path.read_bytes()

    ended = job(State.SUCCEEDED, id=1, asked=WITH_SECRETS, reason=Reason.EXIT)
    await writer.run(store, Batch(jobs={1: ended}, changes=[change(2)]), bytes(32))
    await writer.run(copy_wal)
    await writer.close()

    assert last not in path.read_bytes()


def test_backup_when_jobs_have_secrets_then_it_has_none(stored: sqlite3.Connection, tmp_path: Path) -> None:
    encrypted = sealed(stored)[1, "A"]
    made = back_up(stored, lambda _at, _seq: tmp_path / "copy.db")

    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == [
        "copy.db",
        "copy.db.sha256",
    ]
    with reading(made.path) as copy:
        assert sealed(copy) == {}
        with pytest.raises(SecretsGone, match=r"gone \(A, B\)"):
            secret_rows.of_job(copy, BOX, job(id=1, asked=WITH_SECRETS))
    assert encrypted not in made.path.read_bytes()
    assert sealed(stored)  # the daemon goes on with them


def test_journal_when_its_tables_are_listed_then_secrets_are_not_among_them(database: sqlite3.Connection) -> None:
    assert secret_rows.TABLE not in {table.name for table in outbox.tables(database)}


def test_digest_when_the_value_the_name_or_the_key_differs_then_it_differs() -> None:
    value, other = SecretValue.of(VALUE), SecretValue.of(b"other")

    digests = {box.digest(name, one) for box in (BOX, SecretBox(b"K" * 32)) for name in "AB" for one in (value, other)}

    assert len(digests) == 8
    assert BOX.digest("A", value) == SecretBox(b"k" * 32).digest("A", value)


# --- the key ------------------------------------------------------------------------------------------------


def test_key_when_there_is_none_then_a_private_one_is_made_and_kept(tmp_path: Path) -> None:
    made = open_box(tmp_path, None)

    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert open_box(tmp_path, None).unseal(1, "A", made.seal(1, "A", VALUE)) == VALUE


def test_key_when_the_service_manager_gives_one_then_it_is_used(tmp_path: Path) -> None:
    (tmp_path / CREDENTIAL).write_bytes(b"k" * 32)

    box = open_box(tmp_path / "state", str(tmp_path))

    assert box.unseal(1, "A", BOX.seal(1, "A", VALUE)) == VALUE
    assert not (tmp_path / "state").exists()


def test_key_when_only_its_file_is_asked_for_then_none_is_made(tmp_path: Path) -> None:
    assert box_of_file(tmp_path) is None
    assert list(tmp_path.iterdir()) == []

    made = open_box(tmp_path, None)

    box = box_of_file(tmp_path)
    assert box is not None
    assert box.unseal(1, "A", made.seal(1, "A", VALUE)) == VALUE


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"k" * 31, 0o600, "has 31 bytes; it must have 32"),
        (b"k" * 5_000, 0o600, "has more than 4096 bytes"),
        (b"k" * 32, 0o640, "is open to others"),
    ],
)
def test_key_when_its_file_cannot_be_used_then_the_start_is_refused(
    tmp_path: Path, content: bytes, mode: int, why: str
) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    (tmp_path / KEY_FILE).chmod(mode)

    with pytest.raises(StateRefused, match=why):
        open_box(tmp_path, None)


def test_key_when_its_name_is_a_link_then_the_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).symlink_to("/dev/zero")

    with pytest.raises(StateRefused, match="not a regular file"):
        open_box(tmp_path, None)
