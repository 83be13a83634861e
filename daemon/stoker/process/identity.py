"""Proof that a process is the one that was started.

Owns the comparison: the boot, the pid namespace, then a pidfd, and everything else behind that. It signals nothing.
Invariants: `(pid, start ticks)` alone is never a proof; a process that cannot be read is unprovable, not gone; a pidfd
is opened before anything is compared, so the process that was proven stays pinned; no process makes a search hang.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from pathlib import Path

from msgspec import Struct, field

from stoker.core.job.model import Identity
from stoker.core.job.run_id import RunId
from stoker.process.hanging_reads import read_in_time

PROC = Path("/proc")
TOP = Path("/")
RUN = b"STOKER_RUN_ID="
INSTANCE = b"STOKER_INSTANCE="
LAUNCHER = b"STOKER_LAUNCHER="
MARKED_LIMIT = "Max realtime timeout"
LOWEST_MARK = 1 << 61
# On a host that forks without end there is always a new process.
SCAN_ROUNDS = 32
# pidfd_open(2): no process has that pid, or by now it is the id of a thread (EINVAL; ENOENT since Linux 6.16).
NO_PROCESS = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})


class IdentityVerdict(StrEnum):
    OURS = "ours"
    GONE = "gone"
    NOT_OURS = "not_ours"
    UNPROVABLE = "unprovable"


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> int:
    """The inode of our own pid namespace; a pid means nothing outside its namespace."""
    return Path("/proc/self/ns/pid").stat().st_ino


class ProcessStat(Struct, frozen=True):
    """The fields of /proc/PID/stat that matter here (proc_pid_stat(5))."""

    state: str
    parent: int
    session: int
    threads: int
    start_ticks: int

    @property
    def ended(self) -> bool:
        """Whether it is a zombie. A process whose main thread ended before the others only looks like one."""
        return self.state in "ZX" and self.threads <= 1


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process.

    Raises PermissionError for a process of another user where /proc is mounted with hidepid=1.
    """
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(words[0].decode(), int(words[1]), int(words[3]), int(words[17]), int(words[19]))


def readable_stats() -> Iterator[tuple[int, ProcessStat]]:
    """Every process that may be read."""
    for pid in pids():
        with suppress(PermissionError):
            stat = read_stat(pid)
            if stat is not None:
                yield pid, stat


def is_asleep(identity: Identity) -> bool:
    """Whether it is in an uninterruptible sleep now. No proof of identity, but enough for an explanation."""
    with suppress(PermissionError):
        stat = read_stat(identity.pid) if identity.boot_id == boot_id() else None
        return stat is not None and stat.state == "D" and stat.start_ticks == identity.start_ticks
    return False


def open_pidfd(pid: int) -> int | None:
    """A descriptor of this very process; None when there is none."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in NO_PROCESS:
            return None
        raise


def has_ended(pidfd: int) -> bool:
    """A pidfd becomes readable when its process has ended (pidfd_open(2))."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def pidfs_inode(pidfd: int) -> int | None:
    """A number that no other process of this boot ever has (Linux 6.9). Call it only if the launcher found one.

    Tests replace it by None, as on a kernel without pidfs.
    """
    return os.fstat(pidfd).st_ino


def verdict(identity: Identity, instance: str, run_id: str) -> IdentityVerdict:
    """As `prove`, without a pidfd."""
    result, pidfd = prove(identity, instance, run_id)
    if pidfd is not None:
        os.close(pidfd)
    return result


def prove(identity: Identity, instance: str, run_id: str) -> tuple[IdentityVerdict, int | None]:
    """Whether the process with that pid is the worker. OURS comes with a pidfd, for the caller to close."""
    if identity.boot_id != boot_id():
        return IdentityVerdict.GONE, None
    if identity.pid_namespace != pid_namespace():
        return IdentityVerdict.UNPROVABLE, None
    pidfd = open_pidfd(identity.pid)
    if pidfd is None:
        return IdentityVerdict.GONE, None
    try:
        result = _compare(identity, instance, run_id, pidfd)
    except OSError:
        os.close(pidfd)
        raise
    if result is IdentityVerdict.OURS:
        return result, pidfd
    os.close(pidfd)
    return result, None


