"""Requests: the values that pass from rpc/ to engine/.

Owns the shape and the limits of a job as it is sent (`JobParams`), of the options of a verb, and of a filter. The
engine fills in the defaults of queues. Invariants: a JobParams keeps every limit that can be checked without the host
or the database; `UNSET` means that the field was not given, so a default of the queue applies; `None` means "without",
whatever the default of the queue is.
Durations are milliseconds, instants are UTC epoch milliseconds, sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from stoker.core.command_limits import (
    MAX_PATH,
    check_argv,
    check_env,
    check_raw_command,
    check_raw_directory,
)
from stoker.core.errors import InvalidParams
from stoker.core.job import conditions
from stoker.core.job.conditions import Tree
from stoker.core.job.model import ExecutionMode, NeedOn, OnOrphan, QueueClass, Reason, State, SupersedeRunning
from stoker.core.job.secret_values import Secrets
from stoker.core.raw_bytes import RawBytes
from stoker.core.units import instant

MAX_INT = 2**63 - 1  # of SQLite
MAX_TEXT = 64 * 1024
MAX_LABELS = 32
MAX_NEEDS = 1_000
MIN_MEMORY_BYTES = 1 << 20  # no program starts with less
MAX_DURATION_MS = 10 * 366 * 86_400_000

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH)]
AbsolutePath = Annotated[str, Meta(pattern="^/", max_length=MAX_PATH)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")]
StepName = Annotated[str, Meta(min_length=1, max_length=600)]  # of a step or a group of steps
RateKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}\Z")]
RateName = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127})\Z")]  # *: each other key
Title = Annotated[str, Meta(min_length=1, max_length=200)]
LabelText = Annotated[str, Meta(pattern="=", max_length=300)]  # K=V
RateText = Annotated[str, Meta(max_length=20)]
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
Note = Annotated[str, Meta(max_length=1_000)]

JobId = Annotated[int, Meta(ge=1, le=MAX_INT)]
Priority = Annotated[int, Meta(ge=-10_000, le=10_000)]
Budget = Annotated[int, Meta(ge=1, le=1_000_000)]
Bound = Annotated[int, Meta(ge=0, le=MAX_INT)]
PageLimit = Annotated[int, Meta(ge=1, le=1000)]
Bytes = Annotated[int, Meta(ge=1, le=MAX_INT)]
Delay = Annotated[int, Meta(ge=0, le=MAX_DURATION_MS)]
Duration = Annotated[int, Meta(ge=1, le=MAX_DURATION_MS)]
# 2001 to 9999: seconds sent by mistake fall below, microseconds above.
Instant = Annotated[int, Meta(ge=1_000_000_000_000, le=253_402_300_799_999)]
TraceParent = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")]
ExitCode = Annotated[int, Meta(ge=0, le=255)]
Umask = Annotated[int, Meta(ge=0, le=0o777)]
ExitCodes = Annotated[tuple[ExitCode, ...], Meta(max_length=256)]


class Verb(StrEnum):
    """`core.job.lifecycle` says in which state each applies."""

    CANCEL = "cancel"
    RETRY = "retry"
    SKIP = "skip"
    HOLD = "hold"
    RELEASE = "release"
    RESTART = "restart"
    EDIT = "edit"


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of everything that is read from a client: an unknown field is an error.

    `gc=False`: values from JSON have no cycles, and tracking them costs a third of a submit if many are held.
    """


class NeedParams(Params, frozen=True, kw_only=True):
    job: JobId
    on: NeedOn = NeedOn.OK


class LimitParams(Params, frozen=True, kw_only=True):
    memory_bytes: Annotated[int, Meta(ge=MIN_MEMORY_BYTES, le=MAX_INT)] | None = None
    cpu_seconds: Bytes | None = None
    processes: Bytes | None = None
    open_files: Bytes | None = None
    file_size_bytes: Bytes | None = None


