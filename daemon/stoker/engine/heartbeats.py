"""Receives what workers report about themselves in the format of sd_notify(3), on one socket for each attempt.

Owns the sockets and the newest report of each worker (`LiveState.worker_status`). It stops nothing: a silence that is
too long, or `WATCHDOG=trigger`, becomes an alarm for the loop. Invariants: a socket is read before its silence is
judged; a run whose socket could not be bound is not called silent; the silence counts anew after a time in which the
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
from stoker.core.job.model import Attempt, Job
from stoker.core.job.notice import Notice, judge_silence, read_notice
from stoker.core.job.run_id import RunId
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, WorkerStatus
from stoker.engine.timers import Alarm, Alarms, Limit, Timers, Unresponsive
from stoker.executors.launcher_pool import LauncherPool
from stoker.foreign import reached
from stoker.process.notices import Datagram, listen, may_notify, receive
from stoker.process.work_files import WorkFiles
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

BURST = 16
PAUSE_S = 0.1
AGAIN_S = 1.0  # pause after an error of the host


class NotifySocket(Struct):
    """The socket of one run. `heard_at`: its last heartbeat, or the time from which its silence counts (steady)."""

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
        self._sockets: dict[str, NotifySocket] = {}

    # --- the sockets ---

    def open(self, run_id: str) -> None:
        """Bind the socket of a run, for a new worker or after a start. If that fails, it runs without heartbeats."""
        try:
            sock = listen(self._work_files.notice_address(run_id))
        except OSError as error:
            log(LogEvent.WORKER_UNHEARD, run_id=run_id, error=error)
            return
        notify = self._sockets[run_id] = NotifySocket(run_id, sock, self._clock.now().steady)
        self._memory.worker_status[run_id] = WorkerStatus()
        self._listen_to(notify)

    def began(self, job: Job, attempt: Attempt, started: int) -> None:
        """Its worker runs since `started` (steady), perhaps under an earlier daemon."""
        if not job.spec.has_notify_socket:
            return
        notify = self._sockets.get(attempt.run_id)
        if notify is None:
            self.open(attempt.run_id)
        else:
            notify.heard_at = max(notify.heard_at, started)

    def close(self, run_ids: Iterable[str]) -> None:
        """Remove the sockets of runs that are settled."""
        for run_id in run_ids if self._sockets else ():
            notify = self._sockets.pop(run_id, None)
            if notify is not None:
                self._shut(notify)
                self._memory.worker_status.pop(run_id, None)
                with contextlib.suppress(OSError), reached(self._work_files.notice_address(run_id)) as name:
                    os.unlink(name)  # noqa: PTH108 - as in `process.work_files`

    def stop(self) -> None:
        """Close the sockets; their names stay for the next daemon to bind again."""
        for notify in self._sockets.values():
            self._shut(notify)
        self._sockets.clear()

    def _shut(self, notify: NotifySocket) -> None:
        asyncio.get_running_loop().remove_reader(notify.socket.fileno())
        notify.socket.close()

    # --- reports ---

    def _listen_to(self, notify: NotifySocket) -> None:
        """Watch a socket. If the kernel refuses, it is tried again later; until then `judge` reads the socket."""
        if self._sockets.get(notify.run_id) is not notify:
            return
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(notify.socket.fileno(), self._receive, notify)
        except OSError as error:
            log(LogEvent.WORKER_UNHEARD, run_id=notify.run_id, error=error)
            loop.call_later(AGAIN_S, self._listen_to, notify)

    def _receive(self, notify: NotifySocket) -> None:
        """Read the waiting messages, up to a burst; the rest stays in the kernel's queue."""
        for _ in range(BURST):
            datagram = receive(notify.socket)
            if datagram is None:
                return
            self._read(notify, datagram)
        loop = asyncio.get_running_loop()
        loop.remove_reader(notify.socket.fileno())
        loop.call_later(PAUSE_S, self._listen_to, notify)

    def _read(self, notify: NotifySocket, datagram: Datagram) -> None:
        run = self._memory.by_run(notify.run_id)
        status = self._memory.worker_status[notify.run_id]
        identity = None if run is None else run.attempt.identity
        reaper = None if run is None else self._launchers.pid_of(run.attempt.launcher)
        notice = read_notice(datagram.data)
        if notice is None or not may_notify(
            datagram, None if identity is None else identity.pid, reaper, RunId.parse(notify.run_id).uid
        ):
            status.ignored += 1
        else:
            self._apply(notify, status, notice)

    def _apply(self, notify: NotifySocket, status: WorkerStatus, notice: Notice) -> None:
        now = self._clock.now()
        if notice.alive:
            notify.heard_at, status.last_heartbeat, status.unresponsive = now.steady, now.wall, False
        status.ready = status.ready or notice.ready
        status.status = status.status if notice.status is None else notice.status
        status.progress = status.progress if notice.progress is None else notice.progress
        if notice.trigger:
            hung = Alarm(now.steady, RunId.parse(notify.run_id).job_id, notify.run_id, Limit.UNRESPONSIVE)
            self._inbox.post(Alarms([hung]))

    # --- silence ---

    def judge(self, alarm: Alarm, now: Now) -> Alarm | None:
        """Judge a due heartbeat: the alarm that stops a silent worker, or None after setting the next check."""
        notify, run = self._sockets.get(alarm.run_id), self._memory.by_run(alarm.run_id)
        if notify is None or run is None or run.attempt.stop_reason is not None:
            return None
        try:
            self._receive(notify)
        except OSError:  # what it has sent cannot be read now
            self._timers.set_later(alarm, now.steady + round(AGAIN_S * 1_000))
            return None
        if alarm.run_id in self._memory.frozen:  # it cannot send a heartbeat
            notify.heard_at = now.steady
        silence = judge_silence(run.job.spec, now.steady - notify.heard_at)
        status = self._memory.worker_status[alarm.run_id]
        if silence.warn and not status.unresponsive:
            status.unresponsive = True
            log(
                LogEvent.WORKER_UNRESPONSIVE,
                **run.log_fields,
                silent_ms=now.steady - notify.heard_at,
                stopping=silence.stop,
            )
            self._inbox.post(Unresponsive(alarm.run_id, now.steady - notify.heard_at))
        if silence.stop:
            return Alarm(now.steady, alarm.job_id, alarm.run_id, Limit.UNRESPONSIVE)
        assert silence.check_in_ms is not None, "a silence that stops nothing is checked again"
        self._timers.set_later(alarm, now.steady + silence.check_in_ms)
        return None

    def restart_silence(self, run_ids: Iterable[str] | None = None) -> None:
        """Count the silence of these workers, or of all, from now: they could not send, or we could not read."""
        now = self._clock.now().steady
        for run_id in list(self._sockets) if run_ids is None else run_ids:
            notify = self._sockets.get(run_id)
            if notify is not None:
                notify.heard_at = now

    def silent_ms(self, run_id: str) -> int | None:
        """How long an unresponsive worker has been silent; None for any other worker."""
        notify, status = self._sockets.get(run_id), self._memory.worker_status.get(run_id)
        if notify is None or status is None or not status.unresponsive:
            return None
        return self._clock.now().steady - notify.heard_at
