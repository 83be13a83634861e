"""Whether a process is the one that was started: proof, or no proof.

Owns the comparison: other boot, other pid namespace, then a pidfd first and everything read
behind it. Refuses signals and guesses. Invariants: `(pid, start ticks)` alone is never a proof; what cannot be
read is unprovable, not absent; a pidfd is opened before anything is compared, so what was proven stays pinned.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path

from msgspec import Struct, field

from stoker.core.job.model import Identity, RunId

PROC = Path("/proc")
TOP = Path("/")
RUN = b"STOKER_RUN_ID="
INSTANCE = b"STOKER_INSTANCE="
LAUNCHER = b"STOKER_LAUNCHER="
MARKED_LIMIT = "Max realtime timeout"
LOWEST_MARK = 1 << 61
# On a host that forks without end there is always somebody new.
SCAN_ROUNDS = 32
# pidfd_open(2): nobody has that number, or by now it is a thread's (EINVAL; ENOENT since Linux 6.16).
NO_PROCESS = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})


class IdentityVerdict(StrEnum):
    OURS = "ours"
    GONE = "gone"
    NOT_OURS = "not_ours"
    UNPROVABLE = "unprovable"


@cache
def boot_id() -> str:
    """This boot's random id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> int:
    """The inode of our own pid namespace: pids mean nothing outside it."""
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
        """A zombie; a leader that ended before its other threads only looks like one."""
        return self.state in "ZX" and self.threads <= 1


def read_stat(pid: int) -> ProcessStat | None:
    """None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(words[0].decode(), int(words[1]), int(words[3]), int(words[17]), int(words[19]))


def is_asleep(identity: Identity) -> bool:
    """Whether it is in an uninterruptible sleep now: of no use as a proof, good enough for an explanation."""
    stat = read_stat(identity.pid) if identity.boot_id == boot_id() else None
    return stat is not None and stat.state == "D" and stat.start_ticks == identity.start_ticks


def open_pidfd(pid: int) -> int | None:
    """A handle that stays on this very process; None when there is none."""
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
    """The number that no other process of this boot ever has; asked only where a launcher found one (Linux 6.9).

    Nothing else reads it, so that a kernel without pidfs can stand here: None.
    """
    return os.fstat(pidfd).st_ino


def verdict(identity: Identity, instance: str, run_id: str) -> IdentityVerdict:
    """As `prove`, for those who only want to know."""
    said, pidfd = prove(identity, instance, run_id)
    if pidfd is not None:
        os.close(pidfd)
    return said


def prove(identity: Identity, instance: str, run_id: str) -> tuple[IdentityVerdict, int | None]:
    """Whether the process at `identity.pid` is that worker; with OURS comes its pidfd, for the caller to close."""
    if identity.boot_id != boot_id():
        return IdentityVerdict.GONE, None
    if identity.pid_namespace != pid_namespace():
        return IdentityVerdict.UNPROVABLE, None
    pidfd = open_pidfd(identity.pid)
    if pidfd is None:
        return IdentityVerdict.GONE, None
    said = _compare(identity, instance, run_id, pidfd)
    if said is IdentityVerdict.OURS:
        return said, pidfd
    os.close(pidfd)
    return said, None


def _compare(identity: Identity, instance: str, run_id: str, pidfd: int) -> IdentityVerdict:
    stat = read_stat(identity.pid)
    if stat is None or stat.ended:
        return IdentityVerdict.GONE
    if identity.start_ticks not in (0, stat.start_ticks):  # 0: could not be read when it started
        return IdentityVerdict.NOT_OURS
    inode = None if identity.pidfs_inode is None else pidfs_inode(pidfd)
    if inode is not None:
        return IdentityVerdict.OURS if inode == identity.pidfs_inode else IdentityVerdict.NOT_OURS
    return _by_marks(identity, instance, run_id, pidfd)


def _by_marks(identity: Identity, instance: str, run_id: str, pidfd: int) -> IdentityVerdict:
    """Without an inode: the nonce in its environment, the mark in its limits, or the cgroup that is its alone."""
    try:
        marks = read_marks(identity.pid)
    except PermissionError:
        marks = None
    inside = identity.cgroup is not None and _is_in(identity.pid, identity.cgroup)
    marked = read_mark(identity.pid) == mark_of(run_id)
    if has_ended(pidfd):
        return IdentityVerdict.GONE
    if inside or marked or (marks is not None and (marks.instance, marks.run_id) == (instance, run_id)):
        return IdentityVerdict.OURS
    # Same pid, same tick, no mark: it may have emptied its environment, or be a stranger. Nobody can tell.
    return IdentityVerdict.UNPROVABLE if marks is None or marks.run_id is None else IdentityVerdict.NOT_OURS


def _is_in(pid: int, cgroup: str) -> bool:
    try:
        # Bytes, and no line but the kernel's: whoever may make a cgroup may put a carriage return into its name.
        lines = os.fsdecode((PROC / str(pid) / "cgroup").read_bytes()).split("\n")
    except (FileNotFoundError, ProcessLookupError):
        return False
    shown = Path(next((line[3:] for line in lines if line.startswith("0::")), "/"))
    # A worker may have made cgroups of its own below its leaf; the top itself may hold anybody.
    return any(cgroup.endswith(str(path)) for path in (shown, *shown.parents) if path != TOP)


def mark_of(run_id: str) -> int:
    """What the launcher sets as the limit of real-time CPU time for all processes of a run (launcher/marks.py)."""
    return LOWEST_MARK | int(RunId.parse(run_id).nonce, 16) & (LOWEST_MARK - 1)


def read_mark(pid: int) -> int:
    """Of any process, whoever's it is; 0 when it has none or is gone."""
    try:
        limits = (PROC / str(pid) / "limits").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, _, told = limits.partition(MARKED_LIMIT)
    soft = told.split(maxsplit=1)[0] if told else ""
    return int(soft) if soft.isdigit() and int(soft) >= LOWEST_MARK else 0


