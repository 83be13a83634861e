"""The stdout and stderr of workers: one pipe for each run, read into its log.

A worker that opens /dev/stderr gets the same pipe, so nothing is truncated and bytes keep their order. It holds both
ends (opened O_RDWR), so a launcher that is stopped or dies costs no byte and sends no SIGPIPE: the worker waits once
the pipe is full, and the next launcher goes on reading.

Owns the pipes, when each is read, and retries. While a log waits for its follower its pipe is not read, so the worker
waits too. Invariants: a turn of reading is bounded, and after a turn with a full pipe reading pauses for a moment, so
that a flood costs a fraction of a processor; the end of a run is known by reaping, never by the end of its pipe, as the
worker itself is a reader of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import termios
import time

from . import kernel, marks
from .command import HOST_LACKS
from .environments import read_environments
from .error_log import log_error
from .lean_stdlib import suppress
from .logs import PORTION_BYTES, LogFile

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .frames import Message

# Names the pipe of the log, as systemd's JOURNAL_STREAM does; its value is as in /proc/PID/fd.
PIPE_VARIABLE = "STOKER_LOG_PIPE"
RUN_VARIABLE = "STOKER_RUN_ID"
PIPE_NAME = "pipe:["  # how such a value begins; a FIFO, which a worker may name instead, has a path
# A worker that became another user (su, a set-user-id program) may open /dev/stderr; no other process can reach it.
PIPE_MODE = 0o666
INT_BYTES = 4
FULL_PIPE_BYTES = 64 * 1024
TURN_S = 0.005
READY_AT_ONCE = 16
# With pipes of 1 MiB this reads some 400 MB/s at a fifth of a processor; without a pause it would take all of one.
REST_S = 0.002
REST_FACTOR = 2
TRY_AGAIN_S = 1.0
# The kernel does not report that a follower has read on, so its lock is looked at this often while a log waits for it.
# Each look costs an fcntl(2) for each log: with a thousand logs it may take a tenth of the time at most.
FOLLOWER_CHECK_S = 0.01
CHECK_FACTOR = 10
FILES_OF_RUN = 2  # its pipe and its log
# Left free by runs, or half of a small limit: for a walk down a process tree, which pins one process a level, and for
# connections.
SPARE_FILES = 128
# Errors that stop every log, as all are in one file system and written by one process. Any other error (EIO, a missing
# directory) concerns one log only.
STOPS_EVERY_LOG = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class Output:
    """The pipe of one run and its log. `over`: no process of the run is left to write.

    `name`: of a new pipe, as in /proc/PID/fd.
    """

    __slots__ = ("_grown", "log", "name", "over", "pipe", "run_id")

    def __init__(self, run_id: str, pipe: int, log: LogFile, name: str = "") -> None:
        self.run_id = run_id
        self.name = name
        self.pipe = pipe
        self.log = log
        self.over = False
        self._grown = False

    def waiting_bytes(self) -> int:
        count = fcntl.ioctl(self.pipe, termios.FIONREAD, bytes(INT_BYTES))
        return int.from_bytes(count, sys.byteorder)

    def read(self) -> int:
        """Move a portion to the log. After an OSError it is still in the pipe."""
        moved = self.log.splice(self.pipe)
        if moved >= FULL_PIPE_BYTES and not self._grown:
            self._grown = True
            with suppress(OSError):  # the user has no pages for pipes left (pipe(7))
                fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PORTION_BYTES)
        return moved

    def drain(self) -> None:
        """Move the present content of the pipe. Later writes are left for the next call, as a flood has no end."""
        left = self.waiting_bytes()
        while left > 0 and (moved := self.read()):
            left -= moved

    def close(self) -> None:
        os.close(self.pipe)
        self.log.close()


class Outputs:
    """The outputs of all runs. `due` is when to call `resume` (monotonic seconds), or None."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_run: dict[str, Output] = {}
        self._by_pipe: dict[int, Output] = {}
        self._stalled: dict[str, OSError] = {}
        self._held: dict[str, Output] = {}  # their logs await a follower
        self._check_at: float | None = None
        self._unfound: dict[str, Message] = {}
        self._try_again_at: float | None = None
        self._rest_until: float | None = None

    def fileno(self) -> int:
        """The descriptor of the epoll: readable while one of the pipes is."""
        return self._epoll.fileno()

    @property
    def resting(self) -> bool:
        return self._rest_until is not None

    @property
    def due(self) -> float | None:
        times = self._rest_until, self._try_again_at, self._check_at
        return min((at for at in times if at is not None), default=None)

    @property
    def idle(self) -> bool:
        """Whether all output is in its log, and no process is left to write."""
        return not self._by_run

    def refusal(self) -> OSError | None:
        """The error that stops all logs now, if there is one: a new run would only fill its pipe."""
        if self._is_full():
            return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        stalled = self._stalled.values()
        return next((error for error in stalled if error.errno in STOPS_EVERY_LOG), None) if stalled else None

    def open(self, run_id: str, log: LogFile) -> tuple[Output, int]:
        """A new pipe, and the descriptor for the worker. Raises OSError."""
        pipe, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            os.fchmod(write_end, PIPE_MODE)
            name = f"{PIPE_NAME}{os.fstat(pipe).st_ino}]"  # before the last open: an error leaves none of them
            both_ends = os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(write_end)
        return Output(run_id, pipe, log, name), both_ends

    def watch(self, output: Output) -> None:
        """Read an output from now on, or as soon as the epoll accepts one more pipe."""
        self._by_run[output.run_id] = self._by_pipe[output.pipe] = output
        self._register(output)

    def read(self) -> None:
        """One turn: a portion of each pipe that is readable. epoll gives those first that have waited longest."""
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
        """Continue to read, retry logs that failed, and look whether followers have read further, as far as due."""
        if self._rest_until is not None and now >= self._rest_until:
            self._rest_until = None
        if self._try_again_at is not None and now >= self._try_again_at:
            self._try_again_at = None
            for run_id in tuple(self._stalled):
                self._try_again(self._by_run[run_id])
            self.take_over(self._unfound)
        if self._check_at is not None and now >= self._check_at:
            self._check_held(now)

    def catch_up(self, output: Output) -> None:
        """Move the output of a run whose main process has ended, unless the log cannot be written now.

        Followers are not awaited for that, so the log may exceed its bound by what is in the pipe.
        """
        self._release(output)
        if output.run_id in self._stalled or output.run_id not in self._by_run:
            return
        try:
            output.drain()
        except OSError as error:
            self._stall(output, error)

    def finish(self, output: Output) -> None:
        """Note that no process of the run is left."""
        self.catch_up(output)
        output.over = True
        if output.run_id in self._by_run and output.run_id not in self._stalled:
            self._close(output)

    def take_over(self, wanted: dict[str, Message]) -> None:
        """Read the output of runs whose launcher died, by run_id, if one of their processes has the pipe open.

        If the host lacks what that takes it is tried again: the workers would wait for ever once their pipes are full.
        """
        missing = {run_id: order for run_id, order in wanted.items() if run_id not in self._by_run}
        self._unfound = {}
        try:
            self._take_over(missing)
        except OSError as error:
            log_error(f"the output of {len(missing)} runs of a launcher that died is not read: {error}")
            self._unfound = missing
            self._try_again_later()

    # --- inside

    def _take_over(self, missing: dict[str, Message]) -> None:
        for run_id, pipe in _find_pipes(missing):
            try:
                log = None if run_id in self._by_run else self._continued(missing[run_id])
            except BaseException:
                os.close(pipe)
                raise
            if log is None:
                os.close(pipe)
            else:
                self.watch(Output(run_id, pipe, log))

    def _continued(self, order: Message) -> LogFile | None:
        """The output with its log; None if the log cannot be written, or another launcher writes it.

        Raises OSError if the host lacks what that takes.
        """
        if self._is_full():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            return LogFile.continued(order["log"], order["max_log_bytes"])
        except OSError as error:
            if error.errno in HOST_LACKS:
                raise
            log_error(f"log {order['log']}: {error.strerror}: the output of its run is not read")
            return None

    def _is_full(self) -> bool:
        most = kernel.open_files_limit()
        return FILES_OF_RUN * (len(self._by_run) + 1) > most - min(SPARE_FILES, most // 2)

    def _serve(self, output: Output, events: int) -> bool:
        """Read a pipe. Returns whether it was full."""
        if not events & select.EPOLLIN:  # no process has the pipe open, so none can open it again
            self._close(output)
            return False
        try:
            moved = output.read()
        except OSError as error:
            self._stall(output, error)
            return False
        if output.log.awaits_follower:
            self._hold(output)
        return moved >= FULL_PIPE_BYTES

    def _hold(self, output: Output) -> None:
        self._epoll.unregister(output.pipe)
        self._held[output.run_id] = output
        if self._check_at is None:
            self._check_at = time.monotonic() + FOLLOWER_CHECK_S

    def _check_held(self, now: float) -> None:
        for output in tuple(self._held.values()):
            output.log.bound(now)
            if not output.log.awaits_follower:
                self._release(output)
        took_s = time.monotonic() - now
        self._check_at = now + max(FOLLOWER_CHECK_S, CHECK_FACTOR * took_s) if self._held else None

    def _release(self, output: Output) -> None:
        if self._held.pop(output.run_id, None) is not None:
            self._register(output)

    def _register(self, output: Output) -> bool:
        """If epoll_ctl(2) fails (ENOMEM, or ENOSPC at max_user_watches) gives False, and it is tried again later."""
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
        log_error(f"log {output.log.path}: {error.strerror}: its output waits")
        self._stalled[output.run_id] = error
        self._try_again_later()

    def _try_again_later(self) -> None:
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
        # A new worker has a copy of the descriptor until its exec, so closing ours would leave the pipe in the epoll,
        # under a number that may soon be that of another pipe.
        self._epoll.unregister(output.pipe)
        del self._by_run[output.run_id], self._by_pipe[output.pipe]
        output.close()


def _find_pipes(wanted: dict[str, Message]) -> Iterator[tuple[str, int]]:
    """The reading ends of the pipes of these runs, once for each process that has one open.

    The environments are read only where no marks can be set, as a read may hang for a while.
    """
    processes = [name for name in os.listdir("/proc") if name.isdecimal()] if wanted else []
    find = _by_mark if marks.can_be_set() else _by_environment
    yield from find(processes, wanted)


def _by_mark(processes: list[str], wanted: dict[str, Message]) -> Iterator[tuple[str, int]]:
    run_ids = {marks.mark_of(run_id): run_id for run_id in wanted}
    for process in processes:
        run_id = run_ids.get(marks.read_mark(int(process)))
        if run_id is not None:
            yield from ((run_id, pipe) for pipe in _open_pipe(process))


def _by_environment(processes: list[str], wanted: dict[str, Message]) -> Iterator[tuple[str, int]]:
    for pid, variables in read_environments([int(process) for process in processes]):
        shown = {name: value for name, _, value in (os.fsdecode(one).partition("=") for one in variables)}
        run_id, pipe = shown.get(RUN_VARIABLE, ""), shown.get(PIPE_VARIABLE)
        if run_id in wanted and pipe and pipe.startswith(PIPE_NAME):
            yield from ((run_id, end) for end in _open_pipe(str(pid), pipe))


def _is_log_pipe(process: str, fd: str) -> bool:
    """Whether it is the pipe of a log: only these are open for reading and writing."""
    if not _name(process, fd).startswith(PIPE_NAME):
        return False
    lines = kernel.read_file(f"/proc/{process}/fdinfo/{fd}").split(b"\n")
    flags = next((line.split()[1] for line in lines if line.startswith(b"flags:")), b"0")
    return int(flags, 8) & os.O_ACCMODE == os.O_RDWR


def _name(process: str, fd: str) -> str:
    return os.readlink(f"/proc/{process}/fd/{fd}")


def _open_pipe(process: str, wanted: str | None = None) -> Iterator[int]:
    """A reading end of the pipe of that name, or of a log, if that process has it open. Raises OSError for a lack."""
    for fd in _descriptors(process):
        with suppress(*kernel.GONE_OR_HIDDEN):  # it was closed meanwhile
            pipe = _name(process, fd)
            if _is_log_pipe(process, fd) if wanted is None else pipe == wanted:
                opened = os.open(f"/proc/{process}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
                try:
                    if _name("self", str(opened)) == pipe:  # the process may have opened another file since
                        yield os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                finally:
                    os.close(opened)
                return


def _descriptors(process: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{process}/fd")
    except kernel.GONE_OR_HIDDEN:
        return []