def _compare(identity: Identity, instance: str, run_id: str, pidfd: int) -> IdentityVerdict:
    try:
        stat = read_stat(identity.pid)
    except PermissionError:
        return IdentityVerdict.GONE if has_ended(pidfd) else _by_inode(identity, pidfd) or IdentityVerdict.UNPROVABLE
    if stat is None or stat.ended:
        return IdentityVerdict.GONE
    if identity.start_ticks not in (0, stat.start_ticks):  # 0: could not be read when it started
        return IdentityVerdict.NOT_OURS
    return _by_inode(identity, pidfd) or _by_marks(identity, instance, run_id, pidfd)


def _by_inode(identity: Identity, pidfd: int) -> IdentityVerdict | None:
    """None where the kernel has no such inodes."""
    inode = None if identity.pidfs_inode is None else pidfs_inode(pidfd)
    if inode is None:
        return None
    return IdentityVerdict.OURS if inode == identity.pidfs_inode else IdentityVerdict.NOT_OURS


def _by_marks(identity: Identity, instance: str, run_id: str, pidfd: int) -> IdentityVerdict:
    """Without an inode: by the run id in its environment, the mark in its limits, or the cgroup of the run."""
    try:
        marks = read_marks(identity.pid)
    except PermissionError:
        marks = None
    inside = identity.cgroup is not None and _is_in(identity.pid, identity.cgroup)
    marked = read_mark(identity.pid) == mark_of(run_id)
    named = marks is not None and (marks.instance, marks.run_id) == (instance, run_id)
    owned = has_owner(identity.pid, run_id)
    if has_ended(pidfd):
        return IdentityVerdict.GONE
    if owned and (inside or marked or named):
        return IdentityVerdict.OURS
    # Same pid, same tick, no mark: it may have emptied its environment, or be a stranger.
    return IdentityVerdict.UNPROVABLE if marks is None or marks.run_id is None else IdentityVerdict.NOT_OURS


def _is_in(pid: int, cgroup: str) -> bool:
    try:
        # Only \n ends a line: the name of a cgroup may contain a carriage return.
        lines = os.fsdecode((PROC / str(pid) / "cgroup").read_bytes()).split("\n")
    except (FileNotFoundError, ProcessLookupError):
        return False
    shown = Path(next((line[3:] for line in lines if line.startswith("0::")), "/"))
    # A worker may have made cgroups below its own; any process may be in the top one.
    return any(cgroup.endswith(str(path)) for path in (shown, *shown.parents) if path != TOP)


def mark_of(run_id: str) -> int:
    """The limit RLIMIT_RTTIME that the launcher sets for all processes of a run (launcher/marks.py)."""
    return LOWEST_MARK | int(RunId.parse(run_id).nonce, 16) & (LOWEST_MARK - 1)


def read_mark(pid: int) -> int:
    """The mark of any process of any user; 0 when it has none that may be read, or is gone."""
    try:
        limits = (PROC / str(pid) / "limits").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    _, _, values = limits.partition(MARKED_LIMIT)
    soft = values.split(maxsplit=1)[0] if values else ""
    return int(soft) if soft.isdigit() and int(soft) >= LOWEST_MARK else 0


def carries(pid: int, instance: str, run_id: str) -> bool:
    """Whether its environment shows this run, or its mark, which stays when the environment is emptied."""
    try:
        marks = read_marks(pid)
    except PermissionError:
        marks = Marks()
    shown = (marks.instance, marks.run_id) == (instance, run_id) or read_mark(pid) == mark_of(run_id)
    return shown and has_owner(pid, run_id)


class Marks(Struct, frozen=True):
    """Our variables in the environment of a process."""

    instance: str | None = None
    run_id: str | None = None
    launcher: str | None = None