def carries(pid: int, instance: str, run_id: str) -> bool:
    """Whether it shows that it is of this run: by its environment, or by its mark, which outlives the environment."""
    try:
        marks = read_marks(pid)
    except PermissionError:
        marks = Marks()
    return (marks.instance, marks.run_id) == (instance, run_id) or read_mark(pid) == mark_of(run_id)


class Marks(Struct, frozen=True):
    """What a process shows of us in its environment."""

    instance: str | None = None
    run_id: str | None = None
    launcher: str | None = None


def read_marks(pid: int) -> Marks:
    """Empty when the process is gone or shows nothing. Raises PermissionError when it may not be read."""
    return _marks(_read_environ(pid))


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
    found = next((variable for variable in variables if variable.startswith(name)), None)
    return None if found is None else found[len(name) :].decode(errors="replace")


class MarkedProcesses(Struct, frozen=True):
    """Processes that carry an instance's marks: by run, and by launcher for those that carry no run.

    `marked`: by the mark in their limits, those whose environment shows nothing of us or may not be read.
    """

    runs: dict[str, list[int]] = field(default_factory=dict)
    launchers: dict[str, list[int]] = field(default_factory=dict)
    marked: dict[int, list[int]] = field(default_factory=dict)

    def of_run(self, run_id: str) -> list[int]:
        return [*self.runs.get(run_id, ()), *self.marked.get(mark_of(run_id), ())]


def scan(instance: str) -> MarkedProcesses:
    """Look at every process (about 15 ms for 600).

    A tree may pass from parent to child between our list and our look, so newcomers are looked at until there are
    none; and a process shows nothing for a moment while it execs, so a bare one is looked at twice.
    """
    found = MarkedProcesses()
    seen: set[int] = set()
    for _ in range(SCAN_ROUNDS):
        fresh = set(pids()) - seen
        if not fresh:
            break
        seen |= fresh
        for pid in [pid for pid in sorted(fresh) if not _note(found, pid, instance)]:
            _note(found, pid, instance)
    return found


def _note(found: MarkedProcesses, pid: int, instance: str) -> bool:
    """False when the process showed nothing at all."""
    try:
        environ = _read_environ(pid)
    except PermissionError:
        environ = b""
    marks = _marks(environ)
    if marks.instance == instance and marks.run_id is not None:
        found.runs.setdefault(marks.run_id, []).append(pid)
    elif marks.instance == instance and marks.launcher is not None:
        found.launchers.setdefault(marks.launcher, []).append(pid)
    elif mark := read_mark(pid):
        found.marked.setdefault(mark, []).append(pid)
        return True
    return bool(environ)


def sessions() -> dict[int, list[int]]:
    """Who lives in each session."""
    found: dict[int, list[int]] = {}
    for pid in pids():
        stat = read_stat(pid)
        if stat is not None and not stat.ended:
            found.setdefault(stat.session, []).append(pid)
    return found


def left_in_session(identity: Identity | None, among: Mapping[int, list[int]] | None = None) -> list[int]:
    """Who is in the session that this main process began, now that it has ended. `among`: what `sessions` said.

    Nearly always they are of its tree. But the number of a session that has ended may be that of another one by now.
    """
    if identity is None or (identity.boot_id, identity.pid_namespace) != (boot_id(), pid_namespace()):
        return []
    left = (sessions() if among is None else among).get(identity.pid, [])
    return [] if identity.pid in left else left


def pids() -> list[int]:
    """Every process there is."""
    return [int(entry.name) for entry in os.scandir(PROC) if entry.name.isdecimal()]
