"""The protocol between daemon and launcher, version 1, as frozen values.

Owns the shape of every message on the socket and of every line in `outcomes/*.log`. `process.outcomes` says what a
message means for an attempt.

Invariants: `hello list launch signal ack` never change at version 1, so that any later daemon can run an older launcher
empty; everything is matched by run_id. `at_boot_ms` is CLOCK_BOOTTIME of the launcher's boot, `at_ms` the same instant
as UTC epoch milliseconds, for readers on another boot.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from stoker.core.job.limits import Bounds, Limits
from stoker.core.raw_bytes import AnyText

VERSION = 1
MAX_FRAME_BYTES = 16 * 1024 * 1024


# --- daemon to launcher -----------------------------------------------------------------------------------


class Setup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Settings that must be in force before a worker's first instruction. They need a fork instead of posix_spawn.

    `cgroup` is the absolute path of an existing leaf of this run alone: SIGKILL goes to all processes in it. If
    `born_inside` is false the worker may be moved there after its start, which needs no fork. `limits` become rlimits;
    `leaf_limits` are enforced by the leaf already, and only repeated in Started.
    """

    limits: Limits | None = None
    leaf_limits: Limits | None = None
    nice: int = 0
    cgroup: str | None = None
    born_inside: bool = True


class LaunchOrder(Struct, frozen=True, kw_only=True, tag_field="op", tag="launch"):
    """Start one run. `argv[0]` is searched along the PATH of `env`, relative to `working_dir`.

    `env` is the worker's whole environment, `umask` its file mode creation mask (umask(2)); `log` is an absolute path
    that must not exist yet; the launcher refuses an `epoch` older than any it has seen. Bytes that are not UTF-8 are
    sent as `{"base64": "…"}`.
    """

    epoch: int
    run_id: str
    argv: tuple[AnyText, ...]
    env: dict[str, AnyText]
    working_dir: AnyText
    log: str
    max_log_bytes: int
    umask: int
    stdin: str | None = None
    setup: Setup | None = None


class HelloAsk(Struct, frozen=True, kw_only=True, tag_field="op", tag="hello"):
    """`hears`: messages beyond those of version 1 that the launcher may send unasked."""

    epoch: int
    instance: str
    version: int = VERSION
    hears: tuple[str, ...] = ("leaked",)


class ListAsk(Struct, frozen=True, kw_only=True, tag_field="op", tag="list"):
    """Ask for all runs that it holds, and for `run_ids`; the answer "unknown" is a promise never to start that run."""

    tag: int
    run_ids: tuple[str, ...] = ()


class SignalAsk(Struct, frozen=True, kw_only=True, tag_field="op", tag="signal"):
    tag: int
    run_id: str
    signal: int
    scope: Literal["tree", "main"] = "tree"


class Acknowledge(Struct, frozen=True, kw_only=True, tag_field="op", tag="ack"):
    run_ids: tuple[str, ...]


class OrphanLog(Struct, frozen=True, kw_only=True):
    """The log of a run whose launcher died, as in its order."""

    run_id: str
    log: str
    max_log_bytes: int


class ReadLogs(Struct, frozen=True, kw_only=True, tag_field="op", tag="read_logs"):
    """Read the output of these runs from now on. Not answered; may be repeated.

    Not one of the frozen five: only a launcher that this daemon itself started is sure to know it.
    """

    runs: tuple[OrphanLog, ...]


class SignalOrphans(Struct, frozen=True, kw_only=True, tag_field="op", tag="signal_orphans"):
    """Signal processes of a run whose launcher died, each by its pid and start time. Answered by Signalled.

    As ReadLogs, for a launcher that this daemon started.
    """

    tag: int
    run_id: str
    processes: tuple[tuple[int, int], ...]
    signal: int


Ask = HelloAsk | ListAsk | LaunchOrder | SignalAsk | Acknowledge | ReadLogs | SignalOrphans


# --- launcher to daemon -----------------------------------------------------------------------------------


class SpawnError(Struct, frozen=True, kw_only=True):
    """Why a command could not be executed. `transient`: another try may succeed (EAGAIN, ENOMEM, ...)."""

    errno: int
    error: str
    transient: bool = False


