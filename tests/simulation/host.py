"""A simulated Linux host: clocks, boots, processes whose pids are reused, and the answers of the kernel about them.

Owns the truth about every process, and two laws: no foreign process is ever signalled, and no worker is stopped before
the stop is on disk. The world decides when something happens. Each method that product code calls (`open_pidfd`,
`read_stat`, `wait4`, ...) answers as the kernel would.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import SimpleNamespace

from stoker.core.host_state import Battery, InputState
from stoker.launcher import kernel
from stoker.process.identity import ProcessStat

TICK_MS = 10
FIRST_FD = 1_000_000  # far above real descriptors, so that the kernel refuses a simulated one that reaches it
STRANGE = b"PATH=/bin\0"
EPOCH_MS = 1_700_000_000_000


class Process:
    """One process, with the truth about it, visible to the daemon or not."""

    def __init__(self, pid: int, ticks: int, inode: int, parent: int, session: int) -> None:
        self.pid = pid
        self.start_ticks = ticks
        self.inode = inode
        self.parent = parent
        self.session = session or pid
        self.stayed = True  # in the session that its run's main process began
        self.environ = b""
        self.mark = 0  # in its limits
        self.secret = False  # of another user: its environment cannot be read
        self.rooted = False  # became root under a Stoker that is not: it cannot be signalled either
        self.nameless = False  # shows nothing of its run: only its parent, while that lives, shows its owner
        self.signalled = False
        self.run_id: str | None = None
        self.launcher = ""
        self.main = False
        self.unborn = False  # between fork and exec
        self.stubborn = False  # ignores SIGTERM
        self.sleeping = False  # uninterruptibly: not even SIGKILL ends it now
        self.doom: int | None = None  # the signal that will end it
        self.ended: tuple[int | None, int | None] | None = None


class SimulatedLogind:
    """Replaces `host.logind.Logind`. The state of a terminal is reported only on request."""

    def __init__(self, host: Host, heard: Callable[[InputState], None]) -> None:
        self._host = host
        self._heard = heard
        self._left: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        return self._left is not None

    async def follow(self) -> str:
        self._left = asyncio.get_running_loop().create_future()
        self._host.followers = [self]  # the only daemon that lives
        self.tell()
        await self._left
        self._left = None
        return "the connection to D-Bus ended"

    async def ask(self) -> None:
        self.tell()

    def tell(self) -> None:
        self._heard(InputState(self._host.unused))

    def leave(self) -> None:
        """logind ends."""
        if self._left is not None and not self._left.done():
            self._left.set_result(None)


class Host:
    """The machine. It calls `broken` for every law that was broken."""

    def __init__(self, broken: Callable[[str], None], *, pidfs: bool) -> None:
        self.broken = broken
        self.pidfs = pidfs
        self.may_stop: Callable[[str], bool] = lambda _run_id: True
        self.creep: Callable[[], int] = lambda: 0  # milliseconds that pass before a clock is read
        self.boots = 0
        self.read_at: dict[
            int, int
        ] = {}  # since this boot, by what the wall clock said: the time since boot, when it said so last
        self.wall = EPOCH_MS
        self.ends: dict[str, tuple[int | None, int | None]] = {}  # how each main process really ended
        self.battery = Battery(plugged=True)
        self.cpu = 0.0  # percent
        self.unused = True  # whether the sessions are unused
        self.followers: list[SimulatedLogind] = []
        self.waiting: int = 0  # pid of the launcher that runs now
        self.reuses = 0
        self._inodes = 0
        self._fds = FIRST_FD
        self.boot()

    # --- clocks and boots

    def boot(self) -> None:
        """Reboot: all processes are gone. The disk is simulated elsewhere."""
        self.boots += 1
        self.read_at.clear()
        self.boot_ms = 5_000
        self.processes: dict[int, Process] = {}
        self.freed: list[int] = []
        self.pidfds: dict[int, Process] = {}
        self.readers: dict[int, Callable[[], None]] = {}
        self.readable: set[int] = set()  # descriptors that are no pidfds, and have something to read
        self._pids = 100

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def wall_ms(self) -> int:
        """The wall clock, as the daemon reads it: no two reads need give the same time."""
        self.pass_time(self.creep())
        self.read_at[self.wall] = self.boot_ms
        return self.wall

    def read_boot_ms(self) -> int:
        """The time since boot, as the daemon reads it."""
        self.pass_time(self.creep())
        return self.boot_ms

    def pass_time(self, ms: int) -> None:
        self.boot_ms += ms
        self.wall += ms

    # --- processes

    def is_free(self, pid: int) -> bool:
        """Whether a new process may get this pid: the kernel gives none that is still the id of a session."""
        return all(one.session != pid for one in self.processes.values())

    def is_orphan(self, process: Process) -> bool:
        """Whether its launcher is dead, so that the daemon watches the process itself."""
        while process.parent in self.processes:
            process = self.processes[process.parent]
        return process.run_id is not None and process.ended is None

    def forget_pins(self) -> None:
        """The daemon has died, and its pidfds of processes without a sign are closed."""
        for one in self.processes.values():
            one.signalled = False

    def is_alone(self, process: Process) -> bool:
        """Whether it is the only process of its session, whose id is free once it has ended."""
        return all(one is process or one.session != process.pid for one in self.processes.values())

    def replace(self, dead: Process) -> Process:
        """Start a foreign process with the pid of a process that died within the same tick."""
        self.freed.remove(dead.pid)
        stranger = self.processes[dead.pid] = Process(dead.pid, dead.start_ticks, self._next_inode(), 1, 0)
        stranger.environ = STRANGE
        return stranger

    def end_strangers(self) -> None:
        for one in list(self.processes.values()):
            if one.environ.startswith(STRANGE):
                self.die(one, 0, None)

    def spawn(self, parent: int, session: int = 0, *, again: bool = False) -> Process:
        """Start a process; `again`: with a pid that another process had before."""
        free = [pid for pid in self.freed if self.is_free(pid)] if again else []
        pid = free[-1] if free else self._next_pid()
        if free:
            self.freed.remove(pid)
            self.reuses += 1
        process = Process(pid, self.boot_ms // TICK_MS, self._next_inode(), parent, session)
        self.processes[pid] = process
        return process

    def _next_inode(self) -> int:
        self._inodes += 1
        return self._inodes

    def _next_pid(self) -> int:
        self._pids += 1
        while self._pids in self.processes or self._pids in self.freed:
            self._pids += 1
        return self._pids

    def alive(self, process: Process) -> bool:
        return process.ended is None and self.processes.get(process.pid) is process

    def living(self) -> list[Process]:
        """All processes of runs that live, or may still begin."""
        return [one for one in self.processes.values() if one.run_id and one.ended is None]

    def workers(self) -> list[Process]:
        """As `living`, without processes that show no sign and that the daemon never met."""
        return [one for one in self.living() if one.signalled or not one.nameless]

    def working(self) -> list[Process]:
        """As `workers`, but without those that will die before their exec."""
        return [one for one in self.workers() if not (one.unborn and one.doom == signal.SIGKILL)]

    def die(self, process: Process, code: int | None, signum: int | None) -> None:
        """Its children go to the subreaper, and it stays a zombie until its parent reaps it."""
        process.ended = (code, signum)
        process.environ = b""
        if process.main and process.run_id:
            self.ends[process.run_id] = process.ended
        for other in list(self.processes.values()):
            if other.parent == process.pid:
                self._reparent(other, process.parent)
        for fd, pinned in list(self.pidfds.items()):
            if pinned is process and fd in self.readers:
                self.readers[fd]()
        parent = self.processes.get(process.parent)
        if parent is None or parent.ended is not None:
            self._free(process)

    def _reparent(self, orphan: Process, grandparent: int) -> None:
        above = self.processes.get(grandparent)
        orphan.parent = grandparent if above is not None and above.ended is None else 1
        if orphan.parent == 1 and orphan.ended is not None:
            self._free(orphan)

    def _free(self, process: Process) -> None:
        if self.processes.get(process.pid) is process:
            del self.processes[process.pid]
            self.freed.append(process.pid)

    def send(self, process: Process, signum: int) -> None:
        """Deliver a signal."""
        if process.ended is not None or signum == 0:
            return
        if process.run_id is None:
            self.broken(f"signal {signum} went to a stranger, pid {process.pid}")
        elif process.main and not process.unborn and not self.may_stop(process.run_id):
            self.broken(f"{process.run_id} got signal {signum} and the intent is not on disk")
        process.signalled = True
        if signum == signal.SIGKILL or (signum == signal.SIGTERM and not process.stubborn):
            process.doom = signum if process.doom != signal.SIGKILL else process.doom

    # --- what a launcher asks the kernel

    def kill(self, pid: int, signum: int) -> None:
        self._permit(self.processes[pid])
        self.send(self.processes[pid], signum)

    def killpg(self, group: int, signum: int) -> None:
        """Signal a process group, except processes that may not be signalled, unless there are no others."""
        members = [one for one in self.processes.values() if one.session == group]
        for one in [one for one in members if not one.rooted] or members:
            self._permit(one)
            self.send(one, signum)

    def _permit(self, process: Process) -> None:
        if process.rooted:
            raise PermissionError(errno.EPERM, "not yours")

    def waitpid(self, pid: int, _options: int) -> tuple[int, int]:
        if self.processes[pid].ended is None:
            return 0, 0
        self._free(self.processes[pid])
        return pid, 0

    def children(self, _fd: int, size: int, offset: int) -> bytes:
        """The children of the launcher that runs now, as in its file in /proc."""
        return self._children_of(self.waiting)[offset : offset + size]

    def _children_of(self, parent: int) -> bytes:
        return b"".join(b"%d " % pid for pid, one in self.processes.items() if one.parent == parent)

    def read_proc(self, pid: int, _name: str) -> bytes:
        """The children of a process, as in its file in /proc."""
        if pid not in self.processes:
            raise ProcessLookupError(errno.ESRCH, str(pid))
        return self._children_of(pid)

    def read_environments(self, pids: Iterable[int]) -> Iterator[tuple[int, list[bytes]]]:
        for pid in pids:
            with suppress(PermissionError):
                yield pid, self.read_environ(pid).split(b"\0")

    def read_launcher_stat(self, pid: int) -> kernel.Stat:
        process = self.processes.get(pid)
        if process is None:
            raise ProcessLookupError(errno.ESRCH, str(pid))
        state = b"S" if process.ended is None else b"Z"
        return kernel.Stat(state, process.parent, process.session, process.session, 1, process.start_ticks)

    def is_over(self, pid: int) -> bool:
        return pid not in self.processes or self.processes[pid].ended is not None

    def pidfd_open(self, pid: int) -> int:
        fd = self.open_pidfd(pid)
        if fd is None:
            raise ProcessLookupError(errno.ESRCH, str(pid))
        return fd

    def wait4(self, _pid: int, _options: int) -> tuple[int, int, object]:
        mine = [process for process in self.processes.values() if process.parent == self.waiting]
        if not mine:
            raise ChildProcessError(errno.ECHILD, "no child")
        for process in mine:
            if process.ended is not None:
                self._free(process)
                code, signum = process.ended
                usage = SimpleNamespace(ru_utime=0.0, ru_stime=0.0, ru_maxrss=0)
                return process.pid, (code << 8 if code is not None else signum or 0), usage
        return 0, 0, None

    # --- what a daemon asks it

    def open_pidfd(self, pid: int) -> int | None:
        process = self.processes.get(pid)
        if process is None:
            return None
        self._fds += 1
        self.pidfds[self._fds] = process
        return self._fds

    def close(self, fd: int) -> None:
        del self.pidfds[fd]

    def dup(self, fd: int) -> int:
        self._fds += 1
        self.pidfds[self._fds] = self.pidfds[fd]
        return self._fds

    def fstat(self, fd: int) -> SimpleNamespace:
        return SimpleNamespace(st_ino=self.pidfds[fd].inode)

    def is_readable(self, fd: int) -> bool:
        return fd in self.readable or (fd in self.pidfds and self.has_ended(fd))

    def has_ended(self, fd: int) -> bool:
        return self.pidfds[fd].ended is not None

    def pidfd_send_signal(self, fd: int, signum: int) -> None:
        if self.pidfds[fd].ended is not None:
            raise ProcessLookupError(errno.ESRCH, "gone")
        self._permit(self.pidfds[fd])
        self.send(self.pidfds[fd], signum)

    def read_stat(self, pid: int) -> ProcessStat | None:
        process = self.processes.get(pid)
        if process is None:
            return None
        state = "S" if process.ended is None else "Z"
        return ProcessStat(state, process.parent, process.session, 1, process.start_ticks)

    def read_environ(self, pid: int) -> bytes:
        process = self.processes.get(pid)
        if process is not None and process.secret:
            raise PermissionError(errno.EACCES, "not yours")
        return b"" if process is None else process.environ

    def read_mark(self, pid: int) -> int:
        process = self.processes.get(pid)
        return 0 if process is None or process.ended is not None else process.mark

    def pids(self) -> list[int]:
        return list(self.processes)
