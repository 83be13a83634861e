"""A simulated Linux host: clocks, boots, processes whose pids are reused, and the answers of the kernel about them.

Owns the truth about every process, and two laws: no foreign process is ever signalled, and no worker is stopped before
the stop is on disk. The world decides when something happens. Each method that product code calls (`open_pidfd`,
`read_stat`, `wait4`, ...) answers as the kernel would.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from types import SimpleNamespace

from stoker.launcher import kernel
from stoker.process.identity import ProcessStat

TICK_MS = 10
FIRST_FD = 1_000_000  # far from any real descriptor: a simulated one that reaches the kernel is an error there
STRANGE = b"PATH=/bin\0"
EPOCH_MS = 1_700_000_000_000


class Process:
    """One process and what is true of it, whoever can see that."""

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
        self.nameless = False  # shows nothing of its run: only its parent, while that lives, tells whose it is
        self.signalled = False
        self.run_id: str | None = None
        self.launcher = ""
        self.main = False
        self.unborn = False  # between fork and exec
        self.stubborn = False  # ignores SIGTERM
        self.sleeping = False  # uninterruptibly: not even SIGKILL ends it now
        self.doom: int | None = None  # the signal it is going to die of
        self.ended: tuple[int | None, int | None] | None = None


class Host:
    """The machine. `broken` is told of every law that was broken."""

    def __init__(self, broken: Callable[[str], None], *, pidfs: bool) -> None:
        self.broken = broken
        self.pidfs = pidfs
        self.may_stop: Callable[[str], bool] = lambda _run_id: True
        self.creep: Callable[[], int] = lambda: 0  # milliseconds that pass before a clock is read
        self.boots = 0
        self.wall = EPOCH_MS
        self.ends: dict[str, tuple[int | None, int | None]] = {}  # how each main process truly ended
        self.waiting: int = 0  # pid of the launcher that runs now
        self.reuses = 0
        self._inodes = 0
        self._fds = FIRST_FD
        self.boot()

    # --- clocks and boots

    def boot(self) -> None:
        """Everything in memory is gone; what the disk has is not our business."""
        self.boots += 1
        self.boot_ms = 5_000
        self.processes: dict[int, Process] = {}
        self.freed: list[int] = []
        self.pidfds: dict[int, Process] = {}
        self.readers: dict[int, Callable[[], None]] = {}
        self._pids = 100

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def wall_ms(self) -> int:
        """The wall clock, as the daemon reads it: no two reads need give the same time."""
        self.pass_time(self.creep())
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
        """The kernel gives nobody a pid that is still the number of a session."""
        return all(one.session != pid for one in self.processes.values())

    def is_orphan(self, process: Process) -> bool:
        """No launcher is above it: the daemon looks after it by itself."""
        while process.parent in self.processes:
            process = self.processes[process.parent]
        return process.run_id is not None and process.ended is None

    def forget_pins(self) -> None:
        """The daemon has died, and with it what it knew of nameless processes."""
        for one in self.processes.values():
            one.signalled = False

    def is_alone(self, process: Process) -> bool:
        """In its session, whose number is free once it has ended."""
        return all(one is process or one.session != process.pid for one in self.processes.values())

    def replace(self, dead: Process) -> Process:
        """A stranger on the pid of somebody who just died, within the same tick."""
        self.freed.remove(dead.pid)
        stranger = self.processes[dead.pid] = Process(dead.pid, dead.start_ticks, self._next_inode(), 1, 0)
        stranger.environ = STRANGE
        return stranger

    def end_strangers(self) -> None:
        for one in list(self.processes.values()):
            if one.environ.startswith(STRANGE):
                self.die(one, 0, None)

    def spawn(self, parent: int, session: int = 0, *, again: bool = False) -> Process:
        """A new process; `again`: on a pid that was somebody else's before."""
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
        """Everything of any run that still lives, or may come to life."""
        return [one for one in self.processes.values() if one.run_id and one.ended is None]

    def workers(self) -> list[Process]:
        """As `living`, but without those that nobody could know of: nameless ones that the daemon never met."""
        return [one for one in self.living() if one.signalled or not one.nameless]

    def working(self) -> list[Process]:
        """As `workers`, but without those that will die before their exec."""
        return [one for one in self.workers() if not (one.unborn and one.doom == signal.SIGKILL)]

    def die(self, process: Process, code: int | None, signum: int | None) -> None:
        """Its children go to the subreaper, it becomes a zombie until its parent looks."""
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
        """A signal that really goes out."""
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
        """Whom it does not let us signal the kernel passes over, unless there is nobody else."""
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
        """Of the launcher that runs now, as its file in /proc tells them."""
        return self._children_of(self.waiting)[offset : offset + size]

    def _children_of(self, parent: int) -> bytes:
        return b"".join(b"%d " % pid for pid, one in self.processes.items() if one.parent == parent)

    def read_proc(self, pid: int, name: str) -> bytes:
        """A file of a process in /proc."""
        if pid not in self.processes:
            raise ProcessLookupError(errno.ESRCH, str(pid))
        return self.read_environ(pid) if name == "environ" else self._children_of(pid)

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
