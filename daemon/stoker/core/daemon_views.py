"""How queues, resources and the daemon itself are shown, for type checkers and editors. Never imported at run time.

Owns the answers of `queue.list`, `resource.list`, `system.status` and `system.health` as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from stoker.core.host_views import FilesView, HostView, PressureView, ShortageView
from stoker.core.rate_views import RateView, TokensView
from stoker.core.views import StaleCheckpoint


class OverflowView(TypedDict):
    """The queue of a cluster that takes jobs of a queue, and how many go now. `above`: beyond so many queued ones, too;
    None: only under pressure.
    """

    to: str
    above: int | None
    jobs_now: int


QueueView = TypedDict(
    "QueueView",
    {
        "name": str,
        "class": str,
        "max_running": int | None,
        "min_running": int | None,
        "backend": str | None,
        "backend_away": str | None,
        "overflow": OverflowView | None,
        "narrowed_to": int | None,
        "max_queued": int | None,
        "rate": TokensView | None,
        "paused": bool,
        "throttled": bool,
        "defaults": dict[str, Any],
        "queued": int,
        "waiting": int,
        "held": int,
        "running": int,
    },
)
"""A queue with its settings and the numbers of its jobs. `backend_away`: why its backend does not answer.
`narrowed_to`: its limit while the host is under pressure.
"""


class ResourceView(TypedDict):
    """`holders`: the jobs whose open attempts hold some of it."""

    name: str
    capacity: int
    used: int
    holders: list[int]


class QueueChanged(TypedDict):
    name: str


class QueueRoom(QueueChanged):
    """How many more jobs the queue accepts."""

    places: int


class QueuePaused(QueueChanged):
    paused: bool


class ResourceChanged(TypedDict):
    name: str
    capacity: int


class QueueList(TypedDict):
    queues: list[QueueView]


class ResourceList(TypedDict):
    resources: list[ResourceView]


class LauncherView(TypedDict):
    id: str
    pid: int | None
    state: Literal["ok", "stuck"]
    running: int
    leaked: int


class DiskView(TypedDict):
    free_bytes: int
    full: bool


class UsageView(TypedDict):
    """Bytes by kind. Logs, checkpoints and archives are as at `measured_at`; None before that."""

    database_bytes: int
    database_free_bytes: int
    database_shrinks: bool
    wal_bytes: int
    log_bytes: int | None
    checkpoint_bytes: int | None
    archive_bytes: int | None
    measured_at: int | None


class TimeOffView(TypedDict):
    """A time (wall clock) in which the host was off. It does not count in the age of what ended before it."""

    begin: int
    end: int


class BackupView(TypedDict):
    """A backup that ends with change `seq`. `before_migration`: of that number, for which it is kept."""

    path: str
    at: int
    seq: int
    bytes: int
    before_migration: int | None


class BackupProgress(TypedDict):
    """How far a backup is; `backup` is there once it is complete."""

    done_bytes: int
    of_bytes: int
    backup: BackupView | None


class BackupList(TypedDict):
    """The backups in the state directory, newest first."""

    directory: str
    backups: list[BackupView]


class RestoreView(TypedDict):
    """A restore, or what it would do. `held` jobs wait for a person, `queued_again` are safe and start.

    `backup`: the file of a backup, or the directory of the journal. `lost_changes`: how many known changes are newer
    than the result; None if nothing is known of the old state. `remarks`: what was left out, and why.
    """

    state_dir: str
    backup: str
    instance: str
    schema: int
    seq: int
    lost_changes: int | None
    jobs: int
    held: int
    queued_again: int
    running: int
    remarks: list[str]
    old_state: str | None


class JournalAuditView(TypedDict):
    """The journal, up to change `last`. `broken`: what is wrong behind its first `lines` lines."""

    path: str
    lines: int
    last: int
    broken: str | None


class AuditView(TypedDict):
    """The log of changes from `first` to `last`, whose hash is `head`. `broken`: what is wrong behind `last`."""

    ok: bool
    path: str
    first: int
    last: int
    changes: int
    head: str
    broken: str | None
    journal: JournalAuditView | None


class FindingView(TypedDict):
    """A finding of a check of `stoker doctor`; `remedy`: the next command."""

    severity: Literal["error", "warning", "note"]
    message: str
    remedy: str


class CheckView(TypedDict):
    """One check. `why_not`: why it was not made. `more`: how many further findings are not listed."""

    group: str
    name: str
    meaning: str
    result: Literal["ok", "found", "not made"]
    why_not: str | None
    findings: list[FindingView]
    more: int


class RepairView(TypedDict):
    """The repair of what a check found; `what` lists what was changed, if it was made."""

    check: str
    what: list[str]


class DoctorView(TypedDict):
    """`ok`: there are neither errors nor warnings. The numbers count all findings, also those that are not listed.

    `repairs`: those that were asked for; with --yes the checks were made after them. `kept_in`: the directory with what
    they replaced and moved.
    """

    ok: bool
    state_dir: str
    daemon_runs: bool
    errors: int
    warnings: int
    notes: int
    checks: list[CheckView]
    repairs: list[RepairView]
    kept_in: str | None


class BackupStatus(TypedDict):
    """`every_ms`: how often one is made, None for never. `error`: why the last one failed, if it did."""

    newest: BackupView | None
    count: int
    bytes: int
    every_ms: int | None
    error: str | None


class JournalStatus(TypedDict):
    """`seq`: the newest change in the files, written `at`. `behind`: later changes wait to be written; `error`: why it
    cannot be written.

    `given_up`: it is not continued; a new chain, of all rows, begins once it can be written.
    """

    enabled: bool
    files: int
    bytes: int
    keep_bytes: int
    seq: int
    at: int | None
    behind: bool
    given_up: bool
    error: str | None


class EngineStatus(TypedDict):
    """The part of `system.status` about jobs; `memory`: numbers of objects in memory."""

    mode: str
    safe_mode: str | None
    safe_mode_next: str | None
    max_running: int
    running: int
    queued: int
    waiting: int
    held: int
    queues: list[QueueView]
    resources: list[ResourceView]
    rates: list[RateView]
    memory: dict[str, int]
    slow_turns: int
    slow_callbacks: int
    pressure: PressureView
    host: HostView
    files: FilesView
    strategies: list[str]
    launchers: list[LauncherView]
    host_shortage: ShortageView | None
    history: str
    last_seq: int


RecoveryCount = Literal["settled", "adopted", "stopped", "requeued", "failed", "held", "swept"]


class RecoveryStatus(TypedDict):
    """The recovery of the last start. `requeued failed held`: jobs after unseen ends; `swept`: leaked processes.

    The other numbers count attempts.
    """

    epoch: int
    started_at: int
    finished_at: int | None
    took_ms: int | None
    settled: int
    adopted: int
    stopped: int
    requeued: int
    failed: int
    held: int
    unseen: int
    stuck: int
    swept: int


class ProcessStatus(TypedDict):
    """The part of `system.status` about the daemon as a process."""

    version: str
    pid: int
    uptime_ms: int
    instance: str
    epoch: int
    schema: int
    state_dir: str
    socket: str
    connections: int
    recovery: RecoveryStatus
    log_lines_lost: int
    retrying: dict[str, str]
    disk: DiskView


class StatusView(EngineStatus, ProcessStatus):
    """The state of the daemon."""

    usage: UsageView
    retention_off: TimeOffView | None
    backups: BackupStatus
    journal: JournalStatus
    stale_checkpoints: list[StaleCheckpoint]


class SettingsView(TypedDict):
    """The settings in force, by section, and how those of `file` and the environment differ.

    `reload`: the settings that a reload would change; `restart`: those that need one; `mistakes`: why neither works.
    """

    file: str | None
    in_force: dict[str, Any]
    reload: list[str]
    restart: list[str]
    mistakes: list[str]


class HealthView(TypedDict):
    """`checks`: by name, "ok" or the error."""

    ok: bool
    checks: dict[str, str]


class ReloadedView(TypedDict):
    """The settings that changed, as `section.key`, and those that are in force only after a restart."""

    changed: list[str]
    restart: list[str]


class DrainBegun(TypedDict):
    """The daemon waits `timeout_ms` for the end of `waits_for` running jobs; it leaves all others as they are."""

    draining: bool
    waits_for: int
    timeout_ms: int


class PurgeTotals(TypedDict):
    """The numbers that were removed, or would be.

    `needed`: jobs and workflows that stay, as an open job or a schedule needs them.
    """

    jobs: int
    workflows: int
    steps: int
    changes: int
    needed: int


class Purged(PurgeTotals):
    """`more`: the same call goes on with the rest."""

    more: bool


class PurgePreview(PurgeTotals):
    """The answer to a dry run; bytes as they are on the disk."""

    log_bytes: int
    checkpoint_bytes: int
