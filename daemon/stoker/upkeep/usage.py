"""The disk space of the state directory, for `stoker status`, and what each user has stored, for limits of bytes.

The sizes of logs and checkpoints are added up from rows, after each pass of retention and in portions: to visit a
million log directories would keep the disk busy for minutes. The database file is measured at each request.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.clock import Clock
from stoker.engine.memory.users import LiveUsers
from stoker.ops import archive
from stoker.store import sizes, user_sizes
from stoker.store.reader import Reader
from stoker.upkeep.pace import Pace

if TYPE_CHECKING:
    from stoker.core.daemon_views import UsageView

Portion = Callable[[sqlite3.Connection, int], tuple[int | None, int]]
"""From an id to the bytes of the rows after it and the last id among them, or None if there are no more rows."""


class Usage:
    """`describe` gives the last measurement."""

    def __init__(self, reader: Reader, database: Path, clock: Clock, users: LiveUsers) -> None:
        self._reader = reader
        self._database = database
        self._clock = clock
        self._users = users
        self._one = asyncio.Lock()  # of two measurements of users at once, one would miss what is added meanwhile
        self._logs: int | None = None
        self._checkpoints: int | None = None
        self._archives: int | None = None
        self._measured_at: int | None = None

    async def measure(self, pace: Pace) -> None:
        """Measure everything except the database file."""
        archives = await asyncio.to_thread(archive.listed, self._database.parent)
        self._archives = sum(one.size for one in archives)
        self._logs = await self._sum(sizes.logs, pace)
        self._checkpoints = await self._sum(sizes.checkpoints, pace)
        self._measured_at = self._clock.now().wall
        await self.measure_users(pace)

    async def measure_users(self, pace: Pace) -> None:
        """Measure what each user has stored, if that is limited."""
        if not self._users.quotas.bound_bytes:
            return
        async with self._one:
            self._users.bytes.begin_measurement()
            sums = user_sizes.Sums()
            for portion in (user_sizes.of_jobs, user_sizes.of_workflows, user_sizes.of_checkpoints):
                last: int | None = 0
                while last is not None:
                    async with pace.piece():
                        last, some = await self._reader.run(portion, last)
                    sums.update(some)
            self._users.bytes.end_measurement(sums)

    async def _sum(self, portion: Portion, pace: Pace) -> int:
        total, after = 0, 0
        while True:
            async with pace.piece():
                last, size = await self._reader.run(portion, after)
            if last is None:
                return total
            total, after = total + size, last

    async def describe(self) -> UsageView:
        """Bytes by kind of data; a kind that was not measured yet is None."""
        space = await self._reader.run(sizes.space)
        wal = 0
        with suppress(FileNotFoundError):
            wal = self._database.with_name(self._database.name + "-wal").stat().st_size
        return {
            "database_bytes": space.database,
            "database_free_bytes": space.free,
            "database_shrinks": space.shrinks,
            "wal_bytes": wal,
            "log_bytes": self._logs,
            "checkpoint_bytes": self._checkpoints,
            "archive_bytes": self._archives,
            "measured_at": self._measured_at,
        }
