"""Databases for the tests of store/: always real files, migrated by the code that the daemon uses.

Every connection and lock that a test took is given back.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from stoker.store.directory import StateDirectory
from stoker.store.migrate import migrate
from stoker.store.open import Opened, open_state
from tests.support.batches import put
from tests.support.facts import until_async
from tests.support.jobs import job, spec

RESERVE_BYTES = 64 * 1024
Open = Callable[..., Awaitable[Opened]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database that is closed: a copy takes a tenth of the time of all migrations."""
    folder = tmp_path_factory.mktemp("migrated")
    with closing(sqlite3.connect(folder / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, folder / "backups")
    return folder / "stoker.db"


@contextmanager
def opened_copy(source: Path, folder: Path) -> Iterator[sqlite3.Connection]:
    shutil.copyfile(source, folder / source.name)
    with closing(sqlite3.connect(folder / source.name, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A migrated database, as the writer's connection sees it."""
    with opened_copy(migrated, tmp_path) as connection:
        yield connection


@pytest.fixture(scope="module", params=["empty", "analyzed"])
def planned(
    request: pytest.FixtureRequest, migrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    """To ask for plans only: a database that SQLite knows nothing about, and one it has counted.

    A plan must not tip over between them.
    """
    with opened_copy(migrated, tmp_path_factory.mktemp("planned")) as connection:
        if request.param == "analyzed":
            put(
                connection,
                [job(id=ident, order_key=ident, asked=spec(queue=f"q{ident % 3}")) for ident in range(1, 400)],
            )
            connection.execute("ANALYZE")
        connection.execute("PRAGMA query_only = ON")
        yield connection


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    """A state directory that does not exist yet."""
    of = StateDirectory(tmp_path / "state")
    yield of
    of.unlock()


@pytest.fixture
async def open_at() -> AsyncIterator[Open]:
    """Opens a state directory as a daemon does; everything is closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def opened(
            at: StateDirectory, boot_id: str = "boot", reserve_bytes: int = RESERVE_BYTES, pid_namespace: int = 1
        ) -> Opened:
            stack.callback(at.unlock)
            state = await open_state(at, boot_id, pid_namespace, reserve_bytes)
            stack.push_async_callback(state.writer.close)
            stack.push_async_callback(state.reader.close)
            stack.push_async_callback(state.queries.close)
            return state

        yield opened
    # A connection that could not be opened ends its thread by itself, and notifies the loop.
    await until_async(lambda: not any("_connection_worker" in thread.name for thread in threading.enumerate()))


@pytest.fixture
async def state(directory: StateDirectory, open_at: Open) -> Opened:
    """An open state directory."""
    return await open_at(directory)
