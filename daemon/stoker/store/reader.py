"""Reads on a connection that cannot write.

Owns `query_only` connections in threads of their own, so that reads do not delay commits. Each call is one short
transaction, because the WAL grows without limit while a read transaction is open. The daemon has a Reader for itself
and Queries for its clients, so that requests do not delay its own reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from stoker.store.database import Database
from stoker.store.strict import failed_read

P = ParamSpec("P")
T = TypeVar("T")

SIZE = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)"
PING = "SELECT count(*) FROM sqlite_schema"


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


class Queries(Reader):
    """The reads of clients. Searches have a connection of their own: other answers do not wait for them."""

    def __init__(self, database: Database, searches: Database) -> None:
        super().__init__(database)
        self._searches = Reader(searches)

    async def search(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        """Like `run`, for reads that may take long."""
        return await self._searches.run(function, *args, **kw)

    async def close(self) -> None:
        await self._searches.close()
        await super().close()


def _in_transaction(
    connection: sqlite3.Connection, function: Callable[..., T], args: tuple[Any, ...], kw: dict[str, Any]
) -> T:
    connection.execute("BEGIN")
    try:
        return function(connection, *args, **kw)
    finally:
        connection.execute("COMMIT")


def size(connection: sqlite3.Connection) -> int:
    """Bytes of the database, without its WAL."""
    return int(connection.execute(SIZE).fetchone()[0])


def ping(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(PING).fetchone()[0])
