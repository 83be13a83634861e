"""Rows of `conditions`, `events` and `job_events`: open conditions of jobs, emitted events, and the jobs that got them.

`conditions` follows from the jobs: it has a row for each bit of `conditions_open`. Invariant: an event whose delivery
was cut short has a `next_after`, so the next start goes on with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from stoker.core.job.conditions import MOST_CONDITIONS, is_open, is_well_formed, texts
from stoker.core.job.model import Job
from stoker.core.named_events import KEPT_OF_A_NAME, KEPT_OF_A_USER, NamedEvent
from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED
from stoker.store.strict import strict

DAY_MS = 86_400_000
KEY_KEPT_MS = DAY_MS  # how long an idempotency key of an event is known
MOST_KEPT = 1_000  # events that one turn may give to new jobs
SWEPT_EVENTS = 128  # each may have 64 KiB
LAST_ID = 2**63 - 1
EXAMINED = 20_000  # rows in one turn: those of ended jobs stay for a retry, and may be many

INSERT = "INSERT INTO conditions (job_id, number, condition) VALUES (?, ?, ?)"
SEE = "UPDATE conditions SET seen = ? WHERE job_id = ? AND number = ?"
CLOSE = "DELETE FROM conditions WHERE job_id = ?1 AND (?2 >> number) & 1 = 0"
WAITERS = """
SELECT conditions.job_id, number, seen FROM conditions JOIN jobs ON jobs.id = conditions.job_id
WHERE condition = ?1 AND conditions.job_id > ?2 AND conditions.job_id <= ?3
    AND jobs.state IN ('waiting', 'held') AND (?4 = 0 OR jobs.owner_uid = ?4)
ORDER BY conditions.job_id LIMIT ?5
"""
NEXT_ROWS = """
SELECT count(*), max(job_id) FROM (
    SELECT job_id FROM conditions WHERE condition = ? AND job_id > ? AND job_id <= ? ORDER BY job_id LIMIT ?
)
"""
DEPENDING = f"""
SELECT conditions.job_id, number FROM conditions JOIN jobs ON jobs.id = conditions.job_id
WHERE condition = ?1 AND conditions.job_id > ?2 AND {NOT_PURGED} ORDER BY conditions.job_id LIMIT ?3
"""
OF_JOBS = (
    "SELECT job_id, condition FROM conditions WHERE job_id IN (SELECT value FROM json_each(?)) ORDER BY job_id, number"
)
# Of files and the host, which must be watched.
AWAITED = """
SELECT condition, count(*) FROM conditions JOIN jobs ON jobs.id = conditions.job_id
WHERE (condition GLOB 'file:*' OR condition GLOB 'file-changed:*' OR condition IN ('idle', 'charging'))
    AND jobs.state IN ('waiting', 'held')
GROUP BY condition
"""
ENDS_AWAITED = "SELECT DISTINCT condition FROM conditions WHERE condition GLOB 'job:*' OR condition GLOB 'workflow:*'"
ENDED = """
SELECT DISTINCT condition FROM conditions
WHERE (condition GLOB 'job:*'
        AND EXISTS (SELECT 1 FROM jobs WHERE id = CAST(substr(condition, 5) AS INTEGER) AND finished_at IS NOT NULL))
    OR (condition GLOB 'workflow:*' AND EXISTS (
        SELECT 1 FROM workflows WHERE id = CAST(substr(condition, 10) AS INTEGER) AND finished_at IS NOT NULL))
