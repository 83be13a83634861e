"""Every setting of the daemon: its section, key, type, bounds, default and one line of help.

Owns the closed list of settings as nested frozen Structs. The help of a key stands in its Meta and nowhere else, so
`config/stoker.toml`, `stoker config show` and the messages about mistakes cannot disagree. Refuses files and
environment: those belong to loading.py.

Invariants: the defaults are within their own bounds; durations are milliseconds; an UNSET key of a queue's section
leaves the stored value alone. Annotations are evaluated (no `from __future__`), as msgspec reads them.
"""

import os
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from stoker.config.access_section import AccessSettings
from stoker.config.cluster_section import ClusterSettings, SlurmSection
from stoker.config.privacy_section import PrivacySettings
from stoker.config.quota_section import QuotaSection, QuotaSettings
from stoker.config.run_as_section import RunAsSettings
from stoker.config.section import Section, aged, between, says
from stoker.config.throttle_section import CpuSettings, MemorySettings, PsiSettings, ThrottleSettings
from stoker.core.cluster import ClusterOptions
from stoker.core.hooks import Hook
from stoker.core.host_state import IdlePolicy
from stoker.core.job.model import Queue, QueueClass
from stoker.core.overflow import OverflowRule
from stoker.core.rate import Rate, changed, read_rate
from stoker.core.requests import MAX_DURATION_MS, MAX_INT, JobDefaults
from stoker.core.schedule.request import ScheduleParams
from stoker.core.throttle import Band, Gauge, ThrottlePolicy
from stoker.core.units import PERIOD

MILLION: Final = 1_000_000
GIB: Final = 1 << 30
TIB: Final = 1 << 40
# The kernel's PSI averages are smooth already; resuming at this share of the limit keeps them from flapping.
PSI_RESUME_SHARE: Final = 0.8

Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", title="names of environment variables")]
Module = Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z", title="names of Python modules")]

ENV_ALLOW: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")


class DaemonSettings(Section, frozen=True):
    """The daemon as a whole."""

    max_running: Annotated[int, between(0, 100_000, "most jobs that run at once; 0 = twice the CPUs")] = 0
    drain_timeout_ms: Annotated[
        int, between(0, MAX_DURATION_MS, "how long a drain (SIGTERM) lets running jobs go on before it stops them")
    ] = 60_000
    path: Annotated[str, says('PATH of workers; "" = PATH of the daemon')] = ""
    env_allow: Annotated[tuple[Variable, ...], says("variables that workers get from the daemon's environment")] = (
        ENV_ALLOW
    )
    handlers: Annotated[tuple[Module, ...], says("Python modules to load: in-process handlers, resume strategies")] = ()

    @property
    def slots(self) -> int:
        """How many jobs may run at once on this machine."""
        return self.max_running or 2 * len(os.sched_getaffinity(0))


class RetrySettings(Section, frozen=True):
    """Retries of a job, unless the job or its queue sets its own."""

    base_delay_ms: Annotated[int, between(0, MAX_DURATION_MS, "delay before the first retry")] = 1_000
    backoff_factor: Annotated[float, between(1, 1_000, "each further delay is this many times longer")] = 2.0
    max_delay_ms: Annotated[int, between(0, MAX_DURATION_MS, "longest delay")] = 3_600_000


class RecoverySettings(Section, frozen=True):
    """The recovery of attempts that an earlier daemon left unfinished."""

    timeout_ms: Annotated[
        int,
        between(
            1_000, MAX_DURATION_MS, "a longer recovery is given up: the daemon enters safe mode and starts nothing"
        ),
    ] = 300_000
    survive: Annotated[bool, says("workers outlive the daemon, unless the job or its queue says otherwise")] = False
    max_orphanings: Annotated[int, between(1, MILLION, "after this many unseen ends a job is held as poison")] = 3
    window_ms: Annotated[
        int, between(1_000, MAX_DURATION_MS, "how long a cluster may not know a job that began before it is held")
    ] = 300_000


class IdleSettings(Section, frozen=True):
    """When the host is idle, for jobs that wait for that (--wait-for idle)."""

    cpu_percent: Annotated[float, between(0, 100, "percent of all CPUs below which they are idle")] = 20.0
    for_ms: Annotated[int, between(0, MAX_DURATION_MS, "the host is idle after this long without load or input")] = (
        60_000
    )
    input: Annotated[
        bool, says("also wait until logind reports that the sessions are unused; needs the extra stoker[desktop]")
    ] = True


