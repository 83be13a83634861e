"""The nouns of Stoker as frozen values: Spec, Job, Attempt, Queue, Resource, Change.

Owns the closed lists (states, reasons, modes) and the shape of the rows in the store. Times are integer UTC
milliseconds (`*_at`) or milliseconds of duration (`*_ms`).

Invariants: a Spec holds all that was asked; a Job adds only its state; one with an open Attempt is `running` or `held`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field

from stoker.core.job.conditions import Tree
from stoker.core.job.limits import NO_LIMITS, Bounds, Limits
from stoker.core.job.run_if import RunIf
from stoker.core.job.taken_over import FileHashes, TakenOver
from stoker.core.rate import KEY_PREFIX, Rate
from stoker.core.raw_bytes import AnyText


class State(StrEnum):
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED, State.SUPERSEDED, State.SKIPPED})


class Reason(StrEnum):
    """Why a job is final or held: a closed list."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    TTL = "ttl"
    OOM = "oom"
    UNRESPONSIVE = "unresponsive"
    ORPHANED = "orphaned"
    LOST = "lost"
    STUCK = "stuck"
    POISON = "poison"
    SPAWN_ERROR = "spawn_error"
    USER = "user"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    DEPENDENCY = "dependency"
    NOT_NEEDED = "not_needed"
    OUTPUT = "output"
    CONDITION = "condition"
    SHUTDOWN = "shutdown"
    RESTORED = "restored"
    DAMAGED = "damaged"
    REUSED = "reused"
    SECRETS = "secrets"


class StopReason(StrEnum):
    """Why an attempt is stopped; the first reason wins and is committed before the first signal."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"
    UNRESPONSIVE = "unresponsive"
    ORPHANED = "orphaned"
    RESTART = "restart"
    ABORTED = "aborted"


class OnOrphan(StrEnum):
    """The consequence of an unseen end for the job; `requeue` marks it safe."""

    FAIL = "fail"
    REQUEUE = "requeue"
    HOLD = "hold"


class ExecutionMode(StrEnum):
    SUBPROCESS = "subprocess"
    IN_PROCESS = "in_process"
    CLUSTER = "cluster"  # given by the queue, never asked for


class SupersedeRunning(StrEnum):
    """Whether a newer job of the same `supersede_key` stops the one that runs; it starts after the end of that one."""

    FINISH = "finish"
    STOP = "stop"


class QueueClass(StrEnum):
    """The order in which queues are served; the throttle pauses `low`."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class NeedOn(StrEnum):
    """The end of the needed job that meets the need."""

    OK = "ok"
    FAILED = "failed"
    ANY = "any"


class When(StrEnum):
    """How the needs of a step decide together: each as its `on` says, or at least one of the whole set."""

    EACH = "each"
    ANY_OK = "any_ok"
    ANY_FAILED = "any_failed"


class Need(Struct, frozen=True, gc=False):
    job: int
    on: NeedOn = NeedOn.OK


