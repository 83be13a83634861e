"""Calls of Linux that Python does not offer, and readings of /proc.

Owns ctypes and the parsing of /proc/<pid>/stat. It decides nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct
import time

from .lean_stdlib import signal

PR_SET_CHILD_SUBREAPER = 36
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
SIGSET_LONGS, LONG_BITS = 16, 8 * struct.calcsize("L")
FLOCK = struct.Struct("hhqqi0q")  # struct flock of fcntl(2)
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# Signals that would end or stop the parent of all workers, which leaves only when it has nothing left to do. Python
# itself ignores the last one. An exec keeps ignored signals ignored, so all of these are reset for workers.
IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGIO,
    signal.SIGXFSZ,
)

# Errors for a process that has ended, or that the kernel hides from us because it is another user's.
GONE_OR_HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)
# pidfd_open(2): no process has that pid, or by now it is the id of a thread (EINVAL; ENOENT since Linux 6.16).
NO_PROCESS = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})
# The soft limit of workers. Some programs close every descriptor below it, so it must not be large.
worker_open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

libc = ctypes.CDLL(None, use_errno=True)
# The 64-bit variant of glibc has a name of its own; musl has only that one, as fallocate.
_fallocate = getattr(libc, "fallocate64", libc.fallocate)
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def become_subreaper() -> None:
    """From now on, orphaned descendants become our children (prctl(2))."""
    _check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def ignore_signals(but: frozenset[int] = frozenset()) -> None:
    """`but`: the signals that are kept pending. To ignore one drops it if it has come."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - but:
        signal.signal(signum, signal.SIG_IGN if signum in IGNORED else signal.SIG_DFL)


def give_workers_open_files(soft_limit: int) -> None:
    """Set the limit of open files for workers: the original one of the daemon, before the daemon raised it."""
    global worker_open_files  # noqa: PLW0603 - of this process, as its signal dispositions are
    worker_open_files = soft_limit


def set_limit(kind: int, soft: int, hard: int) -> None:
    """setrlimit(2). Raises OSError, also where `resource` raises ValueError: for EPERM, and EINVAL."""
    try:
        resource.setrlimit(kind, (soft, hard))
    except ValueError as error:
        raise PermissionError(errno.EPERM, str(error)) from error


def allow_open_files() -> None:
    """Raise our own limit: the pipe and the log of each worker take a descriptor each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    set_limit(resource.RLIMIT_NOFILE, hard, hard)


def restore_open_files() -> None:
    """Lower the limit to that of workers, for the next child to inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    set_limit(resource.RLIMIT_NOFILE, min(worker_open_files, hard), hard)


def open_files_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def keep_pending(signum: int) -> None:
    """Block the signal: it neither ends nor wakes us, and waits for `take_pending`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signum])


def take_pending(signum: int) -> bool:
    """Whether the signal was sent since the last call."""
    return signal.sigtimedwait([signum], 0) is not None


def open_signalfd(signum: int) -> int:
    """A descriptor that is readable while `signum` is pending; a handler could run between any two instructions."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
    longs = [0] * SIGSET_LONGS
    longs[(signum - 1) // LONG_BITS] = 1 << (signum - 1) % LONG_BITS
    return _check(libc.signalfd(-1, struct.pack(f"{SIGSET_LONGS}L", *longs), os.O_CLOEXEC | os.O_NONBLOCK))


def punch_hole(fd: int, start: int, end: int) -> None:
    """Free the blocks from `start` to `end`; the file keeps its size and its offsets."""
    _check(_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, start, end - start))


def has_lock_before(fd: int, end: int) -> bool:
    """Whether another open file description locks one of the first `end` bytes (F_OFD_GETLK in fcntl_locking(2))."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, end, 0)
    try:
        kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    except OSError:  # a file system without locks
        return False
    return kind != fcntl.F_UNLCK


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Stat:
    """Fields of /proc/<pid>/stat (proc_pid_stat(5))."""

    __slots__ = ("group", "parent", "session", "start_ticks", "state", "threads")

    def __init__(self, state: bytes, parent: int, group: int, session: int, threads: int, start_ticks: int) -> None:
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.threads = threads
        self.start_ticks = start_ticks

    @property
    def ended(self) -> bool:
        """Whether it is a zombie. A process whose main thread ended before the others only looks like one."""
        return self.state in b"ZX" and self.threads <= 1


def read_stat(pid: int) -> Stat:
    """Raises ProcessLookupError if there is no such process."""
    raw = read_proc(pid, "stat")
    # The name may contain spaces and parentheses; the last one ends it.
    fields = raw[raw.rindex(b")") + 2 :].split(b" ", 20)
    return Stat(fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[17]), int(fields[19]))


def has_ended(pid: int) -> bool:
    """Whether the process has ended. Raises OSError if that cannot be known now."""
    try:
        return read_stat(pid).ended
    except ProcessLookupError:
        return True
    except PermissionError:  # /proc is mounted with hidepid=1 and the process belongs to another user
        return False


def read_proc(pid: int, name: str) -> bytes:
    """A file in /proc/PID. Raises ProcessLookupError if there is no such process; it may live after any other error."""
    try:
        return read_file(f"/proc/{pid}/{name}")
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error


def open_pidfd(pid: int) -> int:
    """Raises ProcessLookupError if there is no such process; other errors do not say that."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in NO_PROCESS:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        raise


def read_file(path: str) -> bytes:
    """All of a file of /proc or a cgroup."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while more := os.read(fd, 65_536):  # a short read is not the end: the kernel gives lists page by page
            data += more
        return data
    finally:
        os.close(fd)


def write_file(path: str, text: bytes) -> None:
    """Write to a file of /proc or a cgroup, in one call as the kernel demands."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def boot_id() -> str:
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip()


def pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def start_ticks(pid: int, before_ns: int, after_ns: int) -> int:
    """Start time, as in /proc/<pid>/stat, of a child that started between two readings of CLOCK_BOOTTIME.

    Both are nearly always in one tick, which is then the answer. A read of /proc would wait for the exec: 100
    microseconds of a job's 400. Gives 0 if it could not be read.
    """
    if before_ns // TICK_NS == after_ns // TICK_NS:
        return after_ns // TICK_NS
    try:
        return read_stat(pid).start_ticks
    except OSError:
        return 0


def has_pidfs() -> bool:
    """Whether the inode of a pidfd identifies its process (6.9+); before, all anonymous descriptors share one inode."""
    pidfd = os.pidfd_open(os.getpid())
    other = os.eventfd(0)
    try:
        return os.fstat(pidfd).st_dev != os.fstat(other).st_dev
    finally:
        os.close(pidfd)
        os.close(other)


def pidfs_inode(pid: int) -> int | None:
    """The inode of the child's pidfd; None if the kernel gives none, as when no descriptor is left."""
    try:
        pidfd = os.pidfd_open(pid)
        try:
            return os.fstat(pidfd).st_ino
        finally:
            os.close(pidfd)
    except OSError:
        return None


def now_at_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def now_at_boot_ms() -> int:
    return now_at_boot_ns() // 1_000_000


def now_ms() -> int:
    """Wall time: for readers on another boot, never to measure durations."""
    return time.time_ns() // 1_000_000
