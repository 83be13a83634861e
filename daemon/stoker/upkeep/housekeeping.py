"""The small periodic duties: free disk space, clocks and pids that wait for a commit, and `state.json`.

Invariant: on a low disk no job is accepted or started, but the ends of running jobs are still committed, and their
hooks run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.errors import DiskFull, StateRefused, StorageFailed
from stoker.core.hooks import QUEUE
from stoker.core.job.model import State
from stoker.core.shortage import OWN_SHORTAGES
from stoker.core.units import volume
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.inbox import Inbox, Message
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.files import free_bytes
from stoker.store.directory import Aside, StateDirectory, storage_error
from stoker.store.instance import seen
from stoker.store.writer import Writer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Gauges
from stoker.upkeep import maintenance

LOW = "the disk is low"
MAKE_ROOM = (
    "stoker purge --before 7d --dry-run shows what old jobs take, --yes removes them; "
    "accepted jobs are safe, and submits are taken again by themselves"
)
LOST = "the state directory is gone"
ASIDE_TICKS = 60
MAINTENANCE_TICKS = 3_600  # about every hour; its idempotency key lets it run once a day
SET_MS = 1_000  # the wall clock was set if its difference to steady time changed by more than this
ROOM_AGAIN = 1.1  # a tenth more than the limit, so that one file does not switch acceptance on and off


class Housekeeping:
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
        self._skew = clock.now().skew
        self._noting: asyncio.Task[None] | None = None
        self.free_bytes = 0
        self.gauges = Gauges()  # replaced as a whole, because an exporter's thread reads it
        self.full = False
        self.lost: StateRefused | None = None

    def tick(self) -> None:
        self._ticks += 1
        if self._memory.described:
            self._inbox.post(Flush())
        self._check_directory()
        if self.lost is None:
            self._check_disk()
        self._maintain()
        self.gauges = self._measured()
        if self._ticks % ASIDE_TICKS == 0 and self._noted != self._memory.last_seq and not self._is_noting():
            self._noting = self._background.start("state.json", asyncio.to_thread(self.note))
        self._note_clocks()

    def _measured(self) -> Gauges:
        counts, queues = self._memory.counts, self._memory.queues
        queued, running, held = (
            {name: counts[name, state] for name in queues} for state in (State.QUEUED, State.RUNNING, State.HELD)
        )
        return Gauges(queued, running, held, self.free_bytes)

    def _is_noting(self) -> bool:
        return self._noting is not None and not self._noting.done()

    async def close(self) -> None:
        """Wait for the write of `state.json` that is under way; the daemon then writes the last one."""
        if self._noting is not None:
            await asyncio.wait({self._noting})

    def note(self) -> None:
        """Write `state.json`: the last change that the database must contain from now on. Raises StorageFailed.

        If the host lacks space, memory or a descriptor the old file stays: the database contains more than it demands.
        """
        noted = self._memory.committed_seq
        if not self._directory.in_place:
            return  # the directory was replaced and has another database
        try:
            self._directory.write_aside(Aside(self._instance, self._schema, noted))
        except OSError as error:
            failed = storage_error(self._directory.aside, error)
            if isinstance(failed, DiskFull):
                return
            if error.errno in OWN_SHORTAGES:
                log(LogEvent.STATE_NOT_NOTED, path=self._directory.aside, error=error)
                return
            raise failed from error
        self._noted = noted

    def _note_clocks(self) -> None:
        """If the wall clock was set, commit both clocks: the next boot needs them, and no other commit may follow."""
        skew = self._clock.now().skew
        if abs(skew - self._skew) > SET_MS and not self.full:
            self._skew = skew
            self._inbox.post(ClocksSeen())

    def _maintain(self) -> None:
        """Submit the daily maintenance; not right after the start, where it would delay jobs, or while none starts."""
        if self._ticks % MAINTENANCE_TICKS == 0 and self._dispatcher.closed is None:
            self._inbox.post(maintenance.daily(self._intake, self._clock.now()))

    async def state_is_in_place(self) -> None:
        """Raises StateRefused when the state directory was removed or replaced under this daemon."""
        if self.lost is not None:
            raise self.lost

    def _check_directory(self) -> None:
        """Start no job while the state directory is removed or replaced: its files vanish when the daemon ends."""
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
        """Free bytes now. `status` also calls it, because safe mode has no ticks."""
        with contextlib.suppress(FileNotFoundError):  # the directory was removed: keep the last measurement
            self.free_bytes = free_bytes(self._directory.root)
        return self.free_bytes

    def _check_disk(self) -> None:
        self.measure_disk()
        if not self.full and (self._writer.full or self.free_bytes < self._min_free):
            self._close()
        elif self.full and self.free_bytes > self._min_free * ROOM_AGAIN:
            self._reopen()
        elif self.full:
            self._refuse_jobs()

    def _close(self) -> None:
        self.full = True
        log(LogEvent.DISK_FULL, free_bytes=self.free_bytes, min_free_bytes=self._min_free, hint=MAKE_ROOM)
        self._refuse_jobs()
        self._dispatcher.close(LOW, spared=(QUEUE.name,))
        self._note("disk_low")

    def _note(self, cause: str) -> None:
        self._inbox.post(Noted("disk", cause, {"free_bytes": self.free_bytes, "min_free_bytes": self._min_free}))

    def _refuse_jobs(self) -> None:
        """Refuse new jobs and name the free bytes, unless a drain refuses them already."""
        if self._intake.closed is None or isinstance(self._intake.closed, DiskFull):
            self._intake.closed = DiskFull(f"{self._directory.root}: {self.shortage}", hint=MAKE_ROOM)

    @property
    def shortage(self) -> str:
        """Why no job is accepted on a low disk."""
        return shortage(self.free_bytes, self._min_free)

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
        self._note("disk_ok")
        # If a drain has closed the intake meanwhile, it stays closed.
        if isinstance(self._intake.closed, DiskFull):
            self._intake.closed = None
        self._dispatcher.open(LOW)
        self._inbox.wake()


def shortage(free: int, least: int) -> str:
    """Why no job is accepted. With a quota, or a low `min_free_bytes`, a commit may fail although bytes are free."""
    if free < least:
        return f"{volume(free)} are free, less than the {volume(least)} that are kept free ([disk] min_free_bytes)"
    return f"a commit found no room, though {volume(free)} are free"


# --- messages ---


class Flush(Message):
    """Store the pids and start times that have waited long enough for another commit."""

    def apply_to(self, turn: Turn) -> None:
        turn.flush = True


class ClocksSeen(Message):
    """Store both clocks, from which the next boot goes on."""

    def apply_to(self, turn: Turn) -> None:
        turn.batch.meta.update(seen(turn.now))


class Noted(Message):
    """Something of the host or the daemon is recorded as a change, so that hooks and followers learn of it."""

    def __init__(self, subject: str, cause: str, payload: dict[str, Any]) -> None:
        self._subject = subject
        self._cause = cause
        self._payload = payload

    def apply_to(self, turn: Turn) -> None:
        turn.record("system", self._subject, self._cause, self._payload)


class Broken(Message):
    """A vital part has failed outside of a turn: the loop ends as after a failed commit."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def apply_to(self, turn: Turn) -> None:  # noqa: ARG002 - no turn can go on
        raise self._error
