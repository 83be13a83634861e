"""Values that no release stores, in each column of each table: a reader raises CorruptRecord, and no other error.

The gate for a new table or column: it stands in the golden schema, so it is tried here, or is named with the reason.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import CorruptRecord, StokerError
from stoker.store import (
    attempts,
    checkpoints,
    conditions,
    history_id,
    jobs,
    queues,
    rates,
    restore,
    schedules,
    workflows,
)
from stoker.store.conditions import WaitersWanted
from stoker.store.jobs import spec_hash
from tests.migrations.test_schema import ATTEMPT, CHECKPOINT, JOB, QUEUE, SCHEDULE, WORKFLOW, insert
from tests.support.jobs import spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.core.job.model import Job

HISTORY = '{"id":"a","earlier":[]}'
EVENT: dict[str, Any] = {
    "id": 1, "owner_uid": 0, "name": "e", "data": "1", "emitted_at": 0, "one": 0, "keep_until": 9, "reached": 0,
    "last_job": 1, "next_after": 0, "digest": b"d",
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "jobs": JOB | {
        "workflow_id": 1, "step": "a", "state": "waiting", "conditions_open": 1, "policy": '{"wait_for":"file:/a"}',
        "spec_hash": spec_hash(spec(command="true", working_dir="/", wait_for="file:/a")),
    },
    "attempts": ATTEMPT | {
        "pid": 1, "start_ticks": 1, "boot_id": "b", "pid_namespace": 1, "ended_at": 1, "outcome": "exit", "stopped": 0,
    },
    "workflows": WORKFLOW,
    "schedules": SCHEDULE,
    "checkpoints": CHECKPOINT,
    "queues": QUEUE,
    "resources": {"name": "gpu", "capacity": 1},
    "rates": {"key": "api", "rate": '{"count":1,"per_ms":1000,"burst":1}'},
    "buckets": {"name": "rate/api", "full_at": 1},
    "inner_limits": {"workflow_id": 1, "outer": "build/", "deadline": 1, "expires_at": 1, "passed": "timeout"},
    "events": EVENT,
    "conditions": {"job_id": 1, "number": 0, "condition": "file:/a"},
    "meta": {"key": history_id.NAME, "value": HISTORY},
}  # fmt: skip
READERS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "jobs": lambda it: (undamaged(jobs.by_ids(it, [1])), workflows.by_ids(it, [1]), jobs.standings(it, [1])),
    "attempts": lambda it: attempts.of_job(it, 1),
    "workflows": lambda it: workflows.by_ids(it, [1]),
    "schedules": schedules.schedules,
    "checkpoints": lambda it: checkpoints.by_ids(it, [1]),
    "queues": queues.queues,
    "resources": queues.resources,
    "rates": rates.rates,
    "buckets": rates.buckets,
    "inner_limits": lambda it: workflows.by_ids(it, [1]),
    "events": lambda it: (conditions.undelivered(it), conditions.given(it, 1)),
    "conditions": lambda it: (conditions.awaited(it), conditions.waiters(it, WaitersWanted("file:/a"), 1)),
    "meta": lambda it: (history_id.read(it), restore.pending(it)),
}
# Tables whose rows are keys and numbers only, or are read by checks of their own: no value is made of them.
OTHERS = {
    *("needs", "job_events", "idempotency", "purging_jobs", "purged_jobs", "checkpoint_purges"),
    *("changes", "recoveries", "migrations", "outbox", "secrets", "sqlite_sequence"),
}
# No value is made of these columns: a row is found by it, only SQL asks for it, or a job gets it as it is.
NOT_MADE = {
    "jobs": {"id", "workflow_id"}, "attempts": {"job_id", "holds"}, "workflows": {"id"}, "checkpoints": {"id"},
    "meta": {"key"}, "inner_limits": {"workflow_id"}, "events": {"last_job"}, "conditions": {"job_id", "condition"},
}  # fmt: skip
WRONG = ("{", "no such", b"\x00", 0.5, -1, 2**63 - 1)


@pytest.fixture
def lenient(database: sqlite3.Connection) -> sqlite3.Connection:
    """A row in each table, in a database that takes any value."""
    for table, row in ROWS.items():
        with suppress(sqlite3.IntegrityError):  # the migrations have made it
            insert(database, table, row)
    insert(database, "job_events", {"job_id": 1, "event_id": 1})
    for kind, name in database.execute("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL").fetchall():
        if kind in ("index", "trigger"):
            database.execute(f"DROP {kind} {name}")
    database.executescript(
        """
        PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = replace(sql, 'STRICT, WITHOUT', 'WITHOUT') WHERE type = 'table';
        UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE type = 'table';
        PRAGMA writable_schema = RESET;
        """
    )
    return database


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def outcomes(connection: sqlite3.Connection, table: str, column: str) -> list[Exception | None]:
    """The error that the reader of the table raises for each wrong value."""
    raised: list[Exception | None] = []
    for value in WRONG:
        connection.execute("SAVEPOINT one")
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
            READERS[table](connection)
            raised.append(None)
        except Exception as error:  # noqa: BLE001 - the test asks which one it is
            raised.append(error)
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
    return raised


def test_tables_when_listed_then_each_has_a_reader_here_or_needs_no_reader(database: sqlite3.Connection) -> None:
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    assert {name for name in names if not name.startswith("sqlite_stat")} == READERS.keys() | OTHERS
    assert READERS.keys() == ROWS.keys()


@pytest.mark.parametrize("table", READERS)
def test_value_when_no_release_stores_it_then_its_reader_refuses_it(lenient: sqlite3.Connection, table: str) -> None:
    READERS[table](lenient)  # sound as it is
    refused = 0
    for column in columns(lenient, table):
        for value, error in zip(WRONG, outcomes(lenient, table, column), strict=True):
            assert error is None or isinstance(error, StokerError | sqlite3.Error), (column, value, error)
            refused += error is not None
            if value == b"\x00" and column in columns_of_text_and_numbers(lenient, table):
                assert error is not None, f"{table}.{column} took bytes"
    assert refused


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rates", "rate", '{"count":0,"per_ms":1000,"burst":1}'),
        ("rates", "rate", '{"count":1,"per_ms":0,"burst":1}'),
        ("rates", "rate", '{"count":1,"per_ms":1000,"burst":0}'),
        ("rates", "rate", f'{{"count":1,"per_ms":{2**62},"burst":1}}'),
        ("queues", "rate", '{"count":0,"per_ms":1000,"burst":1}'),
        ("conditions", "number", 32),
        ("conditions", "condition", "file:a"),
        ("conditions", "condition", "file:/a\0b"),
        ("jobs", "conditions_open", 3),
        ("events", "data", '{"a":'),
    ],
)
def test_value_when_it_cannot_have_been_set_then_its_reader_refuses_it(
    lenient: sqlite3.Connection, table: str, column: str, value: object
) -> None:
    lenient.execute(f"UPDATE {table} SET {column} = ?", (value,))

    with pytest.raises(CorruptRecord, match=f"a row of the table {table} cannot be read"):
        READERS[table](lenient)


def undamaged(found: dict[int, Job]) -> dict[int, Job]:
    """As the dispatcher does: the checksum covers the columns of the spec."""
    if any(jobs.is_damaged(job) for job in found.values()):
        raise CorruptRecord("a job does not match its checksum")
    return found


def columns_of_text_and_numbers(connection: sqlite3.Connection, table: str) -> set[str]:
    """Those of which a value is made, which cannot be bytes."""
    types = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
    return {name for name, kind in types.items() if kind != "BLOB"} - NOT_MADE.get(table, set())
