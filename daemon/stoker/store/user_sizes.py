"""The bytes that each user has stored: specs, flows, checkpoints and outputs in the database, and logs beside it.

They are added up in portions, so that other readers do not wait. The key of a sum is that of the limit that it counts
against.
"""

from __future__ import annotations

import sqlite3
from collections import Counter

from stoker.store.sizes import TAKEN

STORED, LOGS = "max_stored_bytes", "max_log_bytes"
PORTION = 1_000  # rows
Sums = Counter[tuple[str, int]]  # by the key of a limit and the user

SPEC_COLUMNS = ("command", "args", "env_vars", "working_dir", "policy")
SPEC_BYTES = " + ".join(f"length(CAST({column} AS BLOB))" for column in SPEC_COLUMNS)
LAST_JOB = "SELECT max(id) FROM (SELECT id FROM jobs WHERE id > ? ORDER BY id LIMIT ?)"
SPECS = f"SELECT owner_uid, sum({SPEC_BYTES}) FROM jobs WHERE id > ? AND id <= ? GROUP BY owner_uid"
ATTEMPTS = f"""
SELECT owner_uid, {TAKEN}, sum(length(CAST(output AS BLOB)))
FROM attempts JOIN jobs AS owners ON owners.id = job_id WHERE job_id > ? AND job_id <= ? GROUP BY owner_uid
"""
LAST_WORKFLOW = "SELECT max(id) FROM (SELECT id FROM workflows WHERE id > ? ORDER BY id LIMIT ?)"
FLOWS = """
SELECT owner_uid, sum(length(CAST(flow AS BLOB))) FROM workflows WHERE id > ? AND id <= ? GROUP BY owner_uid
"""
LAST_CHECKPOINT = "SELECT max(id) FROM (SELECT id FROM checkpoints WHERE id > ? ORDER BY id LIMIT ?)"
CHECKPOINTS = """
SELECT iif(chain LIKE 'w%', (SELECT owner_uid FROM workflows WHERE workflows.id = substr(chain, 2) + 0),
    (SELECT owner_uid FROM jobs WHERE jobs.id = substr(chain, 2) + 0)) AS owner_uid, sum(length(data))
FROM checkpoints WHERE id > ? AND id <= ? GROUP BY 1 HAVING owner_uid IS NOT NULL
"""


def of_jobs(connection: sqlite3.Connection, after: int) -> tuple[int | None, Sums]:
    """The bytes of some jobs with an id above `after`, and the last of these ids; None if there are no more."""
    (last,), sums = connection.execute(LAST_JOB, (after, PORTION)).fetchone(), Sums()
    for owner_uid, specs in connection.execute(SPECS, (after, last)):
        sums[STORED, owner_uid] += specs
    for owner_uid, logs, outputs in connection.execute(ATTEMPTS, (after, last)):
        sums[LOGS, owner_uid] += logs or 0
        sums[STORED, owner_uid] += outputs or 0
    return last, sums


def of_workflows(connection: sqlite3.Connection, after: int) -> tuple[int | None, Sums]:
    """As `of_jobs`, of workflows."""
    (last,) = connection.execute(LAST_WORKFLOW, (after, PORTION)).fetchone()
    return last, Sums({(STORED, owner_uid): size for owner_uid, size in connection.execute(FLOWS, (after, last))})


def of_checkpoints(connection: sqlite3.Connection, after: int) -> tuple[int | None, Sums]:
    """As `of_jobs`, of checkpoints."""
    (last,) = connection.execute(LAST_CHECKPOINT, (after, PORTION)).fetchone()
    return last, Sums({(STORED, owner_uid): size for owner_uid, size in connection.execute(CHECKPOINTS, (after, last))})
