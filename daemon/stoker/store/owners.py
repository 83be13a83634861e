"""The owners of jobs, workflows and checkpoints.

Owns the one condition that tells the things of a user from those of others. An id never changes its owner and is
never used again, so an answer stays true.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED

JOBS = f"SELECT id FROM jobs WHERE owner_uid = ? AND id IN (SELECT value FROM json_each(?)) AND {NOT_PURGED}"
WORKFLOWS = "SELECT id FROM workflows WHERE owner_uid = ? AND id IN (SELECT value FROM json_each(?))"
CHAIN = "SELECT chain FROM checkpoints WHERE id = ?"


def jobs_of(connection: sqlite3.Connection, uid: int, ids: Iterable[int]) -> set[int]:
    """Those of the jobs `ids` that belong to the user."""
    return {row[0] for row in connection.execute(JOBS, (uid, json_array(ids)))}


def workflows_of(connection: sqlite3.Connection, uid: int, ids: Iterable[int]) -> set[int]:
    """Those of the workflows `ids` that belong to the user."""
    return {row[0] for row in connection.execute(WORKFLOWS, (uid, json_array(ids)))}


def has_checkpoint(connection: sqlite3.Connection, uid: int, ident: int) -> bool:
    """Whether the job or the workflow whose chain has the checkpoint belongs to the user."""
    row = connection.execute(CHAIN, (ident,)).fetchone()
    kind, owner = ("j", 0) if row is None else (row[0][0], int(row[0][1:]))
    return bool((workflows_of if kind == "w" else jobs_of)(connection, uid, [owner]))