class LauncherSettings(Section, frozen=True):
    """The launcher: the process that is the parent of all workers."""

    stuck_ms: Annotated[
        int,
        between(1_000, MAX_DURATION_MS, "a launcher that is silent for longer is stuck, and new jobs get another one"),
    ] = 5_000


class CgroupSettings(Section, frozen=True):
    """Where each attempt gets a control group of its own."""

    root: Annotated[
        str,
        Meta(
            pattern=r"^(|off|/.*)$",
            title='"", "off" or an absolute path',
            description='directory of a cgroup v2; "" = the one delegated to the daemon, "off" = no cgroups',
        ),
    ] = ""


class RpcSettings(Section, frozen=True):
    """The socket that clients talk to."""

    max_connections: Annotated[int, between(1, 65_536, "open connections of all users")] = 8192
    max_connections_per_uid: Annotated[int, between(1, 65_536, "open connections of one user")] = 4096
    frame_timeout_ms: Annotated[int, between(100, 3_600_000, "a request must be complete in this time")] = 10_000


class JobsSettings(Section, frozen=True):
    """Every job, unless the job or its queue sets its own."""

    grace_ms: Annotated[int, between(0, MAX_DURATION_MS, "time between SIGTERM and SIGKILL")] = 10_000
    max_log_bytes: Annotated[
        int, between(4_096, TIB, "most bytes of an attempt's log; a longer log keeps its head and tail")
    ] = 67_108_864
    ageing_ms: Annotated[
        int, between(0, MAX_DURATION_MS, "waiting this long raises the priority by one; 0 = never")
    ] = 60_000
    max_queued: Annotated[int, between(0, MAX_INT, "most jobs of all queues that have not started; 0 = no limit")] = 0


class CheckpointSettings(Section, frozen=True):
    """Checkpoints that jobs save while they run."""

    min_interval_ms: Annotated[
        int,
        between(0, MAX_DURATION_MS, "shortest time between two saves of an attempt, which tries again; 0 = no limit"),
    ] = 0


class WorkflowSettings(Section, frozen=True):
    """Workflows that are resumed, and those that seem to stand still."""

    resume_timeout_ms: Annotated[
        int,
        between(1, MAX_DURATION_MS, "a resume that takes longer to check its steps is given up and changes nothing"),
    ] = 300_000
    stale_ms: Annotated[
        int,
        between(1, MAX_DURATION_MS, "age from which the newest checkpoint of a running attempt is reported as stale"),
    ] = 1_800_000