def owner_of(pid: int) -> int | None:
    """The user of a process; None when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return (PROC / str(pid)).stat().st_uid
    return None


def has_owner(pid: int, run_id: str) -> bool:
    """Whether it has the user that the run names, if it names one: any user can give a process the mark of any run."""
    uid = RunId.parse(run_id).uid
    return uid is None or owner_of(pid) == uid


def read_marks(pid: int) -> Marks:
    """Empty when the process is gone or has no such variable. Raises PermissionError when it cannot be read."""
    marks = read_in_time(lambda one: _marks(_read_environ(one)), [pid])
    if pid not in marks:
        raise PermissionError(errno.EACCES, "the memory of the process is locked", str(pid))
    return marks[pid]


def _read_environ(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _marks(environ: bytes) -> Marks:
    if INSTANCE not in environ:
        return Marks()
    variables = environ.split(b"\0")
    return Marks(*(_value(variables, name) for name in (INSTANCE, RUN, LAUNCHER)))


def _value(variables: list[bytes], name: bytes) -> str | None:
    match = next((variable for variable in variables if variable.startswith(name)), None)
    return None if match is None else match[len(name) :].decode(errors="replace")


class MarkedProcesses(Struct, frozen=True):
    """Processes of an instance: by run, and by launcher for those that show no run.

    `marked`: by the mark in their limits, those whose environment shows nothing or may not be read.
    """

    runs: dict[str, list[int]] = field(default_factory=dict)
    launchers: dict[str, list[int]] = field(default_factory=dict)
    marked: dict[int, list[int]] = field(default_factory=dict)

    def of_run(self, run_id: str) -> list[int]:
        """Of a run of another user only that user's processes."""
        found = [*self.runs.get(run_id, ()), *self.marked.get(mark_of(run_id), ())]
        return [pid for pid in found if has_owner(pid, run_id)]


def scan(instance: str) -> MarkedProcesses:
    """Read every process (about 15 ms for 600).

    A process may fork and exit between our list and our read, so the list is made again until it has no new process. A
    process shows no environment for a moment during an exec, so an empty one is read twice.
    """
    marked = MarkedProcesses()
    seen: set[int] = set()
    for _ in range(SCAN_ROUNDS):
        fresh = set(pids()) - seen
        if not fresh:
            break
        seen |= fresh
        _note(marked, _note(marked, sorted(fresh), instance), instance)
    return marked


def _note(marked: MarkedProcesses, fresh: Sequence[int], instance: str) -> list[int]:
    """Gives those that showed no environment and no mark."""
    shown = read_in_time(_shown, fresh)
    return [pid for pid in fresh if not _note_marks(marked, pid, shown.get(pid), instance)]


def _shown(pid: int) -> Marks | None:
    """None when it shows no environment."""
    with suppress(PermissionError):
        environ = _read_environ(pid)
        return _marks(environ) if environ else None
    return None


def _note_marks(marked: MarkedProcesses, pid: int, marks: Marks | None, instance: str) -> bool:
    """False when the process showed no environment and no mark."""
    if marks is not None and marks.instance == instance and marks.run_id is not None:
        marked.runs.setdefault(marks.run_id, []).append(pid)
    elif marks is not None and marks.instance == instance and marks.launcher is not None:
        marked.launchers.setdefault(marks.launcher, []).append(pid)
    elif mark := read_mark(pid):
        marked.marked.setdefault(mark, []).append(pid)
        return True
    return marks is not None


def sessions() -> dict[int, list[int]]:
    by_session: dict[int, list[int]] = {}
    for pid, stat in readable_stats():
        if not stat.ended:
            by_session.setdefault(stat.session, []).append(pid)
    return by_session


def left_in_session(identity: Identity | None, among: Mapping[int, list[int]] | None = None) -> list[int]:
    """The processes in the session of a main process that has ended. `among`: a result of `sessions`.

    They are nearly always of its tree. But if that session has ended, a new one may have its id.
    """
    if identity is None or (identity.boot_id, identity.pid_namespace) != (boot_id(), pid_namespace()):
        return []
    left = (sessions() if among is None else among).get(identity.pid, [])
    return [] if identity.pid in left else left


def pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir(PROC) if entry.name.isdecimal()]
