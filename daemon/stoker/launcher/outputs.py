"""What workers write to their stdout and stderr: one pipe for each run, read into its log.

A pipe that is opened again through /dev/stderr is the same pipe: nothing is truncated and every byte has one place. The
worker holds both of its ends (it is opened O_RDWR), so a launcher that is stopped or dies costs no byte and sends no
SIGPIPE: the worker waits once the pipe is full, and the next launcher goes on reading.

Owns the pipes, who is read when, and what is to be tried again. Invariants: one turn of reading is bounded, and after a
turn that met a full pipe nobody is read for a moment, so that a flood costs a fraction of a processor; the end of a run
is known by reaping, never by the end of its pipe, as the worker is a reader of it too.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import termios
import time
from typing import TYPE_CHECKING

from . import kernel
from .complaints import complain
from .logs import PORTION_BYTES, LogFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .frames import Message

# Shows which pipe is the log's, as systemd's JOURNAL_STREAM does; in the words of /proc/PID/fd.
PIPE_VARIABLE = "STOKER_LOG_PIPE"
RUN_VARIABLE = "STOKER_RUN_ID"
# Whoever a worker becomes (su, a set-user-id program) may open /dev/stderr. Others have no way to it.
PIPE_MODE = 0o666
FULL_PIPE_BYTES = 64 * 1024
TURN_S = 0.005
READY_AT_ONCE = 16
# With pipes of 1 MiB some 400 MB/s are read at a fifth of a processor; without a pause it would be all of one.
REST_S = 0.002
REST_FACTOR = 2
TRY_AGAIN_S = 1.0
# What stands in the way of every log, as all of them are in one file system and read by one process. Any other error
# (EIO, a directory that is gone) concerns the one log that met it.
STOPS_EVERY_LOG = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class Output:
    """The pipe of one run and the log it is read into. `over`: nothing of the run is left to write."""

    __slots__ = ("_grown", "log", "over", "pipe", "run_id")

    def __init__(self, run_id: str, pipe: int, log: LogFile) -> None:
        self.run_id = run_id
        self.pipe = pipe
        self.log = log
        self.over = False
        self._grown = False

    @property
    def name(self) -> str:
        """As /proc/PID/fd calls it."""
        return f"pipe:[{os.fstat(self.pipe).st_ino}]"

    def waiting_bytes(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self.pipe, termios.FIONREAD, count)
        return count[0]

    def read(self) -> int:
        """A portion. OSError when the host cannot take it now; then it stays in the pipe."""
        moved = self.log.splice(self.pipe)
        if moved >= FULL_PIPE_BYTES and not self._grown:
            self._grown = True
            with contextlib.suppress(OSError):  # the user's pages for pipes are used up (pipe(7))
                fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PORTION_BYTES)
        return moved

    def drain(self) -> None:
        """All that is in the pipe by now. What comes meanwhile may be part of it: a flood has no last byte."""
        left = self.waiting_bytes()
        while left > 0 and (moved := self.read()):
            left -= moved

    def close(self) -> None:
        os.close(self.pipe)
        self.log.close()


class Outputs:
    """All of them. `due` is when `resume` is to be called (monotonic seconds), None when nothing waits for a time."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_run: dict[str, Output] = {}
        self._by_pipe: dict[int, Output] = {}
        self._stalled: dict[str, OSError] = {}
        self._try_again_at: float | None = None
        self._rest_until: float | None = None

    def fileno(self) -> int:
        """Readable while one of the pipes is."""
        return self._epoll.fileno()

    @property
    def resting(self) -> bool:
        return self._rest_until is not None

    @property
    def due(self) -> float | None:
        return min((at for at in (self._rest_until, self._try_again_at) if at is not None), default=None)

    @property
    def idle(self) -> bool:
        """Everything that was written is in its log, and nobody writes."""
        return not self._by_run

    def refusal(self) -> OSError | None:
        """Why no log can be written now, if so: what starts now would only fill its pipe."""
        return next((error for error in self._stalled.values() if error.errno in STOPS_EVERY_LOG), None)

    def open(self, run_id: str, log: LogFile) -> tuple[Output, int]:
        """A new pipe, and the descriptor for the worker; OSError when the host has none."""
        pipe, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            os.fchmod(write_end, PIPE_MODE)
            both_ends = os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(write_end)
        return Output(run_id, pipe, log), both_ends

    def watch(self, output: Output) -> None:
        """Read it from now on, or as soon as the kernel has room for one more pipe in the epoll."""
        self._by_run[output.run_id] = self._by_pipe[output.pipe] = output
        self._register(output)

    def read(self) -> None:
        """One turn: a portion of each pipe that has something. epoll names first who has waited longest."""
        ends = time.monotonic() + TURN_S
        flooded = False
        while time.monotonic() < ends and not flooded:
            ready = self._epoll.poll(0, READY_AT_ONCE)
            for pipe, events in ready:
                flooded |= self._serve(self._by_pipe[pipe], events)
            if len(ready) < READY_AT_ONCE:
                break
        if flooded:
            now = time.monotonic()
            self._rest_until = now + max(REST_S, REST_FACTOR * (now - ends + TURN_S))

    def resume(self, now: float) -> None:
        """Go on with what was put off until now."""
        if self._rest_until is not None and now >= self._rest_until:
            self._rest_until = None
        if self._try_again_at is not None and now >= self._try_again_at:
            self._try_again_at = None
            for run_id in tuple(self._stalled):
                self._try_again(self._by_run[run_id])

    def catch_up(self, output: Output) -> None:
        """Its main process has ended: what it wrote before is in the log now, unless the host lacks something."""
        if output.run_id in self._stalled or output.run_id not in self._by_run:
            return
        try:
            output.drain()
        except OSError as error:
            self._stall(output, error)

    def finish(self, output: Output) -> None:
        """Nobody of its run is left."""
        self.catch_up(output)
        output.over = True
        if output.run_id in self._by_run and output.run_id not in self._stalled:
            self._close(output)

    def take_over(self, wanted: dict[str, Message]) -> None:
        """Read on for runs whose launcher died, by run_id, as long as one of their processes has the pipe open."""
        missing = {run_id: order for run_id, order in wanted.items() if run_id not in self._by_run}
        for run_id, pipe in _find_pipes(missing):
            if run_id in self._by_run or (log := _continued(missing[run_id])) is None:
                os.close(pipe)
            else:
                self.watch(Output(run_id, pipe, log))

    # --- inside

    def _serve(self, output: Output, events: int) -> bool:
        """Whether its pipe was full."""
        if not events & select.EPOLLIN:  # nobody has the pipe any more, so nobody can open it again
            self._close(output)
            return False
        try:
            return output.read() >= FULL_PIPE_BYTES
        except OSError as error:
            self._stall(output, error)
            return False

    def _register(self, output: Output) -> bool:
        """False, and it waits for the next try, when epoll_ctl(2) fails: ENOMEM, or ENOSPC at max_user_watches."""
        try:
            self._epoll.register(output.pipe, select.EPOLLIN)
        except OSError as error:
            self._put_off(output, error)
            return False
        return True

    def _stall(self, output: Output, error: OSError) -> None:
        self._epoll.unregister(output.pipe)
        self._put_off(output, error)

    def _put_off(self, output: Output, error: OSError) -> None:
        complain(f"log {output.log.path}: {error.strerror}: its output waits")
        self._stalled[output.run_id] = error
        if self._try_again_at is None:
            self._try_again_at = time.monotonic() + TRY_AGAIN_S

    def _try_again(self, output: Output) -> None:
        del self._stalled[output.run_id]
        if not self._register(output):
            return
        if output.over:
            self.finish(output)
        else:
            self.catch_up(output)

    def _close(self, output: Output) -> None:
        # A worker just spawned may have a copy of the descriptor until its exec is done, so that closing ours would
        # leave the pipe in the epoll, under a number that is another's by then.
        self._epoll.unregister(output.pipe)
        del self._by_run[output.run_id], self._by_pipe[output.pipe]
        output.close()


def _continued(order: Message) -> LogFile | None:
    try:
        return LogFile.continued(order["log"], order["max_log_bytes"])
    except OSError as error:
        complain(f"log {order['log']}: {error.strerror}: nobody reads what its run writes")
        return None


def _find_pipes(wanted: dict[str, Message]) -> Iterator[tuple[str, int]]:
    """The reading end of the log's pipe, once for each process that has it open."""
    for name in os.listdir("/proc") if wanted else ():  # noqa: PTH208
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
                shown = kernel.read_environ(int(name))
                run_id = shown.get(RUN_VARIABLE, "")
                if run_id in wanted and PIPE_VARIABLE in shown:
                    yield from ((run_id, pipe) for pipe in _open_pipe(name, shown[PIPE_VARIABLE]))


def _open_pipe(process: str, pipe: str) -> Iterator[int]:
    for fd in os.listdir(f"/proc/{process}/fd"):  # noqa: PTH208
        if os.readlink(f"/proc/{process}/fd/{fd}") == pipe:  # noqa: PTH115
            found = os.open(f"/proc/{process}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
            try:
                if os.readlink(f"/proc/self/fd/{found}") == pipe:  # noqa: PTH115  (by now it may be any file)
                    yield os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(found)
            return
