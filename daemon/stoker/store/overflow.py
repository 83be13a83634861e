"""The queued jobs that may leave their queue when it overflows, and the queue from which a job came.

Owns these two queries. A move between queues is an edit in the log of changes, and is found there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from msgspec import Struct

from stoker.core.job.model import Job
from stoker.store.jobs import COLUMNS, from_row

# `cause`: CAUSES of engine/change_log.py. An edit of the queue has its old and new name.
MOVED = "cause = 'edit' AND json_extract(payload, '$.edited.queue') IS NOT NULL"
UNMOVED = f"""
SELECT {COLUMNS} FROM jobs
WHERE queue = ? AND owner_uid = ? AND demand IS NULL AND state = 'queued'
    AND NOT EXISTS (SELECT 1 FROM changes WHERE changes.job_id = jobs.id AND {MOVED})
ORDER BY order_key, id LIMIT ?
"""
LAST_MOVE = f"""
SELECT json_extract(payload, '$.edited.queue[0]'), actor_uid, json_extract(payload, '$.note') FROM changes
WHERE job_id = ? AND {MOVED} ORDER BY seq DESC LIMIT 1
"""


class Move(Struct, frozen=True):
    """The queue from which a job came, the person who moved it, or None for Stoker, and the reason."""

    source: str
    actor_uid: int | None
    note: str | None


def unmoved(
    connection: sqlite3.Connection, queue: str, owner_uid: int, may_go: Callable[[Job], bool], wanted: int, most: int
) -> list[int]:
    """The first jobs of a user in a queue that need no resources, were never moved between queues and `may_go`, in
    their order. At most `most` jobs are looked at.
    """
    found: list[int] = []
    for row in connection.execute(UNMOVED, (queue, owner_uid, most)):
        if len(found) >= wanted:
            break
        job = from_row(row)
        if may_go(job):
            found.append(job.id)
    return found


def last_move(connection: sqlite3.Connection, job_id: int) -> Move | None:
    """The last time that a job was moved between queues."""
    row = connection.execute(LAST_MOVE, (job_id,)).fetchone()
    return None if row is None else Move(*row)
