"""Rows that a transaction tells the journal of: they are those that the journal would read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from stoker.core.job.model import State
from stoker.core.workflow.checkpoint import CheckpointKind
from stoker.store import checkpoints, outbox, retention
from stoker.store import jobs as rows_of_jobs
from stoker.store.database import transaction
from stoker.store.outbox import Images, Table, Written
from tests.support.batches import put
from tests.support.jobs import attempt, checkpoint, exited, job, jobs

if TYPE_CHECKING:
    import sqlite3

    from stoker.core.job.model import Job

MOST = 100  # entries in one line


@pytest.fixture
def armed(database: sqlite3.Connection) -> sqlite3.Connection:
    outbox.arm(database)
    return database


def tables(connection: sqlite3.Connection) -> dict[str, Table]:
    return {table.name: table for table in outbox.tables(connection)}


def both(connection: sqlite3.Connection, written: Written, after: int = 0) -> tuple[Any, Any]:
    """The rows for the journal as the transaction tells them, and as they are read otherwise."""
    of = tables(connection)
    told = outbox.images(connection, of, after, MOST, written=written)
    return comparable(told), comparable(outbox.images(connection, of, after, MOST))


def comparable(images: Images) -> Any:
    """As the journal has it; the order of the rows of a table means nothing."""
    told = msgspec.json.decode(msgspec.json.encode(images))
    return told | {key: {name: sorted(map(str, rows)) for name, rows in told[key].items()} for key in ("put", "gone")}


def inserted(connection: sqlite3.Connection, *new: Job) -> Written:
    put(connection, new)
    return Written(inserted={"jobs": [rows_of_jobs.insert_row(one) for one in new]})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(new=jobs())
def test_job_when_it_is_new_then_the_journal_has_it_as_it_would_be_read(armed: sqlite3.Connection, new: Job) -> None:
    armed.execute("BEGIN")
    try:
        before = outbox.entry_range(armed)[1]
        told, read = both(armed, inserted(armed, new), before)
    finally:
        armed.execute("ROLLBACK")

    assert told == read
    assert read["put"].keys() == {"jobs"}


def test_job_when_it_is_new_then_its_row_is_not_read_again(armed: sqlite3.Connection) -> None:
    """Seen by a row that is not the stored one."""
    put(armed, [job(id=1)])
    other = Written(inserted={"jobs": [rows_of_jobs.insert_row(job(id=2))]})

    told, read = both(armed, other)

    assert (len(told["put"]["jobs"]), told != read) == (1, True)


def test_job_when_its_commit_changes_others_too_then_all_are_read(armed: sqlite3.Connection) -> None:
    first, second = job(id=1), job(id=2)
    put(armed, [first])
    after = outbox.entry_range(armed)[1]
    written = inserted(armed, second)
    armed.execute(rows_of_jobs.UPDATE, rows_of_jobs.update_row(replace(first, state=State.WAITING)))

    told, read = both(armed, written, after)

    assert told == read
    assert len(read["put"]["jobs"]) == 2


@pytest.mark.parametrize("kind", CheckpointKind)
def test_checkpoint_when_it_is_new_then_the_journal_has_it_as_it_would_be_read(
    armed: sqlite3.Connection, kind: CheckpointKind
) -> None:
    links = [checkpoint(b"\xff", kind=kind, job_id=1, step="build"), checkpoint(b"2" * 200_000, seq=2, kind=kind)]
    new = [checkpoints.insert_row(link) for link in links]
    armed.executemany(checkpoints.INSERT, new)

    told, read = both(armed, Written(inserted={"checkpoints": new}))

    assert told == read
    assert read["put"].keys() == {"checkpoints"}


def test_checkpoint_when_it_is_new_then_its_row_is_not_read_again(armed: sqlite3.Connection) -> None:
    """Seen by a row that is not the stored one."""
    armed.execute(checkpoints.INSERT, checkpoints.insert_row(checkpoint(b"1")))
    other = Written(inserted={"checkpoints": [checkpoints.insert_row(checkpoint(b"2"))]})

    told, read = both(armed, other)

    assert (len(told["put"]["checkpoints"]), told != read) == (1, True)


def test_purged_rows_when_they_are_swept_then_the_journal_has_the_keys_of_all(armed: sqlite3.Connection) -> None:
    ended = [job(State.SUCCEEDED, id=ident, finished_at=1, attempts=1) for ident in (1, 2)]
    runs = [replace(attempt(one), outcome=exited(), ended_at=1) for one in ended]
    put(armed, [*ended, job(id=3)], runs)
    armed.execute("UPDATE attempts SET ended_at = 1, outcome = 'exit'")
    armed.executemany(rows_of_jobs.INSERT_NEED, [(1, 2, "ok"), (1, 3, "ok")])
    with transaction(armed):
        retention.purge(armed, retention.PurgePortion(0, [1, 2]))
    after = outbox.entry_range(armed)[1]

    swept = retention.sweep_rows(armed)
    told, read = both(armed, Written(deleted=swept.deleted), after)

    assert told == read
    deleted = dict.fromkeys(("jobs", "attempts", "needs", "purging_jobs"), 2)
    assert {name: len(keys) for name, keys in told["gone"].items()} == deleted
    assert told["put"].keys() == {"purged_jobs"}


def test_purged_logs_when_they_are_unlisted_then_the_journal_has_their_keys(armed: sqlite3.Connection) -> None:
    armed.executemany("INSERT INTO purged_jobs (id) VALUES (?)", [(1,), (2,), (3,)])
    after = outbox.entry_range(armed)[1]

    swept = retention.unlist_logs(armed, [1, 2])
    told, read = both(armed, Written(deleted=swept.deleted), after)

    assert told == read
    assert told["gone"] == {"purged_jobs": ["[1]", "[2]"]}
