"""Jobs recomputed from their changes, for the doctor: each row must be equal to the result.

The payloads of a job's changes, applied in order, give its row (engine/change_log.py writes them). If retention has
removed the oldest changes, only the values in later ones are compared. The checksum of its spec is compared as well.
Jobs are read in portions, each in one snapshot with its changes. Invariant: it only reads; each finding is a sentence
that names the job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypedDict

import msgspec

from stoker.store import jobs
from stoker.store.changes import last_removed
from stoker.store.recorded_specs import UNREADABLE, find

JOBS = f"SELECT {jobs.COLUMNS} FROM jobs WHERE id > ? AND {jobs.NOT_PURGED} ORDER BY id LIMIT ?"
CHANGES = """
SELECT job_id, seq, from_state, to_state, payload FROM changes WHERE job_id > ? AND job_id <= ? ORDER BY job_id, seq
"""
WITH_OPEN_ATTEMPT = "SELECT job_id FROM attempts WHERE ended_at IS NULL AND job_id > ? AND job_id <= ?"
COUNT = "SELECT count(*) FROM jobs"
PORTION = 2_000  # jobs: about a tenth of a second
MOST_SHOWN = 60  # characters of a value


class ChangedValues(TypedDict, total=False):
    """The fields of a job that its changes have; `needs_open` follows from the rows of needs."""

    state: Any
    reason: Any
    attempts: Any
    failures: Any
    orphanings: Any
    conditions_open: Any
    undecided: Any
    not_needed: Any
    wake_at: Any
    expires_at: Any
    started_at: Any
    finished_at: Any
    exit_code: Any
    signal: Any
    checkpoint_floor: Any
    order_key: Any
    superseded_by: Any


class FirstValues(ChangedValues, total=False):
    """Those of its submission."""

    owner_uid: Any
    trace_id: Any
    created_at: Any
    workflow_id: Any
    step: Any
    debounce_by: Any


class Payload(ChangedValues, total=False):
    """The compared values of a payload. Most of it is not compared: the spec, a process identity, an outcome."""

    job: FirstValues


COUNTED = ("attempts", "failures", "orphanings", "conditions_open", "undecided", "not_needed", "checkpoint_floor")
BEFORE_SUBMIT = {name: 0 if name in COUNTED else None for name in ChangedValues.__annotations__}

Rows = Sequence[tuple[Any, ...]]


class DamagedSpec(NamedTuple):
    """A damaged spec in a sentence; `is_recorded`: the log of changes has it as it was."""

    sentence: str
    is_recorded: bool


class Examined(NamedTuple):
    """How many jobs of a portion were examined, what is wrong with them, and the id behind which the next begins."""

    jobs: int
    unlike: list[str]
    damaged: list[DamagedSpec]
    after: int


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute(COUNT).fetchone()[0])


def examine(connection: sqlite3.Connection, after: int) -> Examined | None:
    """Compare some jobs behind the id `after` with their changes, in one snapshot; None if there are no more."""
    connection.execute("BEGIN")
    try:
        rows = connection.execute(JOBS, (after, PORTION)).fetchall()
        if not rows:
            return None
        last: int = rows[-1][ID]
        of_job = {key: list(group) for key, group in groupby(connection.execute(CHANGES, (after, last)), itemgetter(0))}
        running = {row[0] for row in connection.execute(WITH_OPEN_ATTEMPT, (after, last))}
        removed = last_removed(connection)
    finally:
        connection.execute("COMMIT")
    examined = Examined(len(rows), [], [], last)
    for row in rows:
        _examine(row, of_job.get(row[ID], []), row[ID] in running, removed, examined)
    return examined


_column = {name.strip(): place for place, name in enumerate(jobs.COLUMNS.split(","))}
ID, STATE, SPEC_HASH = (_column[name] for name in ("id", "state", "spec_hash"))
_payload = msgspec.json.Decoder(Payload).decode


def _examine(row: tuple[Any, ...], changes: Rows, running: bool, removed: int, into: Examined) -> None:  # noqa: FBT001
    if (damage := _damage(row)) is not None:
        is_recorded = find((payload for *_, payload in reversed(changes)), row[SPEC_HASH]) is not None
        into.damaged.append(DamagedSpec(f"job {row[ID]}: {damage}", is_recorded))
    try:
        into.unlike.extend(f"job {row[ID]}{words}" for words in _differences(row, changes, running, removed))
    except UNREADABLE as error:
        into.unlike.append(f"job {row[ID]}: its changes cannot be read: {error}")


def _damage(row: tuple[Any, ...]) -> str | None:
    try:
        is_sound = _hash_of(row[: jobs.SPEC_WIDTH]) == row[SPEC_HASH]
    except UNREADABLE as error:
        return f"its row cannot be read: {error}"
    return None if is_sound else "its spec does not match its checksum"


@lru_cache(maxsize=64)  # jobs often have the spec of one before them; a spec may have a megabyte
def _hash_of(spec: tuple[Any, ...]) -> bytes:
    return jobs.spec_hash(jobs.strict_spec_of(spec))


def _differences(row: tuple[Any, ...], changes: Rows, running: bool, removed: int) -> Iterator[str]:  # noqa: FBT001
    if not changes:
        if not removed:
            yield " has no change at all"
        return
    _, seq, _, state, _ = changes[-1]
    if state != row[STATE]:
        yield f" is {row[STATE]}, its last change ({seq}) says {state}"
        return
    values = _folded(changes)
    if running:
        values.pop("started_at", None)  # no change is written when the worker begins
    for name, expected in values.items():
        if row[_column[name]] != expected:
            yield f": {name} is {shown(row[_column[name]])}, its changes say {shown(expected)}"


def _folded(changes: Rows) -> dict[str, Any]:
    """The values that these changes of a job lead to: all of them if they begin with its submission."""
    begins = changes[0][2] is None
    values: dict[str, Any] = {**BEFORE_SUBMIT} if begins else {}
    for *_, text in changes:
        payload = _payload(text)
        values.update(payload.pop("job", {}))
        values.update(payload)
    return values


def shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
