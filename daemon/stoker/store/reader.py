"""Reads on a connection that cannot write.

Owns a `query_only` connection in a thread of its own, so that reads do not delay commits. Each call is one short
transaction, because the WAL grows without limit while a read transaction is open. The daemon has two readers, so that
requests of clients do not delay its own reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct

from stoker.core.job.model import Job, State
from stoker.core.requests import JobFilter
from stoker.store import jobs
from stoker.store.database import Database
from stoker.store.strict import failed_read

P = ParamSpec("P")
T = TypeVar("T")

SIZE = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)"
PING = "SELECT count(*) FROM sqlite_schema"


FLOOR = "SELECT id FROM jobs WHERE id < ? ORDER BY id DESC LIMIT 1 OFFSET ?"
CEILING = "SELECT id FROM jobs WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
# Both parts have an index, and most of the table may have ended long ago.
FIRST_NOT_STARTED = """
SELECT min(id) FROM (
    SELECT min(id) AS id FROM jobs WHERE state = 'queued'
    UNION ALL SELECT min(id) AS id FROM jobs WHERE state IN ('waiting', 'held')
)
"""
NOT_STARTED = {State.QUEUED, State.WAITING, State.HELD}
MAX_ID = 2**63 - 1
SCANNED_ROWS = 10_000  # in one transaction: some tens of milliseconds, then other reads get their turn
PAGE_BYTES = 1024 * 1024  # of jobs, as stored


class Scan(Struct, frozen=True):
    """Some jobs and their size in bytes; the search goes on behind the id `next`, if it is not None."""

    jobs: list[Job]
    next: int | None
    size: int


class Reader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Call `function(connection, ...)` inside one read transaction."""
        try:
            return await self._database.run(_in_transaction, function, args, kw)
        except sqlite3.Error as error:
            raise failed_read(error) from error

    async def close(self) -> None:
        await self._database.close()


def _in_transaction(
    connection: sqlite3.Connection, function: Callable[..., T], args: tuple[Any, ...], kw: dict[str, Any]
) -> T:
    connection.execute("BEGIN")
    try:
        return function(connection, *args, **kw)
    finally:
        connection.execute("COMMIT")


def scan(connection: sqlite3.Connection, wanted: JobFilter) -> Scan:
    """The jobs that match a filter in the next portion of the table: a long search takes several calls."""
    conditions, parameters = _conditions(wanted)
    if wanted.after is None:
        cursor, between, order = wanted.before or MAX_ID, "id < ? AND id >= ?", "id DESC"
        edge = connection.execute(FLOOR, (cursor, SCANNED_ROWS)).fetchone()
    else:
        cursor, between, order = wanted.after or _before_first(connection, wanted), "id > ? AND id <= ?", "id"
        edge = connection.execute(CEILING, (cursor, SCANNED_ROWS)).fetchone()
    end = edge[0] if edge else 0 if wanted.after is None else MAX_ID
    where = " AND ".join([between, *conditions])
    sql = f"SELECT {jobs.COLUMNS} FROM jobs WHERE {where} AND {jobs.NOT_PURGED} ORDER BY {order} LIMIT ?"
    matches: list[Job] = []
    size = 0
    for row in connection.execute(sql, (cursor, end, *parameters, wanted.limit)):
        matches.append(jobs.from_row(row))
        size += sum(len(text) for text in row if isinstance(text, str))
        if size > PAGE_BYTES:
            return Scan(matches, matches[-1].id, size)
    return Scan(matches, edge and edge[0], size)


def _before_first(connection: sqlite3.Connection, wanted: JobFilter) -> int:
    """An id before the oldest job that may match."""
    if not wanted.states or not NOT_STARTED.issuperset(wanted.states):
        return 0
    first: int | None = connection.execute(FIRST_NOT_STARTED).fetchone()[0]
    return 0 if first is None else first - 1


def _conditions(wanted: JobFilter) -> tuple[list[str], Sequence[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    if wanted.states:
        conditions.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        parameters += [state.value for state in wanted.states]
    if wanted.label is not None:
        conditions.append(
            "json_extract(policy, '$.labels') IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(policy, "
            "'$.labels') WHERE key = ? AND value = ?)"
        )
        parameters += wanted.label.partition("=")[::2]
    for column, value in (("queue = ?", wanted.queue), ("name = ?", wanted.name)):
        if value is not None:
            conditions.append(column)
            parameters.append(value)
    return conditions, parameters


def size(connection: sqlite3.Connection) -> int:
    """Bytes of the database, without its WAL."""
    return int(connection.execute(SIZE).fetchone()[0])


def ping(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(PING).fetchone()[0])
