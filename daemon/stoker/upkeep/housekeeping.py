"""The small periodic duties: room on the disk, facts that wait for a commit, the note beside the database.

Owns what happens on each tick of the probe, and whether submits are refused for want of room. Refuses timers of
its own. Invariant: a full disk stops acceptance, never truth: running work is still settled.
"""

from __future__ import annotations

import asyncio
import contextlib

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock, Now
from stoker.core.errors import DiskFull, StateRefused, StorageFailed
from stoker.core.job.model import State
from stoker.core.units import volume
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.messages import Broken, ClocksSeen, Flush
from stoker.engine.submit import Intake
from stoker.host.probe import free_bytes
from stoker.store.directory import Aside, StateDirectory, storage_error
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep import maintenance

FULL = "the disk is full"
LOST = "the state directory is gone"
ASIDE_TICKS = 60
MAINTENANCE_TICKS = 3_600  # looked at every hour or so; the key makes it once a day
SET_MS = 1_000  # the wall clock was set if it and steady time have come apart by so much
ROOM_AGAIN = 1.1  # resume only with a tenth more than the limit, so that one file does not flap it


class Housekeeping:
    """Duties of one tick, in the order of their cost."""

    def __init__(
        self,
        directory: StateDirectory,
        writer: Writer,
        inbox: Inbox,
        memory: LiveState,
        intake: Intake,
        dispatcher: Dispatcher,
        clock: Clock,
        background: BackgroundTasks,
        *,
        instance: str,
        schema: int,
        min_free_bytes: int,
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._inbox = inbox
        self._memory = memory
        self._intake = intake
        self._dispatcher = dispatcher
        self._clock = clock
        self._background = background
        self._instance = instance
        self._schema = schema
        self._min_free = min_free_bytes
        self._ticks = 0
        self._noted = -1
        self._skew = _skew(clock.now())
        self._noting: asyncio.Task[None] | None = None
        self.free_bytes = 0
        self.depths: dict[str, int] = {}  # replaced, never changed: an exporter's thread reads it
        self.full = False
        self.lost: StateRefused | None = None

    def tick(self) -> None:
        """Called once a sample."""
        self._ticks += 1
        if self._memory.described:
            self._inbox.post(Flush())
        self._check_place()
        if self.lost is None:
            self._look_at_disk()
        self._maintain()
        self.depths = {name: self._memory.counts[name, State.QUEUED] for name in self._memory.queues}
        if self._ticks % ASIDE_TICKS == 0 and self._noted != self._memory.last_seq and not self._is_noting():
            self._noting = self._background.start("state.json", asyncio.to_thread(self.note))
        self._note_clocks()

    def _is_noting(self) -> bool:
        return self._noting is not None and not self._noting.done()

    async def close(self) -> None:
        """Let a note that is being written come to its end: the next writer of it is the end of the daemon."""
        if self._noting is not None:
            await asyncio.wait({self._noting})

    def note(self) -> None:
        """Write `state.json`: what the database must at least hold from now on. Raises StorageFailed."""
        noted = self._memory.committed_seq
        if not self._directory.in_place:
            return  # the note would lie beside another database, or beside none
        try:
            self._directory.write_aside(Aside(self._instance, self._schema, noted))
        except OSError as error:
            failed = storage_error(self._directory.aside, error)
            if isinstance(failed, DiskFull):
                return  # the old note stays: it says less than the database holds, and nothing wrong
            raise failed from error
        self._noted = noted

    def _note_clocks(self) -> None:
        """The wall clock was set: the next boot has to know, though nothing else may be committed before it."""
        skew = _skew(self._clock.now())
        if abs(skew - self._skew) > SET_MS and not self.full:
            self._skew = skew
            self._inbox.post(ClocksSeen())

    def _maintain(self) -> None:
        """Once a day, some time after the start: maintenance must not delay what people wait for."""
        if self._ticks % MAINTENANCE_TICKS == 0:
            self._inbox.post(maintenance.daily(self._intake, self._clock.now()))

    def _check_place(self) -> None:
        """What is written to a file without a name is not durable: accept nothing while the state is not in place."""
        in_place = self._directory.in_place
        if not in_place and self.lost is None:
            root = self._directory.root
            self.lost = StateRefused(
                f"{root} was removed or replaced under the running daemon", hint="put it back, or stop stokerd"
            )
            log(LogEvent.STATE_LOST, state_dir=root)
            self._dispatcher.close(LOST)
        elif in_place and self.lost is not None:
            self.lost = None
            log(LogEvent.STATE_BACK, state_dir=self._directory.root)
            self._dispatcher.open(LOST)
            self._inbox.wake()

    def measure_disk(self) -> int:
        """Free bytes now: `status` asks itself, because nothing ticks in safe mode."""
        with contextlib.suppress(FileNotFoundError):  # it was removed: the last measure is what is known
            self.free_bytes = free_bytes(self._directory.root)
        return self.free_bytes

    def _look_at_disk(self) -> None:
        self.measure_disk()
        if not self.full and (self._writer.full or self.free_bytes < self._min_free):
            self._close()
        elif self.full and self.free_bytes > self._min_free * ROOM_AGAIN:
            self._reopen()

    def _close(self) -> None:
        self.full = True
        log(LogEvent.DISK_FULL, free_bytes=self.free_bytes, min_free_bytes=self._min_free)
        full = DiskFull(
            f"{self._directory.root}: {shortage(self.free_bytes, self._min_free)}",
            hint="free some space: accepted jobs are safe, and submits are taken again by themselves",
        )
        self._intake.closed = self._intake.closed or full
        self._dispatcher.close(FULL)

    def _reopen(self) -> None:
        try:
            self._writer.keep_reserve()
        except OSError as error:
            failed = storage_error("the reserve", error)
            if isinstance(failed, StorageFailed):
                self._inbox.post(Broken(failed))
            return  # no room for the reserve yet: the next tick tries again
        self.full = False
        log(LogEvent.DISK_OK, free_bytes=self.free_bytes)
        # Only what was closed here is opened again: a drain may have begun meanwhile.
        if isinstance(self._intake.closed, DiskFull):
            self._intake.closed = None
        self._dispatcher.open(FULL)
        self._inbox.wake()


def shortage(free: int, least: int) -> str:
    """Why nothing is accepted: a quota, or a low threshold, lets a commit find no room ahead of it."""
    if free < least:
        return f"{volume(free)} are free, less than the {volume(least)} that are kept free"
    return f"a commit found no room, though {volume(free)} are free"


def _skew(now: Now) -> int:
    return now.wall - now.steady
