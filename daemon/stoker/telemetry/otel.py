"""Traces and metrics: every name that leaves the process, and the calls by which the daemon reports.

Owns the names and `Telemetry`, whose methods do nothing: it is used when nothing is exported, without the SDK.
otel_sdk.py makes each span when it has ended, from rows, with ids derived from those of the job; so a trace is
complete even if the daemon was restarted in the middle of it.

A job's trace: `job` (submission to final state, child of the caller's span if it sent one) and below it `job.submit`,
one `job.wait` and one `job.attempt` for each attempt. A worker's own spans hang below its `job.attempt`; those of a
hook's job hang below the `job` whose change it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, Self

from stoker.core.job.model import Attempt, Job
from stoker.core.trace import TraceParent, attempt_span_id, derived_span_id, make_traceparent, parse_traceparent

SERVICE_NAME: Final = "stoker"

SPAN_JOB: Final = "job"
SPAN_SUBMIT: Final = "job.submit"
SPAN_WAIT: Final = "job.wait"
SPAN_ATTEMPT: Final = "job.attempt"

METRIC_QUEUE_DEPTH: Final = "queue.depth"
METRIC_QUEUE_RUNNING: Final = "queue.running"
METRIC_QUEUE_HELD: Final = "queue.held"
METRIC_DISK_FREE: Final = "disk.free_bytes"
METRIC_FINISHED: Final = "job.finished"
METRIC_WAIT_MS: Final = "job.wait_ms"
METRIC_RUN_MS: Final = "job.run_ms"
METRIC_BATCH_SIZE: Final = "commit.batch_size"
METRIC_COMMIT_MS: Final = "commit.ms"
METRIC_BACKUP_MS: Final = "backup.ms"

# What Prometheus shows as the help of a metric; that of a counter is below its name.
HELP: Final = {
    METRIC_QUEUE_DEPTH: "jobs that may start",
    METRIC_QUEUE_RUNNING: "jobs that run",
    METRIC_QUEUE_HELD: "jobs that wait for a person",
    METRIC_DISK_FREE: "free bytes of the disk of the state directory",
    METRIC_FINISHED: "jobs that have ended, by their state",
    METRIC_WAIT_MS: "milliseconds from when an attempt might have started to its start",
    METRIC_RUN_MS: "milliseconds that an attempt ran",
    METRIC_BATCH_SIZE: "requests that shared a commit",
    METRIC_COMMIT_MS: "milliseconds of a commit, with its fsync",
    METRIC_BACKUP_MS: "milliseconds of a backup",
}

ATTR_JOB: Final = "stoker.job.id"
ATTR_NAME: Final = "stoker.job.name"
ATTR_STATE: Final = "stoker.job.state"
ATTR_REASON: Final = "stoker.job.reason"
ATTR_QUEUE: Final = "stoker.queue"
ATTR_RUN_ID: Final = "stoker.attempt.run_id"
ATTR_ORDINAL: Final = "stoker.attempt.ordinal"
ATTR_OUTCOME: Final = "stoker.attempt.outcome"
ATTR_EXIT_CODE: Final = "stoker.attempt.exit_code"
ATTR_SIGNAL: Final = "stoker.attempt.signal"
ATTR_STOP_REASON: Final = "stoker.attempt.stop_reason"
ATTR_CAUSE: Final = "stoker.throttle.cause"


class Counted(StrEnum):
    """The counters, by the names of their metrics, with the help of each."""

    help: str

    def __new__(cls, name: str, text: str) -> Self:
        counted = str.__new__(cls, name)
        counted._value_ = name
        counted.help = text
        return counted

    ORPHANED_JOBS = "recovery.orphaned_jobs", "attempts that an earlier daemon or a dead launcher left"
    ZOMBIES_CLEANED = "recovery.zombies_cleaned", "workers of no open attempt that were stopped"
    RETRIES = "worker.retry_count", "retries after failures that were seen, by queue"
    THROTTLE_EVENTS = "system.cpu_throttle_events", "how often queues of class low were stopped, by cause"
    CHECKPOINT_FAILURES = "checkpoint.failures", "checkpoints that could not be stored"
    PURGED_JOBS = "retention.purged_jobs", "ended jobs that were removed"
    BACKUP_FAILURES = "backup.failures", "backups that failed"
    ACCESS_DENIED = "access.denied", "requests of users who lack the right to them"
    SLOW_TURNS = "loop.slow_turns", "parts of a turn that kept the event loop for too long"
    SLOW_CALLBACKS = "loop.slow_callbacks", "other callbacks that kept the event loop for too long"


class Gauges(NamedTuple):
    """Jobs of each queue by their state, and the free bytes of the state directory's disk (None: not known yet)."""

    queued: Mapping[str, int] = {}
    running: Mapping[str, int] = {}
    held: Mapping[str, int] = {}
    disk_free_bytes: int | None = None


class Telemetry:
    """Reports that go nowhere. Times are UTC milliseconds, durations milliseconds."""

    def job_submitted(self, job: Job, committed_at: int) -> None:
        """The request came at `created_at`; the job is on disk since `committed_at`."""

    def attempt_started(self, job: Job, attempt: Attempt, waiting_since: int) -> None:
        """`waiting_since` is when the job began to wait for this start."""

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """The attempt is settled."""

    def job_finished(self, job: Job) -> None:
        """The job is final."""

    def count(self, what: Counted, number: int = 1, labels: Mapping[str, str] | None = None) -> None:
        """Add `number` to a counter."""

    def committed(self, requests: int, took_ms: float) -> None:
        """A group commit of `requests` requests is on disk."""

    def backup_made(self, took_ms: float) -> None:
        """A backup is complete."""

    def watch(self, read: Callable[[], Gauges]) -> None:
        """Call `read` at each export. The exporter's thread calls it, so the mappings must never be changed."""

    def traceparent(self, job: Job, run_id: str) -> str:
        """The trace context that the attempt's worker gets.

        Without an exporter Stoker has no span to be a parent of the worker's, so it forwards the caller's context
        unchanged (W3C Trace Context, section 4.3). A job without one still has its trace id.
        """
        return job.spec.traceparent or make_traceparent(TraceParent(job.trace_id, attempt_span_id(run_id)))

    def close(self) -> None:
        """Send what is still to be sent, within a short time limit."""


def caller_of(job: Job) -> TraceParent | None:
    """The span of the job's submitter, if it sent one."""
    return parse_traceparent(job.spec.traceparent) if job.spec.traceparent else None


def job_span_id(job: Job) -> str:
    return derived_span_id("job", job.trace_id, job.id)


def is_sampled(job: Job) -> bool:
    caller = caller_of(job)
    return caller is None or caller.sampled


def context_of(job: Job) -> str | None:
    """The trace context for work that a job causes; None for a job that is made up, which has no trace."""
    if not job.trace_id:
        return None
    return make_traceparent(TraceParent(job.trace_id, job_span_id(job), sampled=is_sampled(job)))
