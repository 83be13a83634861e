"""Receives what workers report of themselves (`sd_notify`): one socket for each attempt that asked for one.

Owns the sockets and the last report of each worker (`LiveState.said`). Refuses to stop anything: a silence that lasts
too long, or `WATCHDOG=trigger`, becomes an alarm for the loop. Invariants: a socket is read before its silence is
judged; a run whose socket could not be bound is not silent; the silence is counted anew after a time in which the
daemon did not run or the worker was frozen; a flood of datagrams costs a bounded share of the CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable

from msgspec import Struct

from stoker.core.clock import Clock, Now
from stoker.core.job.model import Attempt, Job, RunId
from stoker.core.job.notice import Notice, judge_silence, read_notice
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, Said
from stoker.engine.messages import Alarms
from stoker.engine.timers import Alarm, Limit, Timers
from stoker.executors.launcher_pool import LauncherPool
from stoker.process.notices import Datagram, listen, may_speak, receive
from stoker.process.work_files import WorkFiles
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

BURST = 16
PAUSE_S = 0.1


class Ear(Struct):
    """The socket of one run. `heard_at`: the time of its last heartbeat, or the time from which one is due (steady)."""

    run_id: str
    socket: socket.socket
    heard_at: int


class Heartbeats:
    """The sockets of all open attempts, and how long each of their workers has been silent."""

    def __init__(
        self,
        memory: LiveState,
        work_files: WorkFiles,
        timers: Timers,
        clock: Clock,
        inbox: Inbox,
        launchers: LauncherPool,
    ) -> None:
        self._memory = memory
        self._work_files = work_files
        self._timers = timers
        self._clock = clock
        self._inbox = inbox
        self._launchers = launchers
        self._ears: dict[str, Ear] = {}
        self._frozen: set[str] = set()

    # --- the sockets ---

    def open(self, run_id: str) -> None:
        """Bind the socket of a run, for a new worker or after a start of the daemon. If that fails it runs without."""
        try:
            sock = listen(self._work_files.notice_address(run_id))
        except OSError as error:
            log(LogEvent.WORKER_UNHEARD, run_id=run_id, error=error)
            return
        ear = self._ears[run_id] = Ear(run_id, sock, self._clock.now().steady)
        self._memory.said[run_id] = Said()
        self._listen(ear)

    def began(self, job: Job, attempt: Attempt, started: int) -> None:
        """Its worker runs since `started` (steady), perhaps under an earlier daemon."""
        if not job.spec.speaks:
            return
        ear = self._ears.get(attempt.run_id)
        if ear is None:
            self.open(attempt.run_id)
        else:
            ear.heard_at = max(ear.heard_at, started)

    def close(self, run_ids: Iterable[str]) -> None:
        """Remove the sockets of runs that are settled."""
        for run_id in run_ids if self._ears else ():
            ear = self._ears.pop(run_id, None)
            self._frozen.discard(run_id)
            if ear is not None:
                self._shut(ear)
                self._memory.said.pop(run_id, None)
                with contextlib.suppress(OSError):
                    os.unlink(self._work_files.notice_address(run_id))  # noqa: PTH108 - as in `process.work_files`

    def stop(self) -> None:
        """Close the sockets; their names stay for the next daemon to bind again."""
        for ear in self._ears.values():
            self._shut(ear)
        self._ears.clear()

    def _shut(self, ear: Ear) -> None:
        asyncio.get_running_loop().remove_reader(ear.socket.fileno())
        ear.socket.close()

    # --- hearing ---

    def _listen(self, ear: Ear) -> None:
        if self._ears.get(ear.run_id) is ear:
            asyncio.get_running_loop().add_reader(ear.socket.fileno(), self._hear, ear)

    def _hear(self, ear: Ear) -> None:
        """Read the waiting messages, up to a burst; the rest stays in the kernel's queue."""
        for _ in range(BURST):
            datagram = receive(ear.socket)
            if datagram is None:
                return
            self._take(ear, datagram)
        loop = asyncio.get_running_loop()
        loop.remove_reader(ear.socket.fileno())
        loop.call_later(PAUSE_S, self._listen, ear)

    def _take(self, ear: Ear, datagram: Datagram) -> None:
        run = self._memory.by_run(ear.run_id)
        said = self._memory.said[ear.run_id]
        identity = None if run is None else run.attempt.identity
        reaper = None if run is None else self._launchers.pid_of(run.attempt.launcher)
        notice = read_notice(datagram.data)
        if notice is None or not may_speak(datagram, None if identity is None else identity.pid, reaper):
            said.ignored += 1
        else:
            self._note(ear, said, notice)

    def _note(self, ear: Ear, said: Said, notice: Notice) -> None:
        now = self._clock.now()
        if notice.alive:
            ear.heard_at, said.last_heartbeat, said.unresponsive = now.steady, now.wall, False
        said.ready = said.ready or notice.ready
        said.status = said.status if notice.status is None else notice.status
        said.progress = said.progress if notice.progress is None else notice.progress
        if notice.trigger:
            hung = Alarm(now.steady, RunId.parse(ear.run_id).job_id, ear.run_id, Limit.UNRESPONSIVE)
            self._inbox.post(Alarms([hung]))

    # --- silence ---

    def judge(self, alarm: Alarm, now: Now) -> Alarm | None:
        """A heartbeat is due. Returns the alarm for its absence, or None after setting the next check."""
        ear, run = self._ears.get(alarm.run_id), self._memory.by_run(alarm.run_id)
        if ear is None or run is None or run.attempt.stop_reason is not None:
            return None
        self._hear(ear)
        if alarm.run_id in self._frozen:
            ear.heard_at = now.steady
        silence = judge_silence(run.job.spec, now.steady - ear.heard_at)
        said = self._memory.said[alarm.run_id]
        if silence.warn and not said.unresponsive:
            said.unresponsive = True
            log(
                LogEvent.WORKER_UNRESPONSIVE, job=run.job.id, attempt=run.attempt.ordinal, queue=run.job.spec.queue,
                trace_id=run.job.trace_id, silent_ms=now.steady - ear.heard_at, stopping=silence.stop,
            )  # fmt: skip
        if silence.stop:
            return Alarm(now.steady, alarm.job_id, alarm.run_id, Limit.UNRESPONSIVE)
        assert silence.look_in_ms is not None, "a silence that stops nothing is looked at again"
        self._timers.look_again(alarm, now.steady + silence.look_in_ms)
        return None

    def begin_anew(self, run_ids: Iterable[str] | None = None) -> None:
        """Count the silence of these workers, or of all, from now: they could not send, or we could not read."""
        now = self._clock.now().steady
        for run_id in list(self._ears) if run_ids is None else run_ids:
            ear = self._ears.get(run_id)
            if ear is not None:
                ear.heard_at = now

    def excuse(self, run_ids: Iterable[str], *, frozen: bool) -> None:
        """We froze or thawed these workers. A frozen worker cannot send a heartbeat."""
        for run_id in run_ids:
            (self._frozen.add if frozen else self._frozen.discard)(run_id)
        self.begin_anew(run_ids)

    def silent_ms(self, run_id: str) -> int | None:
        """How long a worker has been silent for which a warning was logged."""
        ear, said = self._ears.get(run_id), self._memory.said.get(run_id)
        if ear is None or said is None or not said.unresponsive:
            return None
        return self._clock.now().steady - ear.heard_at
