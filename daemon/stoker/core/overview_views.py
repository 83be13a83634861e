"""How all jobs and attempts at once are shown, for type checkers and editors. Never imported at run time.

Owns the answers of `system.overview`, `system.load`, `attempt.list`, `recovery.list` and `recovery.get` as TypedDicts;
see `core.views`.
"""

from __future__ import annotations

from typing import TypedDict

from stoker.core.daemon_views import QueueView
from stoker.core.views import JobView
from stoker.core.wire_types import State


class EndsView(TypedDict):
    """How many jobs ended since then, by state. `counted_all`: false if only the newest of them were counted."""

    since: int
    counts: dict[str, int]
    counted_all: bool


class OverviewView(TypedDict):
    """`running`: the jobs that started first; `failed`: those that failed or expired last, newest first."""

    at: int
    queues: list[QueueView]
    running: list[JobView]
    failed: list[JobView]
    ends: EndsView


class QueueLoadView(TypedDict):
    """The jobs of a queue; those of all queues that are not listed if `queue` is null."""

    queue: str | None
    running: int
    queued: int


class LoadSample(TypedDict):
    """The load, which was the same from `since` to `until`. `cpu`: percent, the mean since the sample before."""

    since: int
    until: int
    cpu: int | None
    memory_free_bytes: int | None
    throttled: bool
    running: int
    slots: int
    queues: list[QueueLoadView]


class LoadView(TypedDict):
    """The last hour, oldest first. Samples that are further apart than twice `interval_ms` have a gap between them."""

    interval_ms: int
    samples: list[LoadSample]


class TimelineAttempt(TypedDict):
    """An attempt and its job, whose state is `job_state`. `is_last`: the job has had no later attempt."""

    job: int
    attempt: int
    run_id: str
    queue: str
    name: str | None
    workflow: int | None
    step: str | None
    job_state: State
    is_last: bool
    created_at: int
    started_at: int | None
    ended_at: int | None
    outcome: str | None
    exit_code: int | None
    signal: int | None
    stop_reason: str | None


class AttemptPage(TypedDict):
    """Attempts that ran in a time, newest first; `next`: the `before` of the next page."""

    attempts: list[TimelineAttempt]
    next: str | None


class RecoverySummary(TypedDict):
    """The recovery of one start: `attempts` were open. `swept` counts leaked processes, the other numbers attempts."""

    epoch: int
    started_at: int
    finished_at: int | None
    attempts: int
    settled: int
    adopted: int
    stopped: int
    requeued: int
    unseen: int
    stuck: int
    swept: int


class RecoveryPage(TypedDict):
    """Newest first; `next`: the `before` of the next page."""

    recoveries: list[RecoverySummary]
    next: int | None


class RecoveredAttempt(TypedDict):
    """The facts about an attempt (`fact`, `evidence`), the action (`action`, `why`), and the state of its job
    after that (`then`; null if the job was gone).
    """

    job: int
    run_id: str
    fact: str
    evidence: str
    action: str
    why: str
    stop_reason: str | None
    then: State | None


class RecoveryReport(RecoverySummary):
    """`next`: the `after` of the next page of attempts."""

    decisions: list[RecoveredAttempt]
    next: int | None
