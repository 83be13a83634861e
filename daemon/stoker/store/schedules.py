"""Rows of `schedules`, and the runs of a schedule.

A run is found by its idempotency key, which has the name of its schedule and then its slot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from stoker.core.schedule.model import Schedule, runs_key
from stoker.store.strict import strict

FIELDS = Schedule.__struct_fields__  # each has a column of its name
COLUMNS = ", ".join(FIELDS)
UPSERT = f"INSERT OR REPLACE INTO schedules ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))})"
DELETE = "DELETE FROM schedules WHERE name = ?"
ALL = f"SELECT {COLUMNS} FROM schedules ORDER BY name"
PAGE = f"""
SELECT {COLUMNS} FROM schedules WHERE name > ?1 AND (?2 IS NULL OR owner_uid = ?2) ORDER BY name LIMIT ?3
"""
ONE = f"SELECT {COLUMNS} FROM schedules WHERE name = ?1 AND (?2 IS NULL OR owner_uid = ?2)"
RUNS = """
SELECT substr(key, length(?2) + 1), idempotency.job_id, coalesce(jobs.workflow_id, purged_workflow),
    coalesce(workflows.state, jobs.state, purged_state)
FROM idempotency LEFT JOIN jobs ON jobs.id = idempotency.job_id LEFT JOIN workflows ON workflows.id = jobs.workflow_id
WHERE idempotency.owner_uid = ?1 AND key > ?2 AND key < ?2 || 'A' ORDER BY key DESC LIMIT ?3
"""


class ScheduleRun(Struct, frozen=True):
    """A run of a schedule: the time that it is for, and its first job; `state` is that of its workflow or job."""

    slot: str
    job_id: int
    workflow_id: int | None
    state: str


row = attrgetter(*FIELDS)  # the parameters of UPSERT


@strict("schedules")
def _read(rows: Iterable[tuple[Any, ...]]) -> list[Schedule]:
    return [msgspec.convert(dict(zip(FIELDS, each, strict=True)), Schedule, strict=False) for each in rows]


def schedules(connection: sqlite3.Connection) -> dict[str, Schedule]:
    """All schedules by name."""
    return {schedule.name: schedule for schedule in _read(connection.execute(ALL))}


def page(connection: sqlite3.Connection, after: str, owner_uid: int | None, limit: int) -> list[Schedule]:
    """Schedules of a user, or of all (None), by name: at most `limit` behind the name `after`."""
    return _read(connection.execute(PAGE, (after, owner_uid, limit)))


def by_name(connection: sqlite3.Connection, name: str, owner_uid: int | None) -> list[Schedule]:
    """The schedule of that name, if there is one and it belongs to the user; None: to any user."""
    return _read(connection.execute(ONE, (name, owner_uid)))


def runs(connection: sqlite3.Connection, schedule: Schedule, limit: int) -> list[ScheduleRun]:
    """The newest runs of a schedule, newest first; also those of an earlier schedule of that name and owner."""
    rows = connection.execute(RUNS, (schedule.owner_uid, runs_key(schedule.name), limit))
    return [ScheduleRun(key.partition("/")[0], *others) for key, *others in rows]
