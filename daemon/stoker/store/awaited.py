"""The queues in which the jobs are queued that programs inside of running jobs wait for.

Owns these two queries, one for jobs and one for the steps of workflows. Whether they run is a fact of memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from stoker.core.standstill import Wait
from stoker.store.database import json_array

JOBS = "SELECT id, queue FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND state = 'queued'"
WORKFLOWS = """
SELECT DISTINCT workflow_id, queue FROM jobs WHERE workflow_id IN (SELECT value FROM json_each(?)) AND state = 'queued'
"""


def queues_of(connection: sqlite3.Connection, waits: Iterable[Wait]) -> Mapping[Wait, frozenset[str]]:
    """For each wait the queues in which jobs of it are queued."""
    wanted = list(waits)
    jobs = dict(connection.execute(JOBS, (json_array(job for wait in wanted for job in wait.jobs),)).fetchall())
    of_workflow: dict[int | None, set[str]] = {}
    for workflow, queue in connection.execute(WORKFLOWS, (json_array(w.workflow for w in wanted if w.workflow),)):
        of_workflow.setdefault(workflow, set()).add(queue)
    return {
        wait: frozenset(jobs[job] for job in wait.jobs if job in jobs) | of_workflow.get(wait.workflow, set())
        for wait in wanted
    }
