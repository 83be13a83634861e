"""Backups of the running daemon's database: periodic ones, and for `stoker backup`.

Owns the times, the thread of each backup, and the removal of old backups. Invariants: one backup is made at a time; old
ones are removed only when a newer one is complete; a failed backup is logged, and the daemon goes on.
"""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.errors import BackupFailed, StokerError
from stoker.core.retention import kept_backups
from stoker.core.units import period
from stoker.host.threads import run_apart
from stoker.store.backup import back_up, target
from stoker.store.backup_files import BackupFile, listed, remove, remove_unfinished
from stoker.store.database import reading
from stoker.store.directory import StateDirectory
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted, Telemetry

if TYPE_CHECKING:
    from stoker.core.daemon_views import BackupList, BackupProgress, BackupStatus

FIRST_MS = 60_000  # from a start of the daemon to the first backup
AGAIN_MS = 600_000  # after a failure
SHOWN_S = 0.2


class Backups:
    """Call `tick` about every second."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        writer: Writer,
        clock: Clock,
        telemetry: Telemetry,
        background: BackgroundTasks,
    ) -> None:
        self._config = config
        self._writer = writer
        self._directory = directory
        self._clock = clock
        self._telemetry = telemetry
        self._background = background
        self._one = asyncio.Lock()
        self._files: list[BackupFile] = []
        self._error: str | None = None
        try:
            self._files = listed(directory.backups)
        except BackupFailed as error:  # shown until a backup succeeds
            self._error = error.message
        self._due = self._first_due(min(FIRST_MS, period(config.backup.every) or 0))

    def use(self, config: Config) -> None:
        """Work by these settings from now on."""
        self._config = config
        self._due = self._first_due(0)

    def _first_due(self, least_ms: int) -> int | None:
        """The steady time of the first backup with these settings, not before `least_ms` from now; None: never."""
        every, now = period(self._config.backup.every), self._clock.now()
        if every is None:
            return None
        age = now.wall - self._files[0].at if self._files else every
        # A backup in the future was made while the clock was wrong: its age is unknown.
        return now.steady + max(least_ms, every - age if 0 <= age < every else 0)

    def _due_in(self, wait_ms: int | None) -> int | None:
        """A steady time: a wall clock that is wrong must not make every backup look old."""
        return None if wait_ms is None else self._clock.now().steady + wait_ms

    def tick(self) -> None:
        """Begin a backup if it is due."""
        is_due = self._due is not None and self._clock.now().steady >= self._due
        if is_due and not self._background.is_running("backup"):
            self._background.start("backup", self._on_schedule())

    async def _on_schedule(self) -> None:
        try:
            async for _ in self.make():
                pass
        except StokerError:  # `make` has logged and counted it
            self._due = self._due_in(period(self._config.backup.every) and AGAIN_MS)
        else:
            self._due = self._due_in(period(self._config.backup.every))

    async def make(self, to: Path | None = None) -> AsyncGenerator[BackupProgress, None]:
        """Make a backup: yields its progress, then its description. Closing the generator gives the backup up.

        Raises CannotCreate, DiskFull or BackupFailed.
        """
        async with self._one:
            began = time.monotonic()
            try:
                async with self._writer.being_copied(), aclosing(self._steps(to)) as steps:
                    async for progress in steps:
                        yield progress
            except StokerError as error:
                if to is None:  # else it concerns only the person who named the file
                    self._error = error.message
                    self._telemetry.count(Counted.BACKUP_FAILURES)
                    log(LogEvent.BACKUP_FAILED, error=error, hint=error.hint)
                raise
            self._telemetry.backup_made((time.monotonic() - began) * 1_000)
            if to is None:
                self._error = None
                self._files = await asyncio.to_thread(self._prune)

    async def _steps(self, to: Path | None) -> AsyncGenerator[BackupProgress, None]:
        work = BackupWork(self._directory, self._config.disk.min_free_bytes, to)
        making = run_apart(work.run, "backup")
        try:
            while not making.done():
                await asyncio.wait({making}, timeout=SHOWN_S)  # polls: a person watches the progress
                yield {"done_bytes": work.done_bytes, "of_bytes": work.of_bytes, "backup": None}
            backup = making.result()
        finally:
            work.given_up = True
            making.cancel()
        log(LogEvent.BACKUP_MADE, path=backup.path, seq=backup.last_seq, bytes=backup.bytes)
        yield {"done_bytes": backup.bytes, "of_bytes": backup.bytes, "backup": backup.view()}

    def _prune(self) -> list[BackupFile]:
        """Remove the oldest backups beyond the limits; returns the remaining ones."""
        settings = self._config.backup
        try:
            passing = [file for file in listed(self._directory.backups) if file.before is None]
            kept = kept_backups([file.bytes for file in passing], settings.keep, settings.keep_bytes)
            for file in passing[kept:]:
                remove(file.path)
            return listed(self._directory.backups)
        except (BackupFailed, OSError) as error:
            log(
                LogEvent.BACKUP_FAILED,
                error=error,
                hint=f"older backups stay: ls -l {shlex.quote(str(self._directory.backups))}",
            )
            return self._files

    async def list(self) -> BackupList:
        """The backups in the state directory, newest first."""
        self._files = await asyncio.to_thread(listed, self._directory.backups)
        return {"directory": str(self._directory.backups), "backups": [file.view() for file in self._files]}

    def describe(self) -> BackupStatus:
        """The backups as they were listed last, for `system.status`."""
        newest = self._files[0] if self._files else None
        return {
            "newest": None if newest is None else newest.view(),
            "count": len(self._files),
            "bytes": sum(file.bytes for file in self._files),
            "every_ms": period(self._config.backup.every),
            "error": self._error,
        }


class BackupWork:
    """One backup, made in a thread. The loop reads the progress, and sets `given_up` to end it early."""

    def __init__(self, directory: StateDirectory, keep_free: int, to: Path | None) -> None:
        self._directory = directory
        self._keep_free = keep_free
        self._to = to
        self.done_bytes = self.of_bytes = 0
        self.given_up = False

    def run(self) -> BackupFile:
        """Raises CannotCreate, DiskFull or BackupFailed."""
        try:
            return self._make()
        except (OSError, sqlite3.Error) as error:
            raise BackupFailed(
                f"no backup was made: {error}", hint=f"ls -l {shlex.quote(str(self._directory.backups))}"
            ) from error

    def _make(self) -> BackupFile:
        if not self._directory.in_place:
            raise BackupFailed(f"{self._directory.root} was removed or replaced under the running daemon")
        path_of = target(self._directory, self._to)
        keep_free = 0
        if self._to is None:
            remove_unfinished(self._directory.backups)
            keep_free = self._keep_free
        with reading(self._directory.database) as source:
            return back_up(source, path_of, self._progress, keep_free)

    def _progress(self, done: int, of: int) -> None:
        self.done_bytes, self.of_bytes = done, of
        if self.given_up:
            raise BackupFailed("the backup was given up")