class JobDefaults(Params, frozen=True, kw_only=True):
    """The fields of a job that its queue may fill in."""

    priority: Priority | UnsetType = UNSET
    max_attempts: Budget | UnsetType = UNSET
    base_delay_ms: Delay | UnsetType = UNSET
    backoff_factor: Annotated[float, Meta(ge=1, le=1000)] | UnsetType = UNSET
    max_delay_ms: Delay | UnsetType = UNSET
    success_exit_codes: ExitCodes | UnsetType = UNSET
    no_retry_exit_codes: ExitCodes | UnsetType = UNSET
    checkpoint_exit_code: ExitCode | UnsetType | None = UNSET
    ttl_ms: Duration | UnsetType | None = UNSET
    timeout_ms: Duration | UnsetType | None = UNSET
    grace_ms: Delay | UnsetType = UNSET
    notify: bool | UnsetType = UNSET
    heartbeat_ms: Duration | UnsetType | None = UNSET
    unresponsive_warn_ms: Duration | UnsetType = UNSET
    unresponsive_kill_ms: Duration | UnsetType = UNSET
    on_orphan: OnOrphan | UnsetType = UNSET
    max_orphanings: Budget | UnsetType = UNSET
    survive: bool | UnsetType = UNSET
    nice: Annotated[int, Meta(ge=-20, le=19)] | UnsetType = UNSET
    max_log_bytes: Annotated[int, Meta(ge=4096, le=2**40)] | UnsetType = UNSET


class JobCircumstances(JobDefaults, frozen=True, kw_only=True):
    """The fields of a job beside its command, which a flow may set for all its steps."""

    env: dict[Text, Text | RawBytes] | UnsetType = UNSET
    working_dir: AbsolutePath | RawBytes | UnsetType = UNSET
    umask: Umask | UnsetType | None = UNSET
    stdin: Text | UnsetType | None = UNSET
    name: Title | UnsetType | None = UNSET
    labels: Annotated[dict[Name, Title], Meta(max_length=MAX_LABELS)] | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    execution_mode: ExecutionMode | UnsetType = UNSET
    deadline: Instant | UnsetType | None = UNSET
    warn_signal: Annotated[int, Meta(ge=1, le=64)] | UnsetType | None = UNSET
    warn_before_ms: Delay | UnsetType = UNSET
    run_at: Instant | UnsetType | None = UNSET
    wait_for: Tree | UnsetType | None = UNSET
    resources: Annotated[dict[Name, Bytes], Meta(max_length=MAX_LABELS)] | UnsetType = UNSET
    rate_key: RateKey | UnsetType | None = UNSET
    limits: LimitParams | UnsetType = UNSET
    traceparent: TraceParent | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.working_dir, RawBytes):
            check_raw_directory(self.working_dir)
        if self.env is not UNSET:
            check_env(self.env)
        if self.wait_for is not UNSET and self.wait_for is not None:
            self._check_conditions(self.wait_for)

    def _check_conditions(self, tree: Tree) -> None:
        conditions.check(tree)


class JobWork(JobCircumstances, frozen=True, kw_only=True):
    """The fields that a job and a step of a workflow share; all but `command` may be left out."""

    command: Path | RawBytes
    args: tuple[Text | RawBytes, ...] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.command, RawBytes):
            check_raw_command(self.command, self.execution_mode)
        if self.args is not UNSET:
            check_argv(self.command, self.args)
        super().__post_init__()


class JobParams(JobWork, frozen=True, kw_only=True):
    needs: Annotated[tuple[JobId | NeedParams, ...], Meta(max_length=MAX_NEEDS)] | UnsetType = UNSET
    idempotency_key: Title | UnsetType | None = UNSET
    supersede_key: Title | UnsetType | None = UNSET
    supersede_running: SupersedeRunning | UnsetType = UNSET
    debounce_ms: Duration | UnsetType = UNSET
    debounce_max_ms: Duration | UnsetType | None = UNSET
    secrets: Secrets | UnsetType = UNSET


class CheckpointPart(Params, frozen=True, kw_only=True):
    """A checkpoint, or a piece of one: `more` says that another piece follows. `data` is base64.

    `upload`: in every piece after the first, the number from the answer to the first.
    """

    token: Annotated[str, Meta(max_length=200)]
    data: Annotated[str, Meta(max_length=1_000_000)]
    status: Title = "saved"
    upload: Bound | None = None
    offset: Bound = 0
    more: bool = False


class LimitChanges(Params, frozen=True, kw_only=True):
    """Like LimitParams: a limit that is not given stays, None removes it."""

    memory_bytes: Annotated[int, Meta(ge=MIN_MEMORY_BYTES, le=MAX_INT)] | UnsetType | None = UNSET
    cpu_seconds: Bytes | UnsetType | None = UNSET
    processes: Bytes | UnsetType | None = UNSET
    open_files: Bytes | UnsetType | None = UNSET
    file_size_bytes: Bytes | UnsetType | None = UNSET