"""

FIELDS = NamedEvent.__struct_fields__  # each has a column of its name
COLUMNS = ", ".join(FIELDS)
INSERT_EVENT = f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))})"
event_row = attrgetter(*FIELDS)  # the parameters of INSERT_EVENT
UPDATE_EVENT = "UPDATE events SET reached = ?, next_after = ? WHERE id = ?"
update_row = attrgetter("reached", "next_after", "id")  # the parameters of UPDATE_EVENT
HEADS = COLUMNS.replace("data", "'' AS data")  # the data may have 64 KiB, and few queries need them
INSERT_GIVEN = "INSERT OR IGNORE INTO job_events (job_id, event_id) VALUES (?, ?)"
BY_KEY = f"SELECT {HEADS} FROM events WHERE owner_uid = ? AND key = ? AND emitted_at >= ?"
# The events of jobs stay longer than a key is known.
FREE_KEY = "UPDATE events SET key = NULL WHERE owner_uid = ? AND key = ? AND emitted_at < ?"
BY_ID = f"SELECT {HEADS} FROM events WHERE id = ?"
IS_KEPT = "keep_until > 0 AND NOT (one = 1 AND reached > 0)"  # as in the indexes events_kept and events_kept_of_owner
# The index has all that chooses them: of a thousand events only those that are taken are read.
KEPT = f"""
SELECT {HEADS} FROM events WHERE id IN (
    SELECT id FROM events WHERE owner_uid IN (0, ?3) AND name = ?1 AND keep_until > ?2 AND {IS_KEPT}
    ORDER BY id DESC LIMIT ?4
)
ORDER BY id DESC
"""
KEPT_OF_NAME = f"""
SELECT count(*) FROM (
    SELECT 1 FROM events WHERE owner_uid = ?1 AND name = ?2 AND keep_until > ?3 AND {IS_KEPT} LIMIT {KEPT_OF_A_NAME}
)
"""
KEPT_OF_OWNER = f"""
SELECT count(*) FROM (
    SELECT 1 FROM events WHERE owner_uid = ?1 AND keep_until > ?2 AND {IS_KEPT} LIMIT {KEPT_OF_A_USER}
)
"""
# A newer event that is kept as long is the one that jobs get. The data stay for the jobs that got the older one.
REPLACE_KEPT = f"""
UPDATE events SET keep_until = 0, data = iif(reached = 0 AND next_after IS NULL, '', data)
WHERE owner_uid = ?1 AND name = ?2 AND keep_until <= ?3 AND id < ?4 AND one = 0 AND {IS_KEPT}
"""
_replaced_row = attrgetter("owner_uid", "name", "keep_until", "id")
UNDELIVERED = f"SELECT {HEADS} FROM events WHERE next_after IS NOT NULL ORDER BY +id"
GIVEN = """
SELECT name, events.id, emitted_at, events.owner_uid, data FROM job_events JOIN events ON events.id = event_id
WHERE job_id = ? ORDER BY events.id
"""
PAGE = f"""
SELECT {HEADS}, length(CAST(data AS BLOB)) FROM events
WHERE (?1 = 0 OR owner_uid = ?1) AND (?2 IS NULL OR name = ?2) AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4
"""
FORGET = """
DELETE FROM events WHERE id IN (
    SELECT id FROM events WHERE keep_until < ?1 AND next_after IS NULL AND (key IS NULL OR emitted_at < ?2)
        AND NOT EXISTS (SELECT 1 FROM job_events WHERE event_id = events.id) LIMIT ?3
)
"""


class ConditionWaiter(NamedTuple):
    """A job, and the number of the condition of it that is open.

    `seen`: what was at the path of the condition when the job began to wait; empty: nothing, None: not known yet.
    """

    job_id: int
    number: int
    seen: str | None = None


class WaitersWanted(NamedTuple):
    """The next jobs behind the id `after`, up to `last`, that wait for a condition.

    `owner_uid`: whose jobs, those of all users for root. `of_all_states`: also jobs that have ended.
    """

    condition: str
    after: int = 0
    last: int = LAST_ID
    owner_uid: int = 0
    of_all_states: bool = False


class WaiterPortion(Struct, frozen=True):
    """Some of the jobs that wait for a condition; `last`: the cursor of the next portion, `more`: there may be one.

    `examined`: how many rows were looked at.
    """

    waiters: Sequence[ConditionWaiter] = ()
    last: int = 0
    more: bool = False
    examined: int = 0


class GivenEvent(Struct, frozen=True):
    """An event that a job got, with its data as JSON."""

    name: str
    id: int
    emitted_at: int
    owner_uid: int
    data: str


def new_rows(jobs: Iterable[Job]) -> list[tuple[int, int, str]]:
    """The parameters of INSERT for jobs that were just submitted."""
    return [
        (job.id, number, text)
        for job in jobs
        if job.conditions_open
        for number, text in enumerate(texts(job.spec.wait_for))
        if is_open(job.conditions_open, number)
    ]


def close_rows(jobs: Iterable[Job]) -> list[tuple[int, int]]:
    """The parameters of CLOSE for jobs that were changed."""
    return [(job.id, job.conditions_open) for job in jobs if job.spec.wait_for is not None]


def waiter_portions(
    connection: sqlite3.Connection, wanted: Iterable[WaitersWanted], limit: int, examined: int = EXAMINED
) -> dict[WaitersWanted, WaiterPortion]:
    """The next jobs of each, no more than `limit` in all, among the next `examined` rows of all: one turn reads them.

    Those for which nothing is left are put off: their portions are empty, and there is more.
    """
    portions = {}
    for each in wanted:
        portion = portions[each] = waiters(connection, each, limit, examined)
        limit -= len(portion.waiters)
        examined -= portion.examined
    return portions


def waiters(
    connection: sqlite3.Connection, wanted: WaitersWanted, limit: int, examined: int = EXAMINED
) -> WaiterPortion:
    """The first `limit` of these jobs, among the next `examined` ones that have the condition."""
    condition, after, last, owner_uid, of_all_states = wanted
    if limit <= 0 or examined <= 0:
        return WaiterPortion((), after, more=True)
    count = end = 0
    if of_all_states:
        rows = connection.execute(DEPENDING, (condition, after, limit))
    else:
        count, end = connection.execute(NEXT_ROWS, (condition, after, last, examined)).fetchone()
        rows = connection.execute(WAITERS, (condition, after, end or last, owner_uid, limit))
    portion = [_waiter(row) for row in rows]
    if count >= examined and len(portion) < limit:
        return WaiterPortion(portion, end, more=True, examined=count)
    last = portion[-1].job_id if portion else after
    return WaiterPortion(portion, last, more=len(portion) >= limit, examined=count)


@strict("conditions")
def _waiter(row: tuple[Any, ...]) -> ConditionWaiter:
    waiter = msgspec.convert(row, ConditionWaiter)
    if not 0 <= waiter.number < MOST_CONDITIONS:
        raise ValueError(f"number {waiter.number} of job {waiter.job_id}")
    return waiter


def of_jobs(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, list[str]]:
    """The open conditions of each of these jobs that has some."""
    conditions: dict[int, list[str]] = {}
    for job_id, condition in connection.execute(OF_JOBS, (json_array(job_ids),)):
        conditions.setdefault(job_id, []).append(condition)
    return conditions


def replaced_rows(new: Iterable[NamedEvent]) -> list[tuple[Any, ...]]:
    """The parameters of REPLACE_KEPT: the newest of each name takes the place of older events."""
    kept = [event for event in new if event.keep_until and not event.one]
    newest = {(event.owner_uid, event.name, event.keep_until): event for event in kept}
    return [_replaced_row(event) for event in newest.values()]


def key_rows(events: Iterable[NamedEvent]) -> list[tuple[int, str, int]]:
    """The parameters of FREE_KEY, before new events are stored."""
    return [(event.owner_uid, event.key, event.emitted_at - KEY_KEPT_MS) for event in events if event.key is not None]


def by_id(connection: sqlite3.Connection, event_id: int) -> NamedEvent:
    """An event that is still being delivered: no sweep removes it."""
    return _event(connection.execute(BY_ID, (event_id,)).fetchone())


def by_key(connection: sqlite3.Connection, owner_uid: int, key: str, now: int) -> NamedEvent | None:
    """The event that was emitted with this key within KEY_KEPT_MS."""
    row = connection.execute(BY_KEY, (owner_uid, key, now - KEY_KEPT_MS)).fetchone()
    return None if row is None else _event(row)


def kept(connection: sqlite3.Connection, name: str, owner_uid: int, now: int, jobs: int) -> list[NamedEvent]:
    """The events that reach the next `jobs` jobs of this user, newest first: each takes one at most."""
    return [_event(row) for row in connection.execute(KEPT, (name, now, owner_uid, min(jobs, MOST_KEPT)))]


class KeptCount(NamedTuple):
    """How many events of a user are kept: of one name, and in all. Counting stops at the limits."""

    of_name: int
    of_owner: int


def count_kept(connection: sqlite3.Connection, owner_uid: int, name: str, now: int) -> KeptCount:
    (of_name,) = connection.execute(KEPT_OF_NAME, (owner_uid, name, now)).fetchone()
    return KeptCount(of_name, count_kept_of_owner(connection, owner_uid, now))


def count_kept_of_owner(connection: sqlite3.Connection, owner_uid: int, now: int) -> int:
    (count,) = connection.execute(KEPT_OF_OWNER, (owner_uid, now)).fetchone()
    return int(count)


def undelivered(connection: sqlite3.Connection) -> list[NamedEvent]:
    return [_event(row) for row in connection.execute(UNDELIVERED)]


def awaited(connection: sqlite3.Connection) -> dict[str, int]:
    """The conditions about files and the host for which jobs wait, with the numbers of these jobs."""
    return dict(map(_awaited, connection.execute(AWAITED)))


@strict("conditions")
def _awaited(row: tuple[Any, ...]) -> tuple[str, int]:
    condition, jobs = msgspec.convert(row, tuple[str, int])
    if not is_well_formed(condition):
        raise ValueError(f"{condition!r} is no condition")
    return condition, jobs


def ends_awaited(connection: sqlite3.Connection) -> set[str]:
    """The conditions about ends for which jobs wait."""
    return {row[0] for row in connection.execute(ENDS_AWAITED)}


def ended(connection: sqlite3.Connection) -> list[str]:
    """Conditions about ends that are met and still open: a crash came in between."""
    return [row[0] for row in connection.execute(ENDED)]


def given(connection: sqlite3.Connection, job_id: int) -> list[GivenEvent]:
    """The events that a job got, oldest first."""
    return [_given(row) for row in connection.execute(GIVEN, (job_id,))]


@strict("events")
def _given(row: tuple[Any, ...]) -> GivenEvent:
    """Its job reads the data as JSON, as they are."""
    event = GivenEvent(*row)
    msgspec.json.decode(event.data, type=msgspec.Raw)
    return event


def page(
    connection: sqlite3.Connection, owner_uid: int, name: str | None, before: int | None, limit: int
) -> list[tuple[NamedEvent, int]]:
    """The newest events of a user, of root those of all users, each with the size of its data."""
    rows = connection.execute(PAGE, (owner_uid, name, before, limit))
    return [(_event(row[:-1]), row[-1]) for row in rows]


def forget(connection: sqlite3.Connection, now: int) -> int:
    """Delete some events that never reached a job and can reach no further one. Returns how many."""
    return connection.execute(FORGET, (now, now - KEY_KEPT_MS, SWEPT_EVENTS)).rowcount


@strict("events")
def _event(row: tuple[Any, ...]) -> NamedEvent:
    return msgspec.convert(dict(zip(FIELDS, row, strict=True)), NamedEvent, strict=False)
