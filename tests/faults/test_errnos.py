"""Each syscall of a working daemon, or of its launcher, fails once with an errno that its man page names.

Owns the table of errnos and the questions after each fault: the process answers, or it ended with a clear error; its
descriptors, threads and tasks come back to those before; no exception was left to the event loop; all promises are
kept. The seed draws the faults; `STOKER_FAULTS=300` draws so many. Refuses to pass when too few of them fired.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stoker.core.errors import DaemonUnreachable, StokerError
from tests.support import strace
from tests.support.descriptors import count_fds
from tests.support.facts import until, until_empty
from tests.support.lives import Lives
from tests.support.strace import Attached, calls_of, points
from tests.support.task_door import tasks_of, threads_of
from tests.support.torture import become_quiet
from tests.support.work import alive

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from tests.support.daemon import DaemonProcess
    from tests.support.strace import Point

FAULTS = int(os.environ.get("STOKER_FAULTS", "12"))
MISSING = strace.why_not()
DESCRIPTORS = "EMFILE ENFILE ENOMEM"
DISK = "ENOSPC EDQUOT EIO"
# The errnos of a Linux host, without the errnos that only a fault of our own could cause (EBADF, EFAULT, EINVAL).
# Left out, by the list of `strace -c`: close(2), which strace keeps from closing; calls for memory (brk, mmap, mremap,
# munmap, mprotect), which fail together and not one at a time; and calls that cannot fail.
ERRNOS = {
    "accept4": f"{DESCRIPTORS} ECONNABORTED ENOBUFS EPERM",
    "access": "EIO ENOMEM EACCES",
    "chdir": "EIO EACCES ENOMEM",
    "clone3": "EAGAIN ENOMEM",
    "connect": "EAGAIN EACCES",
    "dup2": "EMFILE EINTR",
    "epoll_wait": "EINTR",
    "fchmod": "EIO EROFS",
    "fdatasync": DISK,
    "flock": "ENOLCK ENOMEM",
    "fsync": DISK,
    "ftruncate": "EIO EROFS",
    "getrandom": "EINTR",
    "inotify_add_watch": "ENOMEM ENOSPC",
    "inotify_init1": DESCRIPTORS,
    "memfd_create": DESCRIPTORS,
    "mkdir": "ENOSPC EDQUOT EACCES ENOMEM EROFS",
    "newfstatat": "EIO EACCES ENOMEM",
    "openat": f"{DESCRIPTORS} ENOSPC EIO EACCES EINTR",
    "pidfd_open": DESCRIPTORS,
    "pipe2": DESCRIPTORS,
    "poll": "EINTR ENOMEM",
    "prlimit64": "EPERM",
    "pwrite64": DISK,
    "recvfrom": "ENOMEM EINTR",
    "rename": f"{DISK} EROFS",
    "sendto": "ENOBUFS ENOMEM EPIPE",
    "setsid": "EPERM",
    "socket": f"{DESCRIPTORS} ENOBUFS",
    "splice": f"{DISK} ENOMEM",
    "statfs": "EIO EINTR ENOMEM",
    "unlink": "EIO EROFS ENOMEM",
    "vfork": "EAGAIN ENOMEM",
    "wait4": "EINTR",
}
OF_THE_DAEMON = {
    **ERRNOS,
    "epoll_ctl": "ENOMEM ENOSPC",
    "epoll_pwait": "EINTR",
    "fcntl": "EAGAIN EINTR ENOLCK",  # the locks of SQLite
    "io_uring_enter": "EAGAIN EBUSY EINTR",
    "pread64": "EIO",
    "read": "ECONNRESET EINTR EIO ENOMEM",
    "write": "ECONNRESET EINTR EIO ENOBUFS ENOMEM ENOSPC EPIPE",
}
# Without epoll_ctl(2): only its EPOLL_CTL_ADD can fail, strace cannot tell that from the others, and tests/launcher has
# a test for each of the two places that add.
OF_A_LAUNCHER = {
    **ERRNOS,
    "kill": "EPERM",
    "pidfd_send_signal": "EPERM",
    "pread64": "ENOMEM",  # of a list in /proc
    "read": "EINTR EIO ENOMEM",
    "write": f"{DISK} EINTR",
}
# libuv, which is below the event loop, aborts where these fail, with a message on stderr. A stream's read(2) or
# write(2) may fail; that of the eventfd by which threads wake up the loop cannot on a real host.
MAY_ABORT = ("epoll_ctl", "epoll_pwait", "io_uring_enter", "read", "write")
ABORTED = "Fatal Python error: Aborted"

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(300 + 10 * FAULTS)]


class Sweep:
    """Runs the same short load for every fault, on one state directory."""

    def __init__(self, daemon: DaemonProcess, lives: Lives, seed: int, traces: Path, errnos: dict[str, str]) -> None:
        self.lives = lives
        self.struck = Counter[str]()
        self._seed = seed
        self._daemon = daemon
        self._traces = traces
        self._errnos = errnos

    def explore(self, pid: int) -> list[Point]:
        """The calls at which a fault can be injected, drawn so that each syscall occurs."""
        self.work()  # what is opened at first use is open now
        trace = self._traces / "trace"
        attached = Attached(pid, trace, f"trace={','.join(self._errnos)}")
        self.work()
        attached.detach()
        return self.lives.draw(points(trace, "", list(self._errnos)))

    def work(self) -> None:
        """The load of one life, and a followed log. Refusals are allowed."""
        with contextlib.suppress(StokerError):
            self.lives.work()
        with contextlib.suppress(StokerError), self._daemon.client(timeout_s=5) as client:
            job = client.list(limit=1)["jobs"][0]["id"]
            b"".join(client.logs(job))

    def strike(self, pid: int, point: Point) -> None:
        """Inject one fault into a running process."""
        error = self.lives.dice.choice(self._errnos[point.syscall].split())
        trace = self._traces / f"trace.{point.syscall}.{point.number}"
        fault = f"inject={point.syscall}:error={error}:when={point.number}"
        attached = Attached(pid, trace, f"trace={point.syscall}", fault)
        self.work()
        attached.detach()
        hits = sum(call.injected for call in calls_of(trace))
        self.struck[f"{point.syscall} {error}"] += hits
        self.lives.fired += bool(hits)

    def end(self, most: int) -> None:
        """Check all promises, and that enough faults were injected."""
        sys.stderr.write(f"\nSTOKER_SEED={self._seed} STOKER_FAULTS={FAULTS}: {dict(self.struck)}: ")
        assert self.lives.complaints() == []
        assert self.lives.fired > most // 5
        assert [event for event in self._daemon.events("library_message") if "exception" in str(event).lower()] == []


def test_daemon_when_any_syscall_fails_then_it_answers_or_ends_with_a_clear_error(
    tortured: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    sweep = Sweep(tortured, Lives(tortured, seed, FAULTS), seed, tmp_path, OF_THE_DAEMON)
    drawn = sweep.explore(tortured.pid)

    for point in drawn:
        before = Held.by(tortured)
        sweep.strike(tortured.pid, point)
        try:
            become_quiet(tortured)
            until_empty(lambda before=before: Held.by(tortured).beyond(before), why=f"{before} after {sweep.struck}")  # type: ignore[misc]
        except DaemonUnreachable:
            status = tortured.wait()
            assert says_why(tortured, point, status), f"{point}: {tortured.tail()}"
            tortured.start()
            sweep.work()

    sweep.end(len(drawn))


class Held(NamedTuple):
    """The descriptors, threads and tasks of an idle daemon."""

    fds: int
    threads: int
    tasks: Counter[str]

    @classmethod
    def by(cls, daemon: DaemonProcess) -> Self:
        """The difference, without the two descriptors for each launcher: a connection and a pidfd."""
        with daemon.client() as client:
            launchers = len(client.call("system.status")["launchers"])
        return cls(count_fds(daemon.pid) - 2 * launchers, threads_of(daemon.pid), tasks_of(daemon))

    def beyond(self, before: Self) -> list[object]:
        """The values that it has more than before."""
        more = self.fds > before.fds or self.threads > before.threads or self.tasks - before.tasks
        return [self] if more else []


def says_why(daemon: DaemonProcess, point: Point, status: int) -> bool:
    """Whether a daemon that has ended left a clear error."""
    if status == -signal.SIGABRT and point.syscall in MAY_ABORT:
        return ABORTED in daemon.stderr.read_text()
    return bool(daemon.events("daemon_failed") or daemon.events("storage_failed"))


def test_launcher_when_any_syscall_fails_then_it_does_not_crash_and_leaks_nothing(
    tortured: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    _, pid = (lives := Lives(tortured, seed, FAULTS)).newest_launcher()
    sweep = Sweep(tortured, lives, seed, tmp_path, OF_A_LAUNCHER)
    drawn = sweep.explore(pid)
    become_quiet(tortured)
    fds = count_fds(pid)

    for point in drawn:
        _, pid = lives.newest_launcher()
        sweep.strike(pid, point)
        become_quiet(tortured)
        if alive(pid):  # else it has left in order, as another took its place: its stderr has no traceback
            until(lambda pid=pid: not alive(pid) or count_fds(pid) <= fds, why=f"{fds} fds after {sweep.struck}")  # type: ignore[misc]
        assert crashes(tortured) == [], f"{point}: {sweep.struck}"

    sweep.end(len(drawn))


def crashes(daemon: DaemonProcess) -> list[str]:
    """The tracebacks of launchers that ended with an exception."""
    written = [path.read_text() for path in (daemon.state_dir / "launchers").glob("*.err")]
    return [text for text in written if "Traceback" in text]
