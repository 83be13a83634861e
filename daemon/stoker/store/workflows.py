"""Rows of `workflows`, of the `inner_limits` of nested ones, and the states of their steps.

The state of a workflow is computed in core and only stored here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from stoker.core.job.model import Reason, State
from stoker.core.workflow.inner_limits import InnerLimit
from stoker.core.workflow.state import Workflow, WorkflowState
from stoker.store import attempts
from stoker.store.database import json_array
from stoker.store.job_search import label_text
from stoker.store.strict import strict

FIELDS = Workflow.__struct_fields__  # each has a column of its name
COLUMNS = ", ".join(FIELDS)
INSERT = f"INSERT INTO workflows ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))})"
_CHANGING = ("state", "intent", "target", "flow", "finished_at", "deadline", "expires_at", "cut", "place")
UPDATE = f"UPDATE workflows SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"
LIVE = f"SELECT {COLUMNS} FROM workflows WHERE finished_at IS NULL"
BY_IDS = f"SELECT {COLUMNS} FROM workflows WHERE id IN (SELECT value FROM json_each(?))"
STEPS = """
SELECT workflow_id, id, step, state, reason, failures, attempts, checkpoint_floor, exit_code, signal,
    CASE WHEN reason = 'reused' AND json_valid(policy)
        THEN json_extract(policy, '$.reused.workflow') || '/' || json_extract(policy, '$.reused.step') END,
    EXISTS (SELECT 1 FROM needs WHERE job_id = jobs.id AND needed = jobs.id) FROM jobs
WHERE workflow_id IN (SELECT value FROM json_each(?)) ORDER BY id
"""
LIMITS = """
SELECT workflow_id, outer, deadline, expires_at, passed FROM inner_limits
WHERE workflow_id IN (SELECT value FROM json_each(?))
"""
UPSERT_LIMIT = """
INSERT INTO inner_limits (workflow_id, outer, deadline, expires_at, passed) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (workflow_id, outer) DO UPDATE
SET deadline = excluded.deadline, expires_at = excluded.expires_at, passed = excluded.passed
"""
DELETE_LIMIT = "DELETE FROM inner_limits WHERE workflow_id = ? AND outer = ?"
ENDS = "SELECT id, owner_uid, finished_at IS NOT NULL FROM workflows WHERE id IN (SELECT value FROM json_each(?))"
STATES = "SELECT id, state FROM workflows WHERE id IN (SELECT value FROM json_each(?))"
FAILED = """
SELECT id, finished_at FROM (SELECT id, state, finished_at FROM workflows ORDER BY id DESC LIMIT ?)
WHERE state = 'failed'
"""
# The primary key bounds the search: a name that never succeeded would otherwise be looked for in all rows.
EARLIER = """
SELECT finished_at - created_at FROM workflows WHERE id < ?1 AND id >= ?1 - ?2 AND name = ?3 AND state = 'succeeded'
    AND owner_uid = ?4 ORDER BY id DESC LIMIT ?5
"""
SEARCHED, LOOKED_AT = 1_000, 5
NEWEST_NAMED = "SELECT id FROM workflows WHERE name = ? AND owner_uid = ? ORDER BY id DESC LIMIT 1"
PAGE = f"""
SELECT {COLUMNS} FROM workflows WHERE (?1 IS NULL OR id < ?1)
    AND (?2 = '[]' OR state IN (SELECT value FROM json_each(?2)))
    AND (?3 IS NULL OR id IN (SELECT id FROM workflows WHERE labels <> '{{}}' AND instr(labels, ?3) > 0))
    AND (?5 IS NULL OR owner_uid = ?5)