class LogSettings(Section, frozen=True):
    """The daemon's own log, on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], says("lowest severity that is logged")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], says("auto = console on a terminal, else one JSON object per line")
    ] = "auto"


class OtelSettings(Section, frozen=True):
    """OpenTelemetry: traces and metrics."""

    exporter: Annotated[
        Literal["none", "otlp", "console"], says("where traces and metrics go; otlp needs the extra stoker[otlp]")
    ] = "none"
    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(|https?://\S+)$",
            title='"" or an http(s) URL',
            description='base URL of the collector; "" = the exporter\'s default and OTEL_ variables',
        ),
    ] = ""
    prometheus_port: Annotated[
        int, between(0, 65_535, "serve metrics on this local port; 0 = off; needs the extra stoker[prometheus]")
    ] = 0


class DiskSettings(Section, frozen=True):
    """Free space on the file system of the state directory."""

    min_free_bytes: Annotated[int, between(0, TIB, "with less free space, submits are refused")] = 67_108_864
    reserve_bytes: Annotated[
        int, between(0, TIB, "kept in reserve to record outcomes on a full disk; 0 = no reserve")
    ] = 8_388_608


class RetentionSettings(Section, frozen=True):
    """How long ended jobs and workflows are kept. A time is a number with ms, s, m, h or d, or "forever"."""

    keep: Annotated[str, aged("ended jobs and workflows stay this long, with their logs and checkpoints")] = "30d"
    keep_failed: Annotated[str, aged("those that failed stay this long")] = "30d"
    keep_last: Annotated[
        int, between(0, MILLION, "the newest ended jobs of each queue, and workflows, that stay however old they are")
    ] = 1_000
    keep_changes: Annotated[str, aged("entries of the log of changes (stoker history, stoker watch) stay")] = "30d"
    keep_archives: Annotated[str, aged("archives of failed workflows stay")] = "30d"
    keep_keys: Annotated[str, aged("idempotency keys stay after their job was removed")] = "30d"
    every_ms: Annotated[int, between(100, MAX_DURATION_MS, "how often older data is removed")] = 3_600_000


class BackupSettings(Section, frozen=True):
    """Backups of the database, in the directory `backups` of the state directory."""

    every: Annotated[
        str,
        Meta(
            pattern=PERIOD,
            title='a time such as "6h", or "never"',
            description='how often a backup is made; "never" = only before migrations, and with `stoker backup`',
        ),
    ] = "6h"
    keep: Annotated[int, between(1, 100_000, "the newest backups that stay; those before migrations stay as well")] = (
        100
    )
    keep_bytes: Annotated[int, between(0, TIB, "bytes of backups that stay; the newest one always does")] = 10 * GIB


class JournalSettings(Section, frozen=True):
    """The journal: every change as a line of text, in the directory `journal` of the state directory."""

    enabled: Annotated[bool, says("keep a journal, from which the database can be rebuilt")] = True
    keep_bytes: Annotated[
        int, between(0, TIB, "bytes of journal that stay; older files go once a newer backup replaces them")
    ] = GIB


class KeepSection(Section, frozen=True):
    """Other times for the jobs of one queue, or for the workflows of one name."""

    keep: Annotated[str, aged("ended ones stay this long")] | UnsetType = UNSET
    keep_failed: Annotated[str, aged("failed ones stay this long")] | UnsetType = UNSET
    keep_last: Annotated[int, between(0, MILLION, "the newest that stay however old they are")] | UnsetType = UNSET


class QueueSection(Section, frozen=True):
    """A queue declared in the file. Keys that it leaves out keep the values set with `stoker queue set`."""

    queue_class: (
        Annotated[QueueClass, says("high, normal or low; throttling pauses queues of class low")] | UnsetType
    ) = field(default=UNSET, name="class")
    max_running: Annotated[int, between(0, 100_000, "most jobs of the queue that run at once")] | UnsetType = UNSET
    min_running: Annotated[int, between(1, MILLION, "under pressure fewer run, but at least this many")] | UnsetType = (
        UNSET
    )
    max_queued: Annotated[int, between(0, MAX_INT, "most jobs of the queue that have not started")] | UnsetType = UNSET
    rate: Annotated[str, says("how many of its jobs may start in a time: 100/m")] | UnsetType = UNSET
    burst: Annotated[int, between(1, MILLION, "how many may start at once after a pause")] | UnsetType = UNSET
    paused: Annotated[bool, says("start no jobs of the queue")] | UnsetType = UNSET
    defaults: Annotated[JobDefaults, says("values that its jobs get unless they set their own")] | UnsetType = UNSET
    overflow: Annotated[str, says("queue with a backend that takes jobs which this host cannot start soon")] | None = (
        None
    )
    overflow_above: Annotated[int, between(0, MAX_INT, "jobs beyond so many queued ones go there, too")] | None = None
    backend: Annotated[Literal["slurm"] | None, says("hand its jobs to the engine of a cluster")] = None
    slurm: Annotated[SlurmSection, says("what its jobs ask Slurm for")] = SlurmSection()

    def over(self, queue: Queue) -> Queue:
        """`queue` with the values that this section sets; start from `Queue(name=...)` for a new one."""
        values = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        for key in ("backend", "slurm", "overflow", "overflow_above"):  # an administrator's affair: never stored
            del values[key]
        if self.defaults is not UNSET:
            values["defaults"] = msgspec.json.decode(msgspec.json.encode(self.defaults))
        if "rate" in values or "burst" in values:
            values["rate"] = changed(queue.rate, values.pop("rate", UNSET), values.pop("burst", UNSET))
        return msgspec.structs.replace(queue, **values)


class RateSection(Section, frozen=True):
    """The rate of a key. A key that the file no longer has keeps its rate until `stoker rate rm`."""

    rate: Annotated[str, says("how many jobs with this key may start in a time: 10/s")]
    burst: Annotated[int, between(1, MILLION, "how many may start at once after a pause")] = 1

    def rate_of_key(self) -> Rate:
        return read_rate(self.rate, self.burst)


class Config(Struct, frozen=True, kw_only=True, dict=True):
    """All settings. Every field is a section of the file of the same name, or a table of sections."""

    daemon: DaemonSettings = DaemonSettings()
    retry: RetrySettings = RetrySettings()
    recovery: RecoverySettings = RecoverySettings()
    cpu: CpuSettings = CpuSettings()
    memory: MemorySettings = MemorySettings()
    psi: PsiSettings = PsiSettings()
    throttle: ThrottleSettings = ThrottleSettings()
    idle: IdleSettings = IdleSettings()
    launcher: LauncherSettings = LauncherSettings()
    cgroup: CgroupSettings = CgroupSettings()
    cluster: ClusterSettings = ClusterSettings()
    rpc: RpcSettings = RpcSettings()
    access: AccessSettings = AccessSettings()
    quotas: QuotaSettings = QuotaSettings()
    run_as: RunAsSettings = RunAsSettings()
    privacy: PrivacySettings = PrivacySettings()
    jobs: JobsSettings = JobsSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    workflows: WorkflowSettings = WorkflowSettings()
    log: LogSettings = LogSettings()
    otel: OtelSettings = OtelSettings()
    disk: DiskSettings = DiskSettings()
    retention: RetentionSettings = RetentionSettings()
    backup: BackupSettings = BackupSettings()
    journal: JournalSettings = JournalSettings()
    retention_queues: dict[str, KeepSection] = field(default_factory=dict)
    retention_workflows: dict[str, KeepSection] = field(default_factory=dict)
    quotas_users: dict[str, QuotaSection] = field(default_factory=dict)
    queues: dict[str, QueueSection] = field(default_factory=dict)
    rates: dict[str, RateSection] = field(default_factory=dict)
    schedules: dict[str, ScheduleParams] = field(default_factory=dict)
    hooks: dict[str, Hook] = field(default_factory=dict)

    @cached_property
    def overflows(self) -> dict[str, OverflowRule]:
        """The queues of this host that overflow to one of a cluster."""
        rules = {name: (queue.overflow, queue.overflow_above) for name, queue in self.queues.items()}
        return {name: OverflowRule(to, above) for name, (to, above) in rules.items() if to is not None}

    @cached_property
    def backends(self) -> dict[str, ClusterOptions]:
        """The queues whose jobs go to a cluster, with what these ask its engine for."""
        return {name: queue.slurm.options() for name, queue in self.queues.items() if queue.backend is not None}

    def job_defaults(self) -> dict[str, Any]:
        """Values for fields of a spec that neither the job nor its queue sets."""
        return {
            "working_dir": "/",
            "base_delay_ms": self.retry.base_delay_ms,
            "backoff_factor": self.retry.backoff_factor,
            "max_delay_ms": self.retry.max_delay_ms,
            "max_orphanings": self.recovery.max_orphanings,
            "survive": self.recovery.survive,
            "grace_ms": self.jobs.grace_ms,
            "max_log_bytes": self.jobs.max_log_bytes,
        }

    def idle_policy(self) -> IdlePolicy:
        """As core/host_state.py takes it."""
        return IdlePolicy(cpu_percent=self.idle.cpu_percent, for_ms=self.idle.for_ms, input=self.idle.input)

    def throttle_policy(self) -> ThrottlePolicy:
        """The thresholds as core/throttle.py takes them."""
        bands = {
            Gauge.CPU: Band(self.cpu.throttle_threshold, self.cpu.resume_threshold),
            Gauge.MEMORY: Band(self.memory.throttle_threshold, self.memory.resume_threshold),
        }
        for gauge in (Gauge.CPU_SOME, Gauge.IO_FULL, Gauge.MEMORY_FULL):
            if limit := getattr(self.psi, gauge.value):
                bands[gauge] = Band(limit, limit * PSI_RESUME_SHARE)
        return ThrottlePolicy(bands=bands, smoothing=self.cpu.smoothing)


SECTIONS: Final[dict[str, type[Section]]] = {
    section.name: section.type
    for section in msgspec.structs.fields(Config)
    if isinstance(section.type, type) and issubclass(section.type, Section)
}
