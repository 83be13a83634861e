"""Rows of `recoveries`: one for each start of a daemon, with the recovery plan and how many attempts it settled.

The plan is stored as JSON, so that a person can read later which facts each decision was based on.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from msgspec import Struct

from stoker.store.strict import strict

UPSERT = """
INSERT INTO recoveries
    (epoch, started_at, finished_at, plan, settled, adopted, stopped, requeued, unseen, stuck, swept)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (epoch) DO UPDATE SET finished_at = excluded.finished_at, plan = excluded.plan,
    settled = excluded.settled, adopted = excluded.adopted, stopped = excluded.stopped,
    requeued = excluded.requeued, unseen = excluded.unseen, stuck = excluded.stuck, swept = excluded.swept
"""

SUMMARY = """
epoch, started_at, finished_at, json_array_length(plan), settled, adopted, stopped, requeued, unseen, stuck, swept
"""
PAGE = f"SELECT {SUMMARY} FROM recoveries WHERE epoch < ? ORDER BY epoch DESC LIMIT ?"
REPORT = f"SELECT {SUMMARY}, plan FROM recoveries WHERE epoch = ?"


class Recovery(Struct, frozen=True, kw_only=True):
    """Counts are of attempts; `swept` counts leaked processes."""

    epoch: int
    started_at: int
    finished_at: int | None = None
    plan: str = "[]"
    settled: int = 0
    adopted: int = 0
    stopped: int = 0
    requeued: int = 0
    unseen: int = 0
    stuck: int = 0
    swept: int = 0


def row(recovery: Recovery) -> tuple[Any, ...]:
    return tuple(getattr(recovery, name) for name in Recovery.__struct_fields__)


class StoredRecovery(Struct, frozen=True):
    """A Recovery as a list shows it: `attempts` counts the decisions of its plan."""

    epoch: int
    started_at: int
    finished_at: int | None
    attempts: int
    settled: int
    adopted: int
    stopped: int
    requeued: int
    unseen: int
    stuck: int
    swept: int


class StoredFinding(Struct, frozen=True):
    fact: str
    evidence: str


class StoredDecision(Struct, frozen=True):
    """A decision as the plan in a row has it; `then`: the state of the job after it."""

    run_id: str
    job_id: int
    action: str
    why: str
    finding: StoredFinding
    stop_reason: str | None = None
    then: str | None = None


_decisions = msgspec.json.Decoder(list[StoredDecision]).decode


@strict("recoveries")
def _summary(row: Any) -> StoredRecovery:
    return StoredRecovery(*row)


@strict("recoveries")
def _plan(text: str) -> list[StoredDecision]:
    return _decisions(text)


def page(connection: sqlite3.Connection, before: int, limit: int) -> list[StoredRecovery]:
    """The recoveries before the start `before`, newest first."""
    return [_summary(row) for row in connection.execute(PAGE, (before, limit))]


def report(connection: sqlite3.Connection, epoch: int) -> tuple[StoredRecovery, list[StoredDecision]] | None:
    """The recovery of one start, with every decision."""
    found = connection.execute(REPORT, (epoch,)).fetchone()
    return None if found is None else (_summary(found[:-1]), _plan(found[-1]))
