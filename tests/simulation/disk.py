"""The simulated disk: real SQL on a database in memory, with commits that take time, fail, or are in doubt.

Owns what survives a power loss: the committed rows, the outcome logs and the archives. There is one writer, which does
one thing at a time. Invariant: requests that were not carried out are lost with the daemon; an I/O error does not show
whether the transaction went through.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stoker.process.messages import Exited
from stoker.store import rates
from stoker.store.batch import Batch
from stoker.store.loading import Wanted, load
from stoker.store.migrate import migrate
from tests.simulation.eventloop import answer
from tests.simulation.host import Host
from tests.simulation.laws import RATES, Laws

RESOURCE = "INSERT INTO resources (name, capacity) VALUES (?, ?)"
LAZINESS = 50  # commits that a disk that lies loses
QUEUE = "INSERT INTO queues (name, class, max_running, rate) VALUES ('bulk', 'low', 2, ?)"
RATE_OF_KEY = "INSERT INTO rates (key, rate) VALUES (?, ?)"


class Disk:
    """The database, and the requests that were not carried out yet."""

    def __init__(self, host: Host, capacity: dict[str, int], *, lies: bool = False) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self.database.execute("PRAGMA foreign_keys = ON")
        migrate(self.database, Path("nowhere"))
        self.database.executemany(RESOURCE, capacity.items())
        self.database.execute(QUEUE, (rates.column(RATES["queue/bulk"]),))
        self.database.execute(RATE_OF_KEY, ("slow", rates.column(RATES["rate/slow"])))
        self.laws = Laws(self.database, capacity)
        self.archives: set[str] = set()  # the names of those that are complete
        self.outcomes: dict[str, list[Exited]] = {}
        self.asked: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self.fails: str | None = None  # how the next commit fails
        self.deny_read: Callable[[], None] = lambda: None  # raises OSError where the host denies a read
        self.stored: Callable[[Batch], None] = lambda _batch: None  # called after each transaction
        self._host = host
        self._lies = lies
        self._synced = sqlite3.connect(":memory:", isolation_level=None)
        self._unsynced = 0
        self.database.backup(self._synced)

    def close(self) -> None:
        self.database.close()
        self._synced.close()

    async def run(self, function: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """As `store.database.Database.run`: wait for the disk."""
        future = asyncio.get_running_loop().create_future()
        self.asked.append((future, function, args, kw))
        return await future

    def serve(self) -> None:
        """Carry out the oldest request."""
        future, function, args, kw = self.asked.popleft()
        loop = future.get_loop()
        try:
            loop.call_soon(answer, future, self._carry_out(function, args, kw), None)
        except sqlite3.Error as error:
            loop.call_soon(answer, future, None, error)

    def _carry_out(self, function: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
        if function is load:
            wanted: Wanted = args[0]
            loaded = load(self.database, wanted)
            self.laws.turn_began(loaded.due.woken, wanted.now.steady)
            return loaded
        if not _commits(args):
            self._check_read()
            return function(self.database, *args, **kw)
        failure, self.fails = self.fails, None
        if failure in ("before", "full"):
            raise _error(sqlite3.SQLITE_IOERR if failure == "before" else sqlite3.SQLITE_FULL)
        result = function(self.database, *args, **kw)
        self.laws.committed(args[0], self._host.working(), self._host.ends)
        self.laws.rated(args[0], self._host.read_at, self._host.boots)
        self.stored(args[0])
        self._sync_now_and_then()
        if failure == "after":
            raise _error(sqlite3.SQLITE_IOERR)
        return result

    def _check_read(self) -> None:
        try:
            self.deny_read()
        except OSError as error:
            raise _error(sqlite3.SQLITE_IOERR) from error

    def lose_power(self, chance: random.Random) -> None:
        """The request under way may have been carried out, and is not answered. The same if the daemon is killed."""
        self.fails = None
        if self.asked and _commits(self.asked[0][2]) and chance.random() < 0.5:
            _, function, args, kw = self.asked[0]
            self._carry_out(function, args, kw)
        self.asked.clear()

    # --- a disk that lies, for the negative control

    def _sync_now_and_then(self) -> None:
        self._unsynced += self._lies
        if self._unsynced >= LAZINESS:
            self._unsynced = 0
            self.database.backup(self._synced)

    def forget_unsynced(self) -> None:
        """After a power loss a disk that lies has lost what it reported as written."""
        if self._lies:
            self._synced.backup(self.database)

    # --- archives of failed workflows

    def archive_path(self, _state_dir: Path, workflow_id: int, finished_at: int) -> ArchivePath:
        """In place of `ops.archive.path_of`."""
        return ArchivePath(self.archives, f"workflow-{workflow_id}-{finished_at}")

    # --- outcome logs

    def read_outcomes(self, _state_dir: Path) -> list[tuple[Path, list[Exited]]]:
        newest = {name: {one.run_id: one for one in outcomes} for name, outcomes in self.outcomes.items()}
        return [(Path(f"{name}.log"), list(outcomes.values())) for name, outcomes in sorted(newest.items())]

    def remove_outcomes(self, paths: list[Path]) -> None:
        for path in paths:
            for outcome in self.outcomes.pop(path.stem, ()):
                self.laws.acknowledged([outcome.run_id])


def _commits(args: tuple[Any, ...]) -> bool:
    """Whether a request with these arguments is a transaction of the writer."""
    return bool(args) and isinstance(args[0], Batch)


class ArchivePath:
    """The path of an archive on the simulated disk."""

    def __init__(self, archives: set[str], name: str) -> None:
        self.archives = archives
        self.name = name

    def __str__(self) -> str:
        return self.name

    def exists(self) -> bool:
        return self.name in self.archives


class SimulatedArchiveFile:
    """An archive that is being written; what is in it is tested with real files."""

    def __init__(self, path: ArchivePath) -> None:
        self._path = path

    def open(self) -> bool:
        return not self._path.exists()

    def add(self, pieces: Iterable[bytes]) -> None:
        """The simulation has no reader of it."""

    def keep(self) -> None:
        self._path.archives.add(self._path.name)

    def discard(self) -> None:
        """Nothing was written."""


def _error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("the simulated disk says no")
    error.sqlite_errorcode = code
    return error
