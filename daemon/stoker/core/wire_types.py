"""The types of requests and answers, for type checkers and editors. No module imports this one at run time.

Owns the wire as TypedDicts, for the client and for the service that builds the answers. A test keeps `JobSpec` equal to
`core.requests.JobParams`, which the server reads. Durations are milliseconds, instants UTC milliseconds since 1970.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

State = Literal[
    "waiting", "queued", "running", "held", "succeeded", "failed", "cancelled", "expired", "superseded", "skipped"
]
WorkflowState = Literal["running", "paused", "succeeded", "failed", "cancelled", "rolling_back"]


class NeedShape(TypedDict, total=False):
    job: int
    on: Literal["ok", "failed", "any"]


class GroupShape(TypedDict, total=False):
    """Conditions that a job waits for: all of them, or any."""

    all: list[str | GroupShape]
    any: list[str | GroupShape]


class LimitsShape(TypedDict, total=False):
    memory_bytes: int
    cpu_seconds: int
    processes: int
    open_files: int
    file_size_bytes: int


class RawBytesShape(TypedDict):
    """Replaces a string whose bytes are not UTF-8."""

    base64: str


class JobOptions(TypedDict, total=False):
    """The fields of a job other than its command and arguments."""

    env: dict[str, str | RawBytesShape]
    working_dir: str | RawBytesShape
    stdin: str | None
    name: str | None
    labels: dict[str, str]
    queue: str
    priority: int
    execution_mode: Literal["subprocess", "in_process"]
    max_attempts: int
    base_delay_ms: int
    backoff_factor: float
    max_delay_ms: int
    success_exit_codes: list[int]
    no_retry_exit_codes: list[int]
    checkpoint_exit_code: int | None
    ttl_ms: int | None
    deadline: int | None
    timeout_ms: int | None
    grace_ms: int
    warn_signal: int | None
    warn_before_ms: int
    notify: bool
    heartbeat_ms: int | None
    unresponsive_warn_ms: int
    unresponsive_kill_ms: int
    run_at: int | None
    needs: list[int | NeedShape]
    wait_for: str | GroupShape | None
    on_orphan: Literal["fail", "requeue", "hold"]
    max_orphanings: int
    survive: bool
    resources: dict[str, int]
    limits: LimitsShape
    nice: int
    umask: int | None
    max_log_bytes: int
    idempotency_key: str | None
    rate_key: str | None
    supersede_key: str | None
    supersede_running: Literal["finish", "stop"]
    debounce_ms: int
    debounce_max_ms: int | None
    secrets: dict[str, RawBytesShape]
    traceparent: str


class _Command(TypedDict):
    command: str | RawBytesShape


class JobSpec(_Command, JobOptions, total=False):
    """A job in a request."""

    args: list[str | RawBytesShape]


class Submitted(TypedDict):
    """`existing`: the job of an earlier request with the same idempotency key.

    Of a job with a `supersede_key`: `superseded`, the jobs that it replaced, and `starts_after`, those that still run.
    """

    id: int
    state: State
    existing: bool
    superseded: NotRequired[list[int]]
    starts_after: NotRequired[list[int]]


class Failure(TypedDict):
    code: int
    message: str
    data: dict[str, Any]


class NotSubmitted(TypedDict):
    error: Failure


class NotDone(NotSubmitted):
    """An error about one of several jobs, as the command line prints it."""

    id: int


class StandingShape(TypedDict, total=False):
    """The state of a job. `exit_code` or `signal` once it ended; `taken_up`: the jobs that run again with it.

    `changed`, of an edited job: each changed field, with its old and its new value.
    """

    id: int
    state: State
    reason: str | None
    exit_code: int | None
    signal: int | None
    superseded_by: int | None
    stopping: bool
    frozen: bool
    taken_up: list[int]
    changed: dict[str, list[Any]]


class LogPiece(TypedDict):
    """A piece of a log, from `offset` on: either `data` in base64, or a `hole` of so many bytes that were dropped."""

    stream: int
    attempt: int
    offset: int
    data: NotRequired[str]
    hole: NotRequired[int]


ChangeShape = TypedDict(
    "ChangeShape",
    {
        "seq": int,
        "at": int,
        "kind": str,
        "subject": str,
        "job": int | None,
        "from": str | None,
        "to": str | None,
        "cause": str,
        "actor_uid": int | None,
        "note": str | None,
    },
)
"""One entry of the log of changes; `note`: the reason that a person gave."""


class StepReused(TypedDict):
    """Whether the end of an earlier step is taken over, and why or why not.

    `later`: that is decided once a list that comes later has added its steps.
    """

    step: str
    reused: bool
    why: str
    later: bool


class ReuseView(TypedDict):
    """`workflow`: the earlier run; None if the flow has not run yet."""

    workflow: int | None
    steps: list[StepReused]


class WorkflowAccepted(TypedDict):
    """`id` and `state` are None for a dry run. `steps`: the job of each step. `existing`: as in `Submitted`.

    `warnings`: programs and directories of steps with needs that are not there yet; each step looks again as it starts.
    `met`: steps outside the part that was asked for, whose needs count as met. `reuse`: what it takes from an earlier
    run, if that was asked for. `skipped`: nothing was stored, as this workflow of the same `concurrency` key goes on.
    """

    id: int | None
    state: WorkflowState | None
    steps: dict[str, int | None]
    layers: list[list[str]]
    existing: bool
    skipped: bool
    warnings: list[str]
    met: list[str]
    reuse: ReuseView | None


class CheckpointView(TypedDict):
    """A checkpoint without its data. `bytes`: the size of the data before compression."""

    id: int
    chain: str
    seq: int
    parent: int | None
    kind: str  # context, transition, step or progress
    job: int | None
    step: str | None
    run_id: str | None
    status: str
    version: int
    at: int
    encoding: str  # plain or gzip
    bytes: int
    checksum: str


class CheckpointPage(TypedDict):
    """Newest first; `next` is the `before_seq` of the following page."""

    checkpoints: list[CheckpointView]
    next: int | None


class CheckpointPiece(CheckpointView):
    """A checkpoint and a piece of its data, in base64, that begins at `offset`."""

    offset: int
    data: str


class ContextStepView(TypedDict):
    """`floor`: checkpoints of the step up to that seq are ignored."""

    job: int
    state: State
    reason: str | None
    floor: int


class ContextView(TypedDict):
    """A whole workflow at `seq`. `damaged`: the checkpoint at which the rebuild had to end."""

    chain: str
    seq: int
    steps: dict[str, ContextStepView]
    holds: dict[str, dict[str, int]]
    damaged: int | None


class SavedCheckpoint(TypedDict):
    """`bytes`: the size of the data before compression."""

    id: int
    seq: int
    bytes: int


class ReceivedPiece(TypedDict):
    """A piece of a checkpoint arrived, and more are to follow. `received`: the bytes of all so far."""

    upload: int
    received: int