ORDER BY id DESC LIMIT ?4
"""


class StepStanding(Struct, frozen=True):
    """The state of the job of one step. `reused`: the earlier step whose end it took over, as `12/compile`.

    `gated`: a handler has a need of itself (core/workflow/handlers.py).
    """

    job_id: int
    step: str
    state: State
    reason: Reason | None = None
    failures: int = 0
    attempts: int = 0
    floor: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reused: str | None = None
    gated: bool = False


class StoredWorkflow(Struct, frozen=True):
    """A workflow with all its steps. `outputs`: those of its jobs, if a step is to be verified.

    `counting`: the limits of nested workflows that count now.
    """

    workflow: Workflow
    steps: tuple[StepStanding, ...]
    outputs: dict[int, str] = {}
    counting: dict[str, InnerLimit] = {}


insert_row = attrgetter(*FIELDS)  # the parameters of INSERT
update_row = attrgetter(*_CHANGING, "id")  # the parameters of UPDATE


@strict("workflows")
def from_row(row: Sequence[Any]) -> Workflow:
    return msgspec.convert(dict(zip(FIELDS, row, strict=True)), Workflow)


def live(connection: sqlite3.Connection) -> list[StoredWorkflow]:
    return _with_steps(connection, [from_row(row) for row in connection.execute(LIVE)])


def by_ids(connection: sqlite3.Connection, ids: Iterable[int]) -> list[StoredWorkflow]:
    """The workflows among `ids` that exist."""
    rows = connection.execute(BY_IDS, (json_array(ids),))
    return _with_steps(connection, [from_row(row) for row in rows])


def ends(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, tuple[int, bool]]:
    """Of these workflows the owner, and whether it has ended."""
    return {ident: (owner, bool(ended)) for ident, owner, ended in connection.execute(ENDS, (json_array(ids),))}


def states(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, WorkflowState]:
    """The committed states of the workflows among `ids` that exist."""
    return {ident: WorkflowState(state) for ident, state in connection.execute(STATES, (json_array(ids),))}


def failed(connection: sqlite3.Connection, limit: int) -> list[tuple[int, int]]:
    """Id and time of end of those that failed, among the newest `limit`."""
    return [(ident, at) for ident, at in connection.execute(FAILED, (limit,))]


def earlier_durations(connection: sqlite3.Connection, workflow: Workflow) -> list[int]:
    """How long the newest workflows of the same name and owner took that succeeded, in milliseconds."""
    parameters = (workflow.id, SEARCHED, workflow.name, workflow.owner_uid, LOOKED_AT)
    return [row[0] for row in connection.execute(EARLIER, parameters)]


def newest_named(connection: sqlite3.Connection, name: str, owner_uid: int) -> int | None:
    """The newest workflow of that name and owner."""
    row = connection.execute(NEWEST_NAMED, (name, owner_uid)).fetchone()
    return None if row is None else int(row[0])


def page(
    connection: sqlite3.Connection,
    before: int | None,
    states: Collection[WorkflowState],
    label: str | None,
    limit: int,
    owner_uid: int | None = None,
) -> list[StoredWorkflow]:
    """Workflows before the id `before`, newest first. Empty `states` means all, no `owner_uid` those of all users."""
    wanted = json_array(state.value for state in states)
    found = connection.execute(PAGE, (before, wanted, None if label is None else label_text(label), limit, owner_uid))
    return _with_steps(connection, [from_row(row) for row in found])


def _with_steps(connection: sqlite3.Connection, workflows: list[Workflow]) -> list[StoredWorkflow]:
    steps: dict[int, list[StepStanding]] = {workflow.id: [] for workflow in workflows}
    rows = connection.execute(STEPS, (json_array(steps),)) if steps else ()
    for workflow_id, *row in rows:
        steps[workflow_id].append(_standing(row))
    limits = _limits(connection.execute(LIMITS, (json_array(steps),)).fetchall() if steps else ())
    return [
        StoredWorkflow(
            workflow,
            tuple(steps[workflow.id]),
            _outputs(connection, workflow, steps[workflow.id]),
            limits.get(workflow.id, {}),
        )
        for workflow in workflows
    ]


@strict("inner_limits")
def _limits(rows: Iterable[Sequence[Any]]) -> dict[int, dict[str, InnerLimit]]:
    """By workflow, the limits of the nested ones that count now."""
    found: dict[int, dict[str, InnerLimit]] = {}
    for workflow_id, outer, *values in rows:
        limit = msgspec.convert(dict(zip(InnerLimit.__struct_fields__, values, strict=True)), InnerLimit)
        found.setdefault(workflow_id, {})[msgspec.convert(outer, str)] = limit
    return found


def limit_rows(limits: Mapping[tuple[int, str], InnerLimit | None]) -> list[tuple[Any, ...]]:
    """The parameters of UPSERT_LIMIT."""
    return [(*key, *msgspec.structs.astuple(limit)) for key, limit in limits.items() if limit is not None]


@strict("jobs")
def _standing(row: Sequence[Any]) -> StepStanding:
    values = dict(zip(StepStanding.__struct_fields__, row, strict=True))
    return msgspec.convert({**values, "gated": bool(values["gated"])}, StepStanding)


def _outputs(connection: sqlite3.Connection, workflow: Workflow, steps: Iterable[StepStanding]) -> dict[int, str]:
    """Read only if a step may be verified: outputs can be large, and most workflows do not verify."""
    verifies = '"verify":true' in workflow.flow
    return attempts.outputs(connection, [one.job_id for one in steps]) if verifies else {}
