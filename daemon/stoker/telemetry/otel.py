"""Traces and metrics: every name that leaves the process, and the calls by which the daemon reports.

Owns the names and `Telemetry`, which is also what runs when nothing is exported: empty methods, and the SDK is not
even imported. Refuses state: a span is made when it is over, from rows, with ids that follow from the job's; so a trace
is whole although the daemon was restarted in the middle of it. exporting.py does that.

A job's trace: `job` (submission to final state, child of the caller's span if it sent one) and below it `job.submit`,
one `job.wait` and one `job.attempt` for each attempt. A worker's own spans hang below its `job.attempt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stoker.core.trace import TraceParent, attempt_span_id, make_traceparent, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from stoker.config import Config
    from stoker.core.job.model import Attempt, Job
    from stoker.core.throttle import Gauge

SERVICE_NAME: Final = "stoker"

SPAN_JOB: Final = "job"
SPAN_SUBMIT: Final = "job.submit"
SPAN_WAIT: Final = "job.wait"
SPAN_ATTEMPT: Final = "job.attempt"

METRIC_ORPHANED_JOBS: Final = "recovery.orphaned_jobs"
METRIC_ZOMBIES_CLEANED: Final = "recovery.zombies_cleaned"
METRIC_RETRY_COUNT: Final = "worker.retry_count"
METRIC_THROTTLE_EVENTS: Final = "system.cpu_throttle_events"
METRIC_CHECKPOINT_FAILURES: Final = "checkpoint.failures"
METRIC_QUEUE_DEPTH: Final = "queue.depth"
METRIC_WAIT_MS: Final = "job.wait_ms"
METRIC_RUN_MS: Final = "job.run_ms"
METRIC_BATCH_SIZE: Final = "commit.batch_size"
METRIC_COMMIT_MS: Final = "commit.ms"
METRIC_SLOW_TURNS: Final = "loop.slow_turns"
METRIC_SLOW_CALLBACKS: Final = "loop.slow_callbacks"

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


class Telemetry:
    """What the daemon reports, going nowhere. Times are UTC milliseconds, durations milliseconds."""

    def job_submitted(self, job: Job, committed_at: int) -> None:
        """The job was asked for at `created_at` and is on disk since `committed_at`."""

    def attempt_started(self, job: Job, attempt: Attempt, waiting_since: int) -> None:
        """`waiting_since` is when the job began to wait for this start."""

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """The attempt is settled."""

    def job_finished(self, job: Job) -> None:
        """The job is final."""

    def retry_scheduled(self, job: Job) -> None:
        """A seen failure is tried again."""

    def orphans_found(self, count: int) -> None:
        """Attempts that a former daemon or a dead launcher left."""

    def zombies_cleaned(self, count: int) -> None:
        """Workers stopped that no open attempt owned."""

    def throttle_began(self, causes: Iterable[Gauge]) -> None:
        """Queues of class low wait from now on."""

    def checkpoint_failed(self) -> None:
        """A checkpoint could not be written."""

    def committed(self, requests: int, took_ms: float) -> None:
        """One group commit of so many requests is on disk."""

    def turn_was_slow(self) -> None:
        """A part of a turn kept the event loop for too long."""

    def callback_was_slow(self) -> None:
        """Something else kept the event loop for too long."""

    def watch_queue_depth(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Ask `read` for the queued jobs of each queue when they are exported.

        It is called from the exporter's thread: let it return a mapping that is replaced, never changed.
        """

    def traceparent(self, job: Job, run_id: str) -> str:
        """The trace context that the attempt's worker gets.

        Without an exporter Stoker has no span that a worker's could hang below, so the caller's context goes on as it
        came (W3C Trace Context, section 4.3); a job without one still has its trace id.
        """
        return job.spec.traceparent or make_traceparent(TraceParent(job.trace_id, attempt_span_id(run_id)))

    def close(self) -> None:
        """Send what is not sent yet, for a short while at most."""


def caller_of(job: Job) -> TraceParent | None:
    """The span that submitted the job, if it told."""
    return parse_traceparent(job.spec.traceparent) if job.spec.traceparent else None


def setup(config: Config, *, version: str = "", instance: str = "") -> Telemetry:
    """The telemetry that `[otel]` asks for. Raises ConfigInvalid if a package or the port for it is missing."""
    if config.otel.exporter == "none" and not config.otel.prometheus_port:
        return Telemetry()
    from stoker.telemetry.exporters import from_settings  # noqa: PLC0415 - 8 MiB that only exporters need

    return from_settings(config.otel, version=version, instance=instance)
