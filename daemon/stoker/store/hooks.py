"""The jobs of hooks, as rows of `jobs`, and the names that their filters can meet.

That a change has one job for each hook is kept by the index `jobs_of_hooks`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from stoker.store.jobs import NOT_PURGED

RUNS = f"""
SELECT id, hook_change, state, reason, created_at, finished_at FROM jobs
WHERE hook = ? AND hook IS NOT NULL AND {NOT_PURGED} ORDER BY id DESC LIMIT ?
"""

QUEUES = "SELECT name FROM queues"
# Each part of `workflows` has an index. Rows of workflows are long.
IS_WORKFLOW = """
SELECT EXISTS (SELECT 1 FROM workflows WHERE finished_at IS NOT NULL AND name = ?1)
    OR EXISTS (SELECT 1 FROM workflows WHERE finished_at IS NULL AND name = ?1)
    OR EXISTS (SELECT 1 FROM schedules WHERE flow IS NOT NULL AND json_extract(flow, '$.name') = ?1)
"""


class KnownNames(NamedTuple):
    """The queues, and the workflow names among those asked for that are stored or scheduled."""

    queues: set[str]
    workflows: set[str]


class HookRun(Struct, frozen=True):
    job_id: int
    change: int | None
    state: str
    reason: str | None
    created_at: int
    finished_at: int | None


def runs(connection: sqlite3.Connection, names: list[str], limit: int) -> dict[str, list[HookRun]]:
    """By hook, its newest jobs, newest first."""
    return {name: [HookRun(*row) for row in connection.execute(RUNS, (name, limit))] for name in names}


def known_names(connection: sqlite3.Connection, workflows: Iterable[str]) -> KnownNames:
    """`workflows`: the names to look for."""
    return KnownNames(
        {name for (name,) in connection.execute(QUEUES)},
        {name for name in workflows if connection.execute(IS_WORKFLOW, (name,)).fetchone()[0]},
    )
