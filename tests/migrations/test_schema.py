"""The statements that the schema itself refuses, one for each promise, and its golden copy.

The code never sends such statements; the schema is for the day when it does.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stoker.core.job.model import (
    FINAL,
    ExecutionMode,
    NeedOn,
    OnOrphan,
    OutcomeKind,
    QueueClass,
    Reason,
    State,
    StopReason,
)
from stoker.core.schedule.model import Misfire, Overlap
from stoker.core.workflow.checkpoint import CheckpointKind
from stoker.core.workflow.inner_limits import TimeLimit
from stoker.core.workflow.state import ENDED, Intent, WorkflowState

GOLDEN = Path(__file__).with_name("schema.golden.sql")

JOB: dict[str, Any] = {
    "id": 1, "queue": "default", "state": "queued", "priority": 0, "execution_mode": "subprocess", "command": "true",
    "args": "[]", "env_vars": "{}", "working_dir": "/", "max_attempts": 1, "backoff_factor": 2.0, "on_orphan": "fail",
    "survive": 0, "order_key": 0, "owner_uid": 0, "trace_id": "", "policy": "{}", "spec_hash": bytes(16),
    "created_at": 0,
}  # fmt: skip
FINISHED = {"state": "failed", "reason": "exit", "finished_at": 1}
ATTEMPT: dict[str, Any] = {"run_id": "1.1.a", "job_id": 1, "ordinal": 1, "launcher": "l", "created_at": 0}
WORKFLOW: dict[str, Any] = {
    "id": 1, "name": "w", "state": "running", "intent": "run", "owner_uid": 0, "trace_id": "", "flow": "{}",
    "flow_hash": bytes(16), "created_at": 0,
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "name": "s", "owner_uid": 0, "timing": "@daily", "zone": "UTC", "misfire": "skip", "overlap": "skip",
    "catch_up_ms": 1, "jitter_ms": 0, "paused": 0, "declared": 0, "job": "{}", "created_at": 0, "passed": 0,
}  # fmt: skip
CHECKPOINT: dict[str, Any] = {
    "id": 1, "chain": "w1", "seq": 1, "kind": "context", "status": "running", "version": 1, "at": 0,
    "encoding": "plain", "size": 0, "data": b"", "checksum": bytes(32),
}  # fmt: skip
LIMIT: dict[str, Any] = {"workflow_id": 1, "outer": "build/"}
CHANGE: dict[str, Any] = {
    "seq": 1, "at": 0, "kind": "job", "subject": "1", "cause": "submitted", "payload": "{}", "hash": bytes(32),
}  # fmt: skip
QUEUE: dict[str, Any] = {"name": "q", "class": "low"}


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any], **fields: Any) -> None:
    values = row | fields
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


@pytest.fixture
def furnished(database: sqlite3.Connection) -> sqlite3.Connection:
    """One job with an open attempt."""
    insert(database, "jobs", JOB)
    insert(database, "attempts", ATTEMPT)
    return database


# --- the golden copy ----------------------------------------------------------------------------------------


def test_schema_when_every_migration_ran_then_it_is_the_golden_one(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    rows = database.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")
    now = tmp_path / "schema.sql"
    now.write_text("".join(f"{row[0]};\n" for row in rows))

    assert now.read_text() == GOLDEN.read_text(), f"if the change is meant: cp {now} {GOLDEN}"


# --- closed lists -------------------------------------------------------------------------------------------

CLOSED: list[tuple[str, str, list[str]]] = [
    ("jobs", "state", [*State]),
    ("jobs", "reason", [*Reason]),
    ("jobs", "execution_mode", [*ExecutionMode, "cluster"]),
    ("jobs", "on_orphan", [*OnOrphan]),
    ("queues", "class", [*QueueClass]),
    ("needs", "on_end", [*NeedOn]),
    ("attempts", "stop_reason", [*StopReason]),
    ("attempts", "outcome", [*OutcomeKind]),
    ("workflows", "state", [*WorkflowState]),
    ("workflows", "intent", [*Intent]),
    ("inner_limits", "passed", [*TimeLimit]),
    ("schedules", "misfire", [*Misfire]),
    ("schedules", "overlap", [*Overlap]),
    ("checkpoints", "kind", [*CheckpointKind]),
    ("checkpoints", "encoding", ["plain", "gzip"]),
    ("changes", "kind", ["job", "workflow", "queue", "resource", "schedule", "rate", "hook", "system"]),
]


def row_with(table: str, column: str, value: str) -> dict[str, Any]:
    """A row that is fine if `value` is: what a value demands of other columns is there."""
    rows = {"jobs": JOB, "attempts": ATTEMPT | {"run_id": "1.2.b", "ordinal": 2}, "changes": CHANGE, "queues": QUEUE,
            "workflows": WORKFLOW, "schedules": SCHEDULE, "checkpoints": CHECKPOINT, "inner_limits": LIMIT}  # fmt: skip
    row = rows.get(table, {"job_id": 1, "needed": 2}) | {column: value}
    if table == "jobs":
        row["id"] = 2
    if table == "jobs" and column == "state":
        if value in FINAL or value == State.HELD:
            row["reason"] = "user"
        if value in FINAL:
            row["finished_at"] = 1
    if table == "workflows" and row["state"] in ENDED:
        row["finished_at"] = 1
    if table == "attempts":
        row |= {"ended_at": 1, "outcome": row.get("outcome", "exit")}
    return row


@pytest.mark.parametrize(
    ("table", "column", "values"), CLOSED, ids=[f"{table}.{column}" for table, column, _ in CLOSED]
)
def test_list_when_it_is_closed_then_exactly_the_words_of_the_code_are_taken(
    furnished: sqlite3.Connection, table: str, column: str, values: list[str]
) -> None:
    for value in values:
        furnished.execute("BEGIN")
        insert(furnished, table, row_with(table, column, value))
        furnished.execute("ROLLBACK")

    for wrong in ("", "nonsense", values[0].upper()):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            insert(furnished, table, row_with(table, column, wrong))


# --- checks -------------------------------------------------------------------------------------------------

WRONG_ATTEMPTS: list[dict[str, Any]] = [{"ordinal": 0}, {"ended_at": 1}, {"outcome": "exit"}, {"stopped": 2}]
VIOLATIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *[("jobs", JOB, {"state": state, "reason": "user"}) for state in sorted(FINAL)],
    *[("jobs", JOB, {"state": state, "reason": "user", "finished_at": 1}) for state in sorted(set(State) - FINAL)],
    *[("jobs", JOB, {"state": state, "finished_at": 1}) for state in sorted(FINAL)],
    ("jobs", JOB, {"state": "held"}),
    ("jobs", JOB, {"pid": 5}),
    ("jobs", JOB, {"pid": 5, "state": "waiting"}),
    ("jobs", JOB | FINISHED, {"pid": 5}),
    ("jobs", JOB, {"max_attempts": 0}),
    ("jobs", JOB, {"backoff_factor": 0.99}),
    ("jobs", JOB, {"ttl_ms": 0}),
    ("jobs", JOB, {"timeout_ms": 0}),
    ("jobs", JOB, {"survive": 2}),
    ("jobs", JOB, {"needs_open": -1}),
    ("jobs", JOB, {"spec_hash": bytes(15)}),
    ("queues", QUEUE, {"name": ""}),
    ("queues", QUEUE, {"name": "q" * 65}),
    ("queues", QUEUE, {"max_running": -1}),
    ("queues", QUEUE, {"max_queued": -1}),
    ("queues", QUEUE, {"paused": 2}),
    ("resources", {"name": "gpu", "capacity": 1}, {"name": ""}),
    ("resources", {"name": "gpu", "capacity": 1}, {"capacity": -1}),
    ("schedules", SCHEDULE, {"name": ""}),
    ("schedules", SCHEDULE, {"catch_up_ms": 0}),
    ("schedules", SCHEDULE, {"jitter_ms": -1}),
    ("schedules", SCHEDULE, {"next_slot": 0}),
    ("schedules", SCHEDULE, {"job": None}),
    ("schedules", SCHEDULE, {"flow": "{}"}),
    ("schedules", SCHEDULE, {"part": "{}"}),
    *[("attempts", ATTEMPT | {"run_id": "b", "ordinal": 2}, wrong) for wrong in WRONG_ATTEMPTS],
    ("changes", CHANGE, {"hash": bytes(31)}),
    ("changes", CHANGE, {"seq": 0}),
]


@pytest.mark.parametrize(("table", "row", "wrong"), VIOLATIONS, ids=lambda value: str(value) if value else "-")
def test_check_when_a_row_breaks_a_promise_then_only_the_breach_makes_it_refused(
    furnished: sqlite3.Connection, table: str, row: dict[str, Any], wrong: dict[str, Any]
) -> None:
    furnished.execute("UPDATE attempts SET ended_at = 1, outcome = 'exit'")
    fine = row | ({"id": 2} if table == "jobs" else {})

    with pytest.raises(sqlite3.IntegrityError, match=r"CHECK|gapless"):
        insert(furnished, table, fine, **wrong)

    insert(furnished, table, fine)


@pytest.mark.parametrize(
    ("table", "row", "column"),
    [
        ("jobs", JOB | {"id": 2}, "owner_uid"),
        ("attempts", ATTEMPT | {"run_id": "b", "ordinal": 2}, "created_at"),
        ("changes", CHANGE, "at"),
        ("queues", QUEUE, "max_running"),
    ],
    ids=["jobs", "attempts", "changes", "queues"],
)
def test_types_when_a_value_has_another_then_strict_tables_refuse_it(
    furnished: sqlite3.Connection, table: str, row: dict[str, Any], column: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
        insert(furnished, table, row, **{column: "soon"})


def test_column_when_it_may_be_null_then_null_is_its_default(database: sqlite3.Connection) -> None:
    """A line of the journal has no NULL, so a replay leaves the column to its default (store/replay.py)."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]

    others = [
        (table, name)
        for table in tables
        for name, not_null, default in database.execute(
            'SELECT name, "notnull", dflt_value FROM pragma_table_info(?)', (table,)
        )
        if default is not None and not not_null
    ]

    assert tables
    assert others == []


