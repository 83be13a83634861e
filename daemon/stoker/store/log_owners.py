"""The owners of log files, for the doctor: which jobs log directories belong to, and which attempts have a log.

Each call is one statement, so rows may change between two calls; the caller asks again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stoker.store.database import json_array

WITHOUT_JOB = """
SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = value)
    AND NOT EXISTS (SELECT 1 FROM purged_jobs WHERE id = value)
"""
NOT_STARTED = "SELECT id, attempts FROM jobs WHERE finished_at IS NULL AND state <> 'running'"
ATTEMPTS_OF = "SELECT attempts FROM jobs WHERE id = ? AND finished_at IS NULL AND state <> 'running'"
WITH_LOG = """
SELECT run_id, job_id, ordinal FROM attempts WHERE (job_id, ordinal) > (?, ?) AND log_bytes > 0
ORDER BY job_id, ordinal LIMIT 10000
"""


class Logged(NamedTuple):
    """An attempt that printed something."""

    run_id: str
    job_id: int
    ordinal: int


def without_job(connection: sqlite3.Connection, ids: Iterable[int]) -> list[int]:
    """The ids among these that belong to no job, nor to a purged job whose logs are still to be removed."""
    return [row[0] for row in connection.execute(WITHOUT_JOB, (json_array(ids),))]


def not_started(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """The jobs that may start, and the number of attempts of each."""
    return connection.execute(NOT_STARTED)


def attempts_of(connection: sqlite3.Connection, job_id: int) -> int | None:
    """The same of one job; None if it has started or ended meanwhile."""
    row = connection.execute(ATTEMPTS_OF, (job_id,)).fetchone()
    return None if row is None else int(row[0])


def with_log(connection: sqlite3.Connection, after: tuple[int, int]) -> list[Logged]:
    """Some attempts that printed something, after this number of an attempt of a job."""
    return [Logged(*row) for row in connection.execute(WITH_LOG, after)]
