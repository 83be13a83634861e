"""Rows about the `if` of steps: those that are still to be decided, their needs, and the notes of decisions.

A decision itself is a change of a job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from stoker.store.database import json_array

# As in the index jobs_undecided.
UNDECIDED = """
SELECT id FROM jobs WHERE undecided = 1 AND needs_open = 0 AND (state = 'waiting' OR state = 'held') ORDER BY id
"""
STEPS_OF = "SELECT id, step FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND workflow_id = ? ORDER BY id"
NOTES = """
SELECT job_id, json_extract(payload, '$.note') FROM changes
WHERE job_id IN (SELECT value FROM json_each(?)) AND cause = 'decided' ORDER BY seq
"""


def undecided(connection: sqlite3.Connection) -> list[int]:
    """Ids of jobs whose needs have ended and whose `if` is not decided: a crash came in between."""
    return [row[0] for row in connection.execute(UNDECIDED)]


def steps_of(connection: sqlite3.Connection, workflow_id: int, ids: Iterable[int]) -> dict[int, str]:
    """The names of the steps of a workflow among these jobs."""
    return dict(connection.execute(STEPS_OF, (json_array(ids), workflow_id)).fetchall())


def notes(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, str]:
    """The note of the last decision of each of these steps: its text, and its result or why it has none."""
    return dict(connection.execute(NOTES, (json_array(job_ids),)).fetchall())