# --- uniqueness and references ------------------------------------------------------------------------------


def test_attempt_when_another_of_its_job_is_open_then_it_is_refused(furnished: sqlite3.Connection) -> None:
    second = ATTEMPT | {"run_id": "1.2.b", "ordinal": 2}
    with pytest.raises(sqlite3.IntegrityError, match=re.escape("UNIQUE constraint failed: attempts.job_id")):
        insert(furnished, "attempts", second)

    furnished.execute("UPDATE attempts SET ended_at = 1, outcome = 'exit'")
    insert(furnished, "attempts", second)


def test_attempt_when_its_ordinal_was_used_then_it_is_refused(furnished: sqlite3.Connection) -> None:
    furnished.execute("UPDATE attempts SET ended_at = 1, outcome = 'exit'")

    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(furnished, "attempts", ATTEMPT, run_id="1.1.other")


@pytest.mark.parametrize(
    ("table", "row"), [("attempts", ATTEMPT | {"job_id": 9}), ("needs", {"job_id": 9, "needed": 1, "on_end": "ok"})]
)
def test_row_when_its_job_does_not_exist_then_it_is_refused(
    database: sqlite3.Connection, table: str, row: dict[str, Any]
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        insert(database, table, row)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("attempts", ATTEMPT),
        ("needs", {"job_id": 1, "needed": 2, "on_end": "ok"}),
        ("conditions", {"job_id": 1, "number": 0, "condition": "job:2"}),
        ("job_events", {"job_id": 1, "event_id": 2}),
    ],
)
def test_job_when_a_row_of_it_is_left_then_it_cannot_be_deleted(
    database: sqlite3.Connection, table: str, row: dict[str, Any]
) -> None:
    insert(database, "jobs", JOB)
    insert(database, table, row)

    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        database.execute("DELETE FROM jobs")

    database.execute(f"DELETE FROM {table}")
    database.execute("DELETE FROM jobs")