class Spec(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job as it was requested, with every default filled in. Later only a person changes it (edit, retry).

    The log of changes leaves out what is as below: these defaults are part of the file format and never change.
    """

    command: AnyText
    working_dir: AnyText
    args: tuple[AnyText, ...] = ()
    env: dict[str, AnyText] = field(default_factory=dict)
    stdin: str | None = None
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    execution_mode: ExecutionMode = ExecutionMode.SUBPROCESS
    max_attempts: int = 1
    base_delay_ms: int = 1_000
    backoff_factor: float = 2.0
    max_delay_ms: int = 3_600_000
    success_exit_codes: tuple[int, ...] = (0,)
    no_retry_exit_codes: tuple[int, ...] = ()
    checkpoint_exit_code: int | None = None
    ttl_ms: int | None = None
    deadline: int | None = None
    timeout_ms: int | None = None
    grace_ms: int = 10_000
    warn_signal: int | None = None
    warn_before_ms: int = 0
    notify: bool = False
    heartbeat_ms: int | None = None
    unresponsive_warn_ms: int = 30_000
    unresponsive_kill_ms: int = 180_000
    run_at: int | None = None
    needs: tuple[Need, ...] = ()
    # None, as of a single job: each as its `on` says, and a need that was skipped did not fail
    when: When | None = None
    run_if: RunIf | None = None  # of a step: decided once its needs have ended, before it is queued
    wait_for: Tree | None = None
    on_orphan: OnOrphan = OnOrphan.FAIL
    max_orphanings: int = 3
    survive: bool = False
    resources: dict[str, int] = field(default_factory=dict)
    rate_key: str | None = None
    limits: Limits = NO_LIMITS
    nice: int = 0
    umask: int | None = None  # None: the one that the daemon was started with
    supersede_key: str | None = None
    supersede_running: SupersedeRunning = SupersedeRunning.FINISH
    debounce_ms: int = 0
    debounce_max_ms: int | None = None  # of all jobs of its key together; None: ten times debounce_ms
    max_log_bytes: int = 64 * 1024 * 1024
    traceparent: str | None = None
    schedule: str | None = None  # the schedule that submitted it, and the time that its run is for (UTC ms)
    scheduled_for: int | None = None
    hook: str | None = None  # the hook that submitted it, the number of the change, and the JSON that its command gets
    hook_change: int | None = None
    hook_data: dict[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # patterns of files that it reads, relative to its directory
    produces: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()  # their names, sorted
    reused: TakenOver | None = None  # the end that it takes over instead of running, until a person runs it again

    @property
    def demands(self) -> dict[str, int]:
        """All that it must get to start: its resources, and a token of its `rate_key`."""
        return self.resources if self.rate_key is None else {**self.resources, f"{KEY_PREFIX}{self.rate_key}": 1}

    @property
    def submitter(self) -> str | None:
        """The schedule or hook that submitted it, in words; None if a client did."""
        if self.hook is not None:
            return f"hook {self.hook}" + ("" if self.hook_change is None else f", change {self.hook_change}")
        return None if self.schedule is None else f"schedule {self.schedule}"

    @property
    def safe(self) -> bool:
        """Whether it may be started again after an unseen end."""
        return self.on_orphan is OnOrphan.REQUEUE

    @property
    def outlives_daemon(self) -> bool:
        """Whether a worker goes on when the daemon ends."""
        return self.survive or self.execution_mode is ExecutionMode.CLUSTER

    @property
    def has_notify_socket(self) -> bool:
        """Whether its worker gets a socket for reports (`NOTIFY_SOCKET`)."""
        return self.notify or self.heartbeat_ms is not None


class Job(Struct, frozen=True, kw_only=True, gc=False):
    """One row of `jobs`: a Spec and its current state."""

    id: int
    spec: Spec
    spec_hash: bytes
    owner_uid: int
    trace_id: str
    state: State
    reason: Reason | None = None
    attempts: int = 0
    failures: int = 0
    orphanings: int = 0
    needs_open: int = 0
    conditions_open: int = 0  # bit n: condition n of `wait_for`
    undecided: bool = False  # its `if` is still to be decided
    not_needed: bool = False  # so ended one of its needs, while others are open
    wake_at: int | None = None
    expires_at: int | None = None
    order_key: int = 0
    pid: int | None = None
    created_at: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    workflow_id: int | None = None
    step: str | None = None
    checkpoint_floor: int = 0
    superseded_by: int | None = None  # the newer job of its key; set also while an attempt is still open
    debounce_by: int | None = None  # steady: newer jobs of its key delay the start no further

    @property
    def supersedes(self) -> tuple[int, str] | None:
        """Its owner and `supersede_key`: of the jobs that share them only the newest is to start."""
        return None if self.spec.supersede_key is None else (self.owner_uid, self.spec.supersede_key)

    @property
    def needed(self) -> list[int]:
        """The jobs that it needs. A need of itself is the gate of a handler (core/workflow/handlers.py)."""
        return [need.job for need in self.spec.needs if need.job != self.id]

    @property
    def final(self) -> bool:
        return self.state in FINAL


class OutcomeKind(StrEnum):
    """How an attempt ended, as far as that is known."""

    EXIT = "exit"
    SIGNAL = "signal"
    OOM = "oom"
    SPAWN_ERROR = "spawn_error"
    EXCEPTION = "exception"
    UNSEEN = "unseen"
    NEVER_STARTED = "never_started"


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The end of one attempt. `stopped`: our signal was delivered before the exit.

    `shutdown`: a foreign signal killed it while the system or the service was stopping.
    `transient`: another try may succeed: a handler raised Transient, or the host lacked something for the start.
    `output_refused`: its output cannot be used; `error` says why. `files`: of its step, for its checkpoint.
    """

    kind: OutcomeKind
    exit_code: int | None = None
    signal: int | None = None
    stopped: bool = False
    shutdown: bool = False
    transient: bool = False
    output_refused: bool = False
    error: str | None = None
    ended_at: int | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    max_rss_kib: int | None = None
    log_bytes: int | None = None
    output: str | None = None
    files: FileHashes | None = None


class Identity(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The facts that prove that a process is the one we started."""

    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: int
    pidfs_inode: int | None = None
    cgroup: str | None = None


# In place of a launcher: for handlers that run inside the daemon, and for runs on a cluster.
IN_PROCESS = "in-process"
CLUSTER = "cluster"


class Attempt(Struct, frozen=True, kw_only=True, gc=False):
    """One row of `attempts`: one run of a job."""

    run_id: str
    job_id: int
    ordinal: int
    launcher: str
    created_at: int
    identity: Identity | None = None
    stop_reason: StopReason | None = None
    adopted: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    outcome: Outcome | None = None
    bounds: Bounds | None = None

    @property
    def open(self) -> bool:
        return self.ended_at is None

    @property
    def epoch(self) -> int:
        """The epoch of the daemon that started its launcher and opened this attempt; 0 without a launcher."""
        epoch, _, _ = self.launcher.partition("-")
        return int(epoch) if epoch.isdecimal() else 0


class Queue(Struct, frozen=True, kw_only=True):
    """None as a limit means unlimited; `defaults` fill in what a job leaves out."""

    name: str
    queue_class: QueueClass = QueueClass.NORMAL
    max_running: int | None = None
    min_running: int | None = None  # its floor under pressure; None: it is not narrowed
    max_queued: int | None = None
    rate: Rate | None = None  # how many of its jobs may start in a time
    paused: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)


class Resource(Struct, frozen=True, kw_only=True):
    name: str
    capacity: int


class Actor(Struct, frozen=True):
    """The cause of a change: the uid of a person, or None for Stoker itself; `note` is their `--reason`."""

    uid: int | None = None
    note: str | None = None


STOKER = Actor()


class Change(Struct, frozen=True, kw_only=True):
    """One entry of the log of changes. `seq` has no gaps; `payload` has the values after the change."""

    seq: int
    at: int
    kind: str
    subject: str
    from_state: str | None
    to_state: str | None
    cause: str
    actor_uid: int | None
    payload: msgspec.Raw | dict[str, Any]