class Started(Struct, frozen=True, kw_only=True, tag_field="op", tag="started"):
    """The main process exists. `pidfs_inode` is None before Linux 6.9, `bounds` if no limit was asked for."""

    run_id: str
    pid: int
    start_ticks: int
    at_boot_ms: int
    at_ms: int
    pidfs_inode: int | None = None
    cgroup: str | None = None
    bounds: Bounds | None = None


class Exited(Struct, frozen=True, kw_only=True, tag_field="op", tag="exit"):
    """The main process was reaped, or could not be started (`spawn_error`).

    `declined`: it was not started, as the daemon that ordered it was gone before the launcher read the order; then
    `spawn_error` is set too, for daemons that do not know this field.
    `stopped`: a signal of ours to stop it was delivered before. `shutdown`: a signal of another sender killed it, after
    the launcher had got SIGTERM as well. `left`: processes of its tree that still live; if there are any, Gone follows.
    `user_ms`, `system_ms`, `max_rss_kib` cover the main process and the children that it waited for; the last is None
    if it is no larger than the launcher's own, which the kernel counts for a child until it executes its program.
    """

    run_id: str
    at_boot_ms: int
    at_ms: int
    exit_code: int | None = None
    signal: int | None = None
    spawn_error: SpawnError | None = None
    declined: bool = False
    stopped: bool = False
    shutdown: bool = False
    left: int = 0
    user_ms: int = 0
    system_ms: int = 0
    max_rss_kib: int | None = None
    log_bytes: int = 0
    oom: bool = False


class Gone(Struct, frozen=True, kw_only=True, tag_field="op", tag="gone"):
    """Follows an exit with processes left: now the tree is empty."""

    run_id: str


class Leaked(Struct, frozen=True, kw_only=True, tag_field="op", tag="leaked"):
    """`count`: children that belong to no known run. `stopped`: how many of these it has killed since the last time."""

    count: int
    stopped: int


class HelloRefusal(StrEnum):
    """Why it was refused. `log_exists`: the disk is ahead of the database. `instance` refuses a hello only."""

    EPOCH = "epoch"
    INSTANCE = "instance"
    TOMBSTONE = "tombstone"
    DUPLICATE = "duplicate"
    LOG_EXISTS = "log_exists"


class LaunchRefused(Struct, frozen=True, kw_only=True, tag_field="op", tag="refused"):
    """An order was refused, or without a run_id the hello."""

    why: HelloRefusal
    run_id: str | None = None
    error: str = ""


class Signalled(Struct, frozen=True, kw_only=True, tag_field="op", tag="signalled"):
    """`delivered`: it reached a process of the run before the main process was reaped, or one of those left after that.

    `refused`: pids of its tree that the kernel does not let the launcher signal.
    """

    run_id: str
    tag: int
    delivered: bool
    refused: list[int] = []


class Hello(Struct, frozen=True, kw_only=True, tag_field="op", tag="hello"):
    """The launcher introduces itself. `leaked`: its children that belong to no known run."""

    version: int
    launcher: str
    pid: int
    boot_id: str
    pid_namespace: int
    epoch: int
    leaked: int = 0


class RunState(StrEnum):
    """`closing`: the main process has ended, its tree has not. `unknown`: this launcher never starts it."""

    RUNNING = "running"
    CLOSING = "closing"
    ENDED = "ended"
    UNKNOWN = "unknown"


class ListedRun(Struct, frozen=True, kw_only=True):
    """One run of a launcher. `exit` is set from `closing` on; its `left` is the current number."""

    run_id: str
    state: RunState
    started: Started | None = None
    exit: Exited | None = None


class Listed(Struct, frozen=True, kw_only=True, tag_field="op", tag="list"):
    tag: int
    runs: list[ListedRun]
    leaked: int = 0


Answer = Hello | Leaked | Listed | Started | Exited | Gone | LaunchRefused | Signalled


# --- reports of the client itself --------------------------------------------------------------------------


class LauncherLost(Struct, frozen=True):
    """The connection ended: the launcher died, or another daemon took it. Requests without an answer are in doubt."""

    launcher: str


class LauncherStuck(Struct, frozen=True):
    """It has owed an answer for `stuck_ms`. It is not dead, and its attempts go on."""

    launcher: str


class LauncherBack(Struct, frozen=True):
    """A stuck launcher answers again."""

    launcher: str


LauncherReport = (
    Leaked | Started | Exited | Gone | LaunchRefused | Signalled | LauncherLost | LauncherStuck | LauncherBack
)
