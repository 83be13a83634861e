"""Rows of `schedules`, and the runs of a schedule.

A run is found by its idempotency key, which has the name of its schedule and then its slot.
"""

from __future__ import annotations

import sqlite3
from operator import attrgetter

import msgspec
from msgspec import Struct

from stoker.core.schedule.model import Schedule, runs_key
from stoker.store.strict import strict

FIELDS = Schedule.__struct_fields__  # each has a column of its name
COLUMNS = ", ".join(FIELDS)
UPSERT = f"INSERT OR REPLACE INTO schedules ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))})"
DELETE = "DELETE FROM schedules WHERE name = ?"
ALL = f"SELECT {COLUMNS} FROM schedules ORDER BY name"
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
def schedules(connection: sqlite3.Connection) -> dict[str, Schedule]:
    """All schedules by name."""
    rows = (
        msgspec.convert(dict(zip(FIELDS, each, strict=True)), Schedule, strict=False)
        for each in connection.execute(ALL)
    )
    return {schedule.name: schedule for schedule in rows}


def runs(connection: sqlite3.Connection, schedule: Schedule, limit: int) -> list[ScheduleRun]:
    """The newest runs of a schedule, newest first; also those of an earlier schedule of that name and owner."""
    rows = connection.execute(RUNS, (schedule.owner_uid, runs_key(schedule.name), limit))
    return [ScheduleRun(key.partition("/")[0], *others) for key, *others in rows]