def test_job_when_it_is_deleted_then_its_key_and_its_history_stay(database: sqlite3.Connection) -> None:
    insert(database, "jobs", JOB)
    insert(database, "changes", CHANGE, job_id=1)
    insert(database, "idempotency", {"owner_uid": 0, "key": "k", "spec_hash": b"", "job_id": 1, "created_at": 0})

    database.execute("DELETE FROM jobs")

    tables = ("changes", "idempotency")
    assert [database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables] == [(1,), (1,)]


# --- the log of changes -------------------------------------------------------------------------------------


@pytest.fixture
def changed(database: sqlite3.Connection) -> sqlite3.Connection:
    """Five changes."""
    for seq in range(1, 6):
        insert(database, "changes", CHANGE, seq=seq)
    return database


def purged(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('changes_purged', ?)", (seq,))


@pytest.mark.parametrize("seq", [5, 4, 1, 7, 100])
@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"])
def test_changes_when_a_number_is_not_the_next_then_it_is_refused(
    changed: sqlite3.Connection, seq: int, verb: str
) -> None:
    before = changed.execute("SELECT * FROM changes").fetchall()
    values = CHANGE | {"seq": seq, "cause": "forged"}

    with pytest.raises(sqlite3.IntegrityError, match="gapless"):
        changed.execute(
            f"{verb} INTO changes ({', '.join(values)}) VALUES (?, ?, ?, ?, ?, ?, ?)", tuple(values.values())
        )

    assert changed.execute("SELECT * FROM changes").fetchall() == before


@pytest.mark.parametrize("seq", [2, 0])
def test_changes_when_the_first_is_not_number_one_then_it_is_refused(database: sqlite3.Connection, seq: int) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(database, "changes", CHANGE, seq=seq)


@pytest.mark.parametrize("statement", ["UPDATE changes SET cause = 'x' WHERE seq = 5", "UPDATE changes SET seq = 9"])
def test_changes_when_edited_then_it_is_refused(changed: sqlite3.Connection, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        changed.execute(statement)


@pytest.mark.parametrize("where", ["seq = 5", "seq = 1", "1"])
def test_changes_when_deleted_without_a_record_of_the_purge_then_it_is_refused(
    changed: sqlite3.Connection, where: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        changed.execute(f"DELETE FROM changes WHERE {where}")


def test_changes_when_a_recorded_prefix_is_purged_then_only_that_can_go(changed: sqlite3.Connection) -> None:
    purged(changed, 3)

    changed.execute("DELETE FROM changes WHERE seq <= 3")

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        changed.execute("DELETE FROM changes WHERE seq = 4")
    assert changed.execute("SELECT seq FROM changes").fetchall() == [(4,), (5,)]


def test_changes_when_everything_was_purged_then_the_numbers_go_on(changed: sqlite3.Connection) -> None:
    purged(changed, 5)
    changed.execute("DELETE FROM changes")

    with pytest.raises(sqlite3.IntegrityError, match="gapless"):
        insert(changed, "changes", CHANGE, seq=1)
    insert(changed, "changes", CHANGE, seq=6)


# --- checkpoints --------------------------------------------------------------------------------------------


def test_checkpoint_when_it_is_to_be_changed_then_the_schema_refuses(furnished: sqlite3.Connection) -> None:
    insert(furnished, "checkpoints", CHECKPOINT)

    with pytest.raises(sqlite3.IntegrityError, match="immutable"):
        furnished.execute("UPDATE checkpoints SET status = 'succeeded'")


@pytest.mark.parametrize("seq", [1, 3])
def test_checkpoint_when_it_does_not_follow_its_chain_then_the_schema_refuses(
    furnished: sqlite3.Connection, seq: int
) -> None:
    insert(furnished, "checkpoints", CHECKPOINT)

    with pytest.raises(sqlite3.IntegrityError, match=r"gapless|immutable"):
        insert(furnished, "checkpoints", CHECKPOINT, id=2, seq=seq)


def test_checkpoint_when_it_follows_the_last_of_its_chain_then_it_is_taken(furnished: sqlite3.Connection) -> None:
    insert(furnished, "checkpoints", CHECKPOINT)
    insert(furnished, "checkpoints", CHECKPOINT, id=2, seq=2, parent=1)
    insert(furnished, "checkpoints", CHECKPOINT, id=3, chain="w2")

    assert furnished.execute("SELECT count(*) FROM checkpoints").fetchone() == (3,)


@pytest.fixture
def chained(furnished: sqlite3.Connection) -> sqlite3.Connection:
    """A chain of three checkpoints, and another of one."""
    for seq in (1, 2, 3):
        insert(furnished, "checkpoints", CHECKPOINT, id=seq, seq=seq)
    insert(furnished, "checkpoints", CHECKPOINT, id=4, chain="w2")
    return furnished


@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
@pytest.mark.parametrize(("number", "seq"), [(3, 3), (9, 3), (3, 4)])
def test_checkpoint_when_another_has_its_place_then_the_schema_refuses(
    chained: sqlite3.Connection, verb: str, number: int, seq: int
) -> None:
    before = chained.execute("SELECT * FROM checkpoints").fetchall()
    values = CHECKPOINT | {"id": number, "seq": seq, "data": b"forged"}

    with pytest.raises(sqlite3.IntegrityError, match="immutable"):
        chained.execute(
            f"{verb} INTO checkpoints ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
            tuple(values.values()),
        )

    assert chained.execute("SELECT * FROM checkpoints").fetchall() == before


@pytest.mark.parametrize("where", ["id = 3", "id = 1", "1"])
def test_checkpoint_when_deleted_without_a_recorded_purge_then_the_schema_refuses(
    chained: sqlite3.Connection, where: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="checkpoints are kept"):
        chained.execute(f"DELETE FROM checkpoints WHERE {where}")


def test_checkpoint_when_a_recorded_prefix_is_purged_then_only_that_can_go(chained: sqlite3.Connection) -> None:
    chained.execute("INSERT INTO checkpoint_purges (chain, seq) VALUES ('w1', 2)")

    chained.execute("DELETE FROM checkpoints WHERE chain = 'w1' AND seq <= 2")

    for kept in ("chain = 'w1'", "chain = 'w2'"):
        with pytest.raises(sqlite3.IntegrityError, match="checkpoints are kept"):
            chained.execute(f"DELETE FROM checkpoints WHERE {kept}")
    assert chained.execute("SELECT id FROM checkpoints ORDER BY id").fetchall() == [(3,), (4,)]
