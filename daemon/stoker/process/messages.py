"""What the daemon and a launcher say to each other: version 1 of the launcher's contract, as frozen values.

Owns the shape of every message on the socket and of every line in `outcomes/*.log`. Refuses I/O and
judgement: what an exit means for a job is the engine's business.

Invariants: `hello list launch signal ack` never change at version 1, so any later daemon can run an older
launcher empty; everything is matched by run_id. `at_boot_ms` is CLOCK_BOOTTIME of the launcher's boot,
`at_ms` the same instant as UTC epoch milliseconds, for readers on another boot.
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


class User(Struct, frozen=True, kw_only=True):
    """Whom a worker runs as: numbers only, `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Setup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must be in force before a worker's first instruction; asking for any of it costs a real fork.

    `cgroup` is the absolute path of an existing leaf of this run alone: SIGKILL goes to all that is in it. A leaf that
    bounds nothing need not be joined from birth: without anything else to set up, no fork is paid for it.
    `limits` become rlimits; `leaf_limits` are what the leaf enforces already, only to be told again in Started.
    """

    limits: Limits | None = None
    leaf_limits: Limits | None = None
    nice: int = 0
    cgroup: str | None = None
    born_inside: bool = True
    user: User | None = None


class LaunchOrder(Struct, frozen=True, kw_only=True, tag_field="op", tag="launch"):
    """Start one run. `argv[0]` is searched along the PATH of `env`, relative to `working_dir`.

    `env` is the worker's whole environment, `umask` its file mode creation mask (umask(2)); `log` is absolute and must
    not exist yet; `epoch` is the daemon's, and the launcher refuses one older than any it has seen. Bytes that are no
    UTF-8 stand as `{"base64": "…"}`.
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
    """`hears`: what a launcher may say unasked besides what is frozen at version 1."""

    epoch: int
    instance: str
    version: int = VERSION
    hears: tuple[str, ...] = ("leaked",)


class ListAsk(Struct, frozen=True, kw_only=True, tag_field="op", tag="list"):
    """All runs the launcher holds, and an answer for each of `run_ids`; "unknown" is a promise never to start it."""

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
    """The log of a run whose launcher died, as it was ordered."""

    run_id: str
    log: str
    max_log_bytes: int


class ReadLogs(Struct, frozen=True, kw_only=True, tag_field="op", tag="read_logs"):
    """Read on what these runs write. Never answered; asking again is harmless.

    No part of the frozen five: only a launcher that this daemon started itself is sure to know it.
    """

    runs: tuple[OrphanLog, ...]


Ask = HelloAsk | ListAsk | LaunchOrder | SignalAsk | Acknowledge | ReadLogs


# --- launcher to daemon -----------------------------------------------------------------------------------


class SpawnError(Struct, frozen=True, kw_only=True):
    """Why a command could not be executed. `transient` only where trying again can help (EAGAIN, ENOMEM, ...)."""

    errno: int
    error: str
    transient: bool = False


class Started(Struct, frozen=True, kw_only=True, tag_field="op", tag="started"):
    """The main process exists. `pidfs_inode` is None on kernels before 6.9, `bounds` where no limit was asked for."""

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

    `declined`: nothing was started, as the daemon that ordered it had gone before the launcher came to the order; its
    `spawn_error` is for daemons that do not know this word.
    `stopped`: a stopping signal of ours was delivered before. `shutdown`: one of somebody else killed it, after the
    launcher had been told to end as well. `left`: processes of its tree that still live; when it is not 0, Gone
    follows. `user_ms`, `system_ms`, `max_rss_kib` cover the main process and what it waited for; the last is None where
    it was no more than the launcher's own, which the kernel counts for a child that has not executed its program yet.
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
    """Only after an exit with something left: now the tree is empty."""

    run_id: str


class Leaked(Struct, frozen=True, kw_only=True, tag_field="op", tag="leaked"):
    """`count` of its children belong to a run that nobody can tell; `stopped`: so many ended by its SIGKILL since."""

    count: int
    stopped: int


class HelloRefusal(StrEnum):
    """Why nothing was started. `log_exists`: the disk is ahead of the database. `instance` meets a hello only."""

    EPOCH = "epoch"
    INSTANCE = "instance"
    TOMBSTONE = "tombstone"
    DUPLICATE = "duplicate"
    LOG_EXISTS = "log_exists"


class LaunchRefused(Struct, frozen=True, kw_only=True, tag_field="op", tag="refused"):
    """Nothing was started; without a run_id it is the hello that was refused."""

    why: HelloRefusal
    run_id: str | None = None
    error: str = ""


class Signalled(Struct, frozen=True, kw_only=True, tag_field="op", tag="signalled"):
    """`delivered`: it reached somebody before the exit (or, after that, of what was left).

    `refused`: pids of its tree that the kernel does not let the launcher signal.
    """

    run_id: str
    tag: int
    delivered: bool
    refused: list[int] = []


class Hello(Struct, frozen=True, kw_only=True, tag_field="op", tag="hello"):
    """Who the launcher is. `leaked`: processes it inherited that no run can be shown to own."""

    version: int
    launcher: str
    pid: int
    boot_id: str
    pid_namespace: int
    epoch: int
    leaked: int = 0


class RunState(StrEnum):
    """`closing`: the main process has ended, its tree has not. `unknown`: never started here, and never will be."""

    RUNNING = "running"
    CLOSING = "closing"
    ENDED = "ended"
    UNKNOWN = "unknown"


class ListedRun(Struct, frozen=True, kw_only=True):
    """What a launcher holds of one run. `exit` is there from `closing` on, its `left` as of now."""

    run_id: str
    state: RunState
    started: Started | None = None
    exit: Exited | None = None


class Listed(Struct, frozen=True, kw_only=True, tag_field="op", tag="list"):
    tag: int
    runs: list[ListedRun]
    leaked: int = 0


Answer = Hello | Leaked | Listed | Started | Exited | Gone | LaunchRefused | Signalled


# --- what the client itself tells -------------------------------------------------------------------------


class LauncherLost(Struct, frozen=True):
    """The connection ended: dead, replaced, or refused us. What it was asked since its last answer is in doubt."""

    launcher: str


class LauncherStuck(Struct, frozen=True):
    """It owes an answer and has been silent for `stuck_ms`: not dead, its attempts are still running."""

    launcher: str


class LauncherBack(Struct, frozen=True):
    """A stuck launcher spoke again."""

    launcher: str


LauncherReport = (
    Leaked | Started | Exited | Gone | LaunchRefused | Signalled | LauncherLost | LauncherStuck | LauncherBack
)
