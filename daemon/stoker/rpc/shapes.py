"""The shapes of what a client sends and gets, for type checkers and editors: nothing imports this at run time.

Owns the typed face of the wire as TypedDicts; a test keeps `JobSpec` equal to what the server reads
(`core.requests.JobParams`). Durations are milliseconds, instants UTC epoch milliseconds.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

State = Literal[
    "waiting", "queued", "running", "held", "succeeded", "failed", "cancelled", "expired", "superseded", "skipped"
]

WorkflowState = Literal["running", "paused", "succeeded", "failed", "cancelled", "rolling_back"]


class NeedShape(TypedDict, total=False):
    job: int
    on: Literal["ok", "failed", "any"]


class LimitsShape(TypedDict, total=False):
    memory_bytes: int
    cpu_seconds: int
    processes: int
    open_files: int
    file_size_bytes: int


class RawBytesShape(TypedDict):
    """In place of a string: bytes that are not UTF-8, as base64."""

    base64: str


class JobOptions(TypedDict, total=False):
    """Everything of a job but its command and arguments."""

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
    on_orphan: Literal["fail", "requeue", "hold"]
    max_orphanings: int
    survive: bool
    resources: dict[str, int]
    limits: LimitsShape
    nice: int
    umask: int | None
    max_log_bytes: int
    idempotency_key: str | None
    traceparent: str


class _Command(TypedDict):
    command: str | RawBytesShape


class JobSpec(_Command, JobOptions, total=False):
    """A job as it is sent."""

    args: list[str | RawBytesShape]


class Submitted(TypedDict):
    """`existing`: the idempotency key was known, and this is its job."""

    id: int
    state: State
    existing: bool


class Failure(TypedDict):
    code: int
    message: str
    data: dict[str, Any]


class NotSubmitted(TypedDict):
    error: Failure


class StandingShape(TypedDict, total=False):
    """Where a job stands; `exit_code` or `signal` once it ended that way; `taken_up`: what runs again with it."""

    id: int
    state: State
    reason: str | None
    exit_code: int | None
    signal: int | None
    stopping: bool
    frozen: bool
    taken_up: list[int]


class ChangeShape(TypedDict, total=False):
    seq: int
    at: int
    kind: str
    subject: str
    job: int | None
    cause: str


class WorkflowAccepted(TypedDict):
    """`id` and `state` are None for a dry run; `steps`: the job of each; `existing`: the idempotency key was known."""

    id: int | None
    state: WorkflowState | None
    steps: dict[str, int | None]
    layers: list[list[str]]
    existing: bool


class CheckpointView(TypedDict):
    """What is known of a checkpoint beside its data; `bytes` of data before it was packed."""

    id: int
    chain: str
    seq: int
    parent: int | None
    kind: Literal["context", "transition", "step", "progress"]
    job: int | None
    step: str | None
    run_id: str | None
    status: str
    version: int
    at: int
    encoding: Literal["plain", "gzip"]
    bytes: int
    checksum: str


class CheckpointPage(TypedDict):
    """Newest first; `next` is the `before_seq` of the following page."""

    checkpoints: list[CheckpointView]
    next: int | None