class JobChanges(Params, frozen=True, kw_only=True):
    """Changes to a job that has not started; None removes a name or a limit."""

    queue: Name | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    name: Title | UnsetType | None = UNSET
    max_attempts: Budget | UnsetType = UNSET
    timeout_ms: Duration | UnsetType | None = UNSET
    deadline: Instant | UnsetType | None = UNSET
    ttl_ms: Duration | UnsetType | None = UNSET
    limits: LimitChanges | UnsetType = UNSET


class JobParam(Params, frozen=True, kw_only=True):
    id: JobId


class VerbParams(JobParam, frozen=True, kw_only=True):
    """A verb that takes no options."""

    reason: Note | None = None


class RetryParams(VerbParams, frozen=True, kw_only=True):
    """`yes` is accepted for clients that send it to every verb: a retry needs no confirmation."""

    yes: bool = False
    timeout_ms: Duration | None = None
    deadline: Instant | None = None


class RestartParams(VerbParams, frozen=True, kw_only=True):
    """`yes` lets an unsafe job run again."""

    yes: bool = False
    force: bool = False
    reassign: bool = False


class WorkflowParams(Params, frozen=True, kw_only=True):
    id: JobId
    reason: Note | None = None


class JobFilter(Params, frozen=True, kw_only=True):
    """The jobs to list; empty `states` or `reasons` means all.

    Newest first, with the cursor `before`; or oldest first, with the cursor `after` (0: from the first). `search`: a
    text in the name, the command or an argument; the case of ASCII letters does not count. `step`: only those of
    `workflow` that it names. `ended_since` and `ended_until`: only jobs that have ended.
    """

    states: tuple[State, ...] = ()
    queue: Name | None = None
    name: Title | None = None
    name_prefix: Title | None = None
    label: LabelText | None = None
    workflow: JobId | None = None
    step: StepName | None = None
    search: Title | None = None
    created_since: Instant | None = None
    created_until: Instant | None = None
    ended_since: Instant | None = None
    ended_until: Instant | None = None
    reasons: tuple[Reason, ...] = ()
    exit_code: ExitCode | None = None
    limit: PageLimit = 100
    before: JobId | None = None
    after: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None

    def __post_init__(self) -> None:
        _check_order("created_until", self.created_until, "created_since", self.created_since)
        _check_order("ended_until", self.ended_until, "ended_since", self.ended_since)
        if self.step is not None and self.workflow is None:
            raise InvalidParams(
                "step: names steps of a workflow, and none is named", path="step", hint="add `workflow`"
            )


FinalState = Literal["succeeded", "failed", "cancelled", "expired", "superseded", "skipped"]


class Purge(Params, frozen=True, kw_only=True):
    """The ended jobs and workflows to remove: before a time, and only of a queue or in some states if that is given."""

    before: Instant
    queue: Name | None = None
    states: tuple[FinalState, ...] = ()
    dry_run: bool = False
    reason: Note | None = None

    @property
    def takes_all(self) -> bool:
        """Whether the log of changes goes with it."""
        return self.queue is None and not self.states


class QueueSettings(Params, frozen=True, kw_only=True):
    """Changes to a queue, which is created if it is new. UNSET keeps a setting, None removes a limit."""

    name: Name
    queue_class: QueueClass | UnsetType = field(default=UNSET, name="class")
    max_running: Bound | UnsetType | None = UNSET
    min_running: Budget | UnsetType | None = UNSET
    max_queued: Bound | UnsetType | None = UNSET
    rate: RateText | UnsetType | None = UNSET
    burst: Burst | UnsetType = UNSET
    defaults: JobDefaults | UnsetType = UNSET
    reason: Note | None = None


class RateSettings(Params, frozen=True, kw_only=True):
    """The rate of a key, or of each key without its own. UNSET keeps a setting."""

    key: RateName
    rate: RateText | UnsetType = UNSET
    burst: Burst | UnsetType = UNSET
    reason: Note | None = None


def _check_order(name: str, until: int | None, of: str, since: int | None) -> None:
    if until is not None and since is not None and until < since:
        raise InvalidParams(f"{name}: {instant(until)} is before {of}, {instant(since)}", path=name)
