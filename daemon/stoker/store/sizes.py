"""The disk space of the state: the file of the database, and the logs and checkpoints by their rows.

Logs and checkpoints are added up in portions, so that other readers do not wait.
"""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from stoker.store.database import json_array
from stoker.store.retention import PurgePortion

SPACE = """
SELECT page_count * page_size, freelist_count * page_size, (SELECT auto_vacuum FROM pragma_auto_vacuum) <> 0
FROM pragma_page_count, pragma_page_size, pragma_freelist_count
"""
# A log that is longer than its limit has a hole: it takes no more than the limit.
TAKEN = """
sum(CASE WHEN log_bytes <= 65536 THEN log_bytes ELSE min(log_bytes, coalesce(
    (SELECT json_extract(policy, '$.max_log_bytes') FROM jobs WHERE jobs.id = job_id), 67108864)) END)
"""
LOGS = f"""
SELECT max(job_id), {TAKEN} FROM attempts
WHERE job_id > ?1 AND job_id <= (SELECT max(job_id) FROM (
    SELECT job_id FROM attempts WHERE job_id > ?1 ORDER BY job_id LIMIT ?2
))
"""
CHECKPOINTS = """
SELECT max(id), sum(length(data)) FROM (SELECT id, data FROM checkpoints WHERE id > ? ORDER BY id LIMIT ?)
"""
LOGS_OF = f"SELECT {TAKEN} FROM attempts WHERE job_id IN (SELECT value FROM json_each(?))"
CHECKPOINTS_OF = "SELECT sum(length(data)) FROM checkpoints WHERE chain IN (SELECT value FROM json_each(?))"
PORTION = 10_000  # rows


class Space(Struct, frozen=True):
    """Bytes of the database file, and how many of them are free for new rows."""

    database: int
    free: int
    shrinks: bool


def space(connection: sqlite3.Connection) -> Space:
    size, free, shrinks = connection.execute(SPACE).fetchone()
    return Space(size, free, bool(shrinks))


def logs(connection: sqlite3.Connection, after: int) -> tuple[int | None, int]:
    """The bytes of all logs of some jobs with an id above `after`, and the last of these ids."""
    last, size = connection.execute(LOGS, (after, PORTION)).fetchone()
    return last, size or 0


def checkpoints(connection: sqlite3.Connection, after: int) -> tuple[int | None, int]:
    """The bytes of some checkpoints with an id above `after`, and the last of these ids."""
    last, size = connection.execute(CHECKPOINTS, (after, PORTION)).fetchone()
    return last, size or 0


def sizes_of(connection: sqlite3.Connection, portion: PurgePortion) -> dict[str, int]:
    """The bytes of the logs and checkpoints of some jobs and workflows."""
    (of_logs,) = connection.execute(LOGS_OF, (json_array(portion.all_jobs),)).fetchone()
    (of_checkpoints,) = connection.execute(CHECKPOINTS_OF, (json_array(portion.chains),)).fetchone()
    return {"logs": of_logs or 0, "checkpoints": of_checkpoints or 0}
