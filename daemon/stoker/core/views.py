"""How jobs, workers, events and workflows are shown, for type checkers and editors. Never imported at run time.

Owns the answers of reading methods as TypedDicts, for the client and for the service that builds them. A test compares
them with the answers of a real daemon. Durations are milliseconds, instants UTC milliseconds since 1970.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from stoker.core.wire_types import (
    ChangeShape,
    GroupShape,
    LimitsShape,
    NeedShape,
    RawBytesShape,
    State,
    WorkflowState,
)
from stoker.core.workflow_answers import EdgeView


class TakenOverView(TypedDict):
    """The step whose end a job took over instead of running."""

    workflow: int
    step: str
    job: int


class _SpecView(TypedDict):
    """The spec of a job, with every default filled in."""

    queue: str
    name: str | None
    priority: int
    execution_mode: Literal["subprocess", "in_process"]
    command: str | RawBytesShape
    args: list[str | RawBytesShape]
    working_dir: str | RawBytesShape
    env_vars: dict[str, str | RawBytesShape]
    stdin: str | None
    labels: dict[str, str]
    max_attempts: int
    base_delay_ms: int
    backoff_factor: float
    max_delay_ms: int
    success_exit_codes: list[int]
    no_retry_exit_codes: list[int]
    checkpoint_exit_code: int | None
    notify: bool
    heartbeat_ms: int | None
    unresponsive_warn_ms: int
    unresponsive_kill_ms: int
    deadline: int | None
    ttl_ms: int | None
    timeout_ms: int | None
    grace_ms: int
    warn_signal: int | None
    warn_before_ms: int
    on_orphan: Literal["fail", "requeue", "hold"]
    max_orphanings: int
    survive: bool
    run_at: int | None
    needs: list[NeedShape]
    when: Literal["each", "any_ok", "any_failed"] | None
    run_if: str | None
    wait_for: str | GroupShape | None
    resources: dict[str, int]
    limits: LimitsShape
    nice: int
    umask: int | None
    rate_key: str | None
    supersede_key: str | None
    supersede_running: Literal["finish", "stop"]
    debounce_ms: int
    debounce_max_ms: int | None
    max_log_bytes: int
    secrets: list[str]
    traceparent: str | None
    schedule: str | None
    scheduled_for: int | None
    hook: str | None
    hook_change: int | None
    hook_data: dict[str, Any]
    sources: list[str]
    produces: list[str]
    reused: TakenOverView | None


class JobView(_SpecView):
    """A job. `progress`, `status_text` and `last_heartbeat`: as its worker reported them; `log`: the newest log, a file
    that is there only if the job printed something; `awaits_token`: a rate keeps it from starting now.
    """

    id: int
    state: State
    reason: str | None
    attempts: int
    failures: int
    orphanings: int
    needs_open: int
    conditions_open: list[str]
    undecided: bool
    not_needed: bool
    awaits_token: bool
    wake_at: int | None
    expires_at: int | None
    pid: int | None
    owner_uid: int
    trace_id: str
    workflow_id: int | None
    step: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    exit_code: int | None
    signal: int | None
    spec_hash: str
    superseded_by: int | None
    debounce_by: int | None
    progress: int | None
    status_text: str | None
    last_heartbeat: int | None
    notices_ignored: int | None
    unresponsive: bool
    stale_ms: int | None
    frozen: bool
    stopping: bool
    log: str | None


class LimitView(TypedDict):
    """One limit: the `value` in force, `by` what (cgroup, rlimit or none), and the value that was asked for."""

    by: str
    value: int | None
    wanted: int


class AttemptView(TypedDict):
    """One attempt. `unstoppable`: pids that the daemon may not signal; `suspicion`: a limit that may be the cause."""

    run_id: str
    ordinal: int
    launcher: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    stop_reason: str | None
    adopted: int
    pid: int | None
    unstoppable: list[int]
    cgroup: str | None
    outcome: str | None
    exit_code: int | None
    signal: int | None
    stopped: bool | None
    error: str | None
    user_ms: int | None
    system_ms: int | None
    max_rss_kib: int | None
    log_bytes: int | None
    limits: dict[str, LimitView] | None
    suspicion: str | None


class JobDetails(JobView):
    """A job with its newest attempts; `attempts_before` is the `before` of the next page, which has older ones.

    `dependents`: the jobs that wait for it, the first 100 of them.
    """

    attempts_list: list[AttemptView]
    attempts_before: int | None
    dependents: list[int]


class JobPage(TypedDict):
    """Newest first; `next` is the `before` of the following page."""

    jobs: list[JobView]
    next: int | None


class RecordedChange(ChangeShape):
    """One entry of the history of a job."""

    details: dict[str, Any]


class JobHistory(TypedDict):
    """Changes, oldest first; `next` is the `after` of the following page. `attempts`: the newest.

    `older_removed`: retention has removed the first changes of the job.
    """

    id: int
    changes: list[RecordedChange]
    next: int | None
    older_removed: bool
    attempts: list[AttemptView]
    attempts_before: int | None


class Explanation(TypedDict):
    """Why a job is in its state: a stable code, a sentence, the next command to type, and the facts behind them."""

    id: int
    state: State
    code: str
    message: str
    hint: str | None
    details: dict[str, Any]


class EmitAnswer(TypedDict):
    """`reached`: the jobs that its commit reached; `more`: others follow; `existing`: its key was used before."""

    id: int
    name: str
    reached: int
    more: bool
    existing: bool


class StaleCheckpoint(TypedDict):
    """A running attempt whose newest checkpoint is older than `[workflows] stale_ms`."""

    workflow: int | None
    step: str | None
    job: int
    run_id: str
    checkpoint_at: int
    age_ms: int


class StepView(TypedDict):
    """A step of a workflow. `error`: the end of the error of its newest attempt, or why its `if` (`run_if`) has no
    value; `conditions_open`: while it waits; `reused`: the earlier step whose end it took over, as `12/compile`;
    `handler`: the table of a handler, which runs after all steps.
    """

    name: str
    job: int
    state: State
    reason: str | None
    error: str | None
    exit_code: int | None
    signal: int | None
    attempts: int
    failures: int
    needs: list[EdgeView]
    when: Literal["each", "any_ok", "any_failed"] | None
    run_if: str | None
    conditions_open: list[str]
    critical: bool
    resume: str
    reused: str | None
    handler: Literal["on_failure", "on_success", "finally"] | None


class StepStandingView(TypedDict):
    name: str
    job: int
    state: State


class StepList(TypedDict):
    """The steps of a workflow that a name stands for, in their order."""

    workflow: int
    steps: list[StepStandingView]


class InnerLimitView(TypedDict):
    """When the limits of time of a nested workflow pass; `step` ends it. `passed`: the one that was reached."""

    step: str
    deadline: int | None
    times_out_at: int | None
    passed: Literal["timeout", "deadline"] | None


class WorkflowView(TypedDict):
    """`counts`: the number of steps in each state. `deadline` and `times_out_at`: when its limits pass.

    `aborted_by`: why Stoker ended it, whatever its steps did: `timeout`, `deadline` or `abort_on`. `waits_for`: other
    workflows of its key that go first. `inner_limits`: those of nested workflows that have not ended.
    """

    id: int
    name: str
    state: WorkflowState
    intent: str
    owner_uid: int
    trace_id: str
    created_at: int
    finished_at: int | None
    deadline: int | None
    times_out_at: int | None
    inner_limits: list[InnerLimitView]
    labels: dict[str, str]
    aborted_by: str | None
    concurrency_key: str | None
    waits_for: list[int]
    counts: dict[str, int]


class AnalysisView(TypedDict):
    """Why a workflow failed, and the next command to type. `causes`: the steps of each."""

    scope: Literal["systemic", "total", "partial"]
    critical: bool
    causes: dict[str, list[str]]
    roots: list[str]
    blocked: list[str]
    message: str
    next: str


class EarlierRuns(TypedDict):
    """The newest workflows of the same name and owner that succeeded: how many, and how long half of them took."""

    count: int
    median_ms: int


class WorkflowDetails(WorkflowView):
    """A workflow with its steps. `archive`: the path of the archive of its failure.

    `earlier_runs`: for an estimate while it has not ended; None if there are none.
    """

    steps: list[StepView]
    earlier_runs: EarlierRuns | None
    archive: str | None
    stale: list[StaleCheckpoint]


class AnalysedWorkflow(WorkflowDetails):
    """`analysis` is None for a workflow that has not failed."""

    analysis: AnalysisView | None


class WorkflowPage(TypedDict):
    """Newest first; `next` is the `before` of the following page."""

    workflows: list[WorkflowView]
    next: int | None


class ProcessView(TypedDict):
    """One process. `cpu_percent` is of one core, during the sample. `open_files` is None where it may not be read."""

    pid: int
    parent: int
    name: str
    state: str
    threads: int
    cpu_ms: int
    cpu_percent: float
    memory_bytes: int
    open_files: int | None


class WorkerView(TypedDict):
    """The worker of a job: its process tree in total and in detail. `said`: its newest report."""

    job: int
    attempt: int
    run_id: str
    started_at: int | None
    stopping: str | None
    launcher: str
    launcher_state: Literal["ok", "stuck", "gone"]
    said: dict[str, Any] | None
    silent_ms: int | None
    pid: int | None
    state: str
    cpu_percent: float
    cpu_ms: int
    memory_bytes: int
    open_files: int | None
    children: int
    processes: list[ProcessView]


class EnvironmentView(TypedDict):
    """The directory, umask and variables that the worker of a job has, or would have."""

    id: int
    owner_uid: int
    working_dir: str | RawBytesShape
    umask: int
    env: dict[str, str | RawBytesShape]
