"""Log events and measurements of committed steps.

Owns the table from steps to log events. It runs after the commit, so a failure here has no consequence for jobs. Log
lines of a job carry `job attempt queue trace_id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Change, Job, Reason, State
from stoker.core.job.verdict import failed_by_itself
from stoker.engine.turn import Transition
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import is_logged, log, together
from stoker.telemetry.otel import ATTR_QUEUE, Counted, Telemetry

_BY_REASON = {
    Reason.TIMEOUT: LogEvent.TASK_TIMEOUT,
    Reason.DEADLINE: LogEvent.TASK_TIMEOUT,
    Reason.UNRESPONSIVE: LogEvent.WORKER_UNRESPONSIVE,
    Reason.OOM: LogEvent.RESOURCE_EXHAUSTED,
    Reason.ORPHANED: LogEvent.JOB_ORPHANED,
    Reason.LOST: LogEvent.JOB_ORPHANED,
}

_BY_STATE = {
    State.SUCCEEDED: LogEvent.JOB_SUCCEEDED,
    State.CANCELLED: LogEvent.JOB_CANCELLED,
    State.EXPIRED: LogEvent.JOB_EXPIRED,
    State.SUPERSEDED: LogEvent.JOB_SUPERSEDED,
    State.SKIPPED: LogEvent.JOB_SKIPPED,
    State.HELD: LogEvent.JOB_HELD,
}

_BY_EVENT: dict[type[ev.Event], LogEvent] = {
    ev.Dispatched: LogEvent.JOB_STARTED,
    ev.Retry: LogEvent.JOB_RETRIED,
    ev.Restart: LogEvent.JOB_RESTARTED,
    ev.Release: LogEvent.JOB_RELEASED,
    ev.Adopted: LogEvent.JOB_ADOPTED,
}


def log_event(transition: Transition) -> LogEvent | None:
    """The log event of a step; None for a step that stands only in the history of its job."""
    job, before, event = transition.job, transition.before, transition.event
    if event is None or isinstance(event, ev.Edit):
        return LogEvent.JOB_SUBMITTED if event is None else LogEvent.JOB_EDITED
    if before is not None and before.state is State.RUNNING and job.state is State.RUNNING:
        return _BY_EVENT.get(type(event), LogEvent.JOB_STOPPING if transition.attempt is not None else None)
    if job.state is State.FAILED:
        return _BY_REASON.get(job.reason or Reason.EXIT, LogEvent.TASK_FAILED)
    if job.state in _BY_STATE:
        return _BY_STATE[job.state]
    if isinstance(event, ev.Ended):
        again = before is not None and job.failures > before.failures
        return LogEvent.JOB_RETRY_SCHEDULED if again else LogEvent.JOB_REQUEUED
    return _BY_EVENT.get(type(event))


_BY_CAUSE = {
    ("queue", "paused"): LogEvent.QUEUE_PAUSED,
    ("queue", "resumed"): LogEvent.QUEUE_RESUMED,
    ("queue", "configured"): LogEvent.QUEUE_SET,
    ("queue", "set"): LogEvent.QUEUE_SET,
    ("resource", "set"): LogEvent.RESOURCE_SET,
    ("rate", "configured"): LogEvent.RATE_SET,
    ("rate", "set"): LogEvent.RATE_SET,
    ("rate", "removed"): LogEvent.RATE_REMOVED,
    ("schedule", "configured"): LogEvent.SCHEDULE_SET,
    ("schedule", "set"): LogEvent.SCHEDULE_SET,
    ("schedule", "removed"): LogEvent.SCHEDULE_REMOVED,
    ("schedule", "paused"): LogEvent.SCHEDULE_PAUSED,
    ("schedule", "resumed"): LogEvent.SCHEDULE_RESUMED,
    ("schedule", "run"): LogEvent.SCHEDULE_RUN,
    ("schedule", "missed"): LogEvent.SCHEDULE_MISSED,
    ("schedule", "skipped"): LogEvent.SCHEDULE_SKIPPED,
    ("schedule", "refused"): LogEvent.SCHEDULE_REFUSED,
}


def announce_settings(changes: Sequence[Change]) -> None:
    """Log changes of queues, resources, rates and schedules that are on disk."""
    for change in changes:
        fields: dict[str, Any] = {change.kind: change.subject, "cause": change.cause, "uid": change.actor_uid}
        if change.cause == "refused" and isinstance(change.payload, dict):
            fields["error"] = change.payload["note"]
        log(_BY_CAUSE[change.kind, change.cause], **fields)


def announce(transitions: Sequence[Transition], telemetry: Telemetry, committed_at: int) -> None:
    """Log and measure steps that are on disk since `committed_at` (UTC ms)."""
    with together():
        for transition in transitions:
            event = log_event(transition)
            if event is not None and is_logged(event):
                log(event, **_fields(transition))
            _measure(transition, telemetry, committed_at)


def _fields(transition: Transition) -> dict[str, Any]:
    job, attempt = transition.job, transition.attempt
    fields: dict[str, Any] = {"job": job.id, "queue": job.spec.queue, "trace_id": job.trace_id}
    if attempt is not None:
        fields["attempt"] = attempt.ordinal
        if attempt.stop_reason is not None:
            fields["stop_reason"] = attempt.stop_reason.value
        if attempt.outcome is not None:
            fields |= {"exit_code": attempt.outcome.exit_code, "signal": attempt.outcome.signal}
            # Text that a job wrote stays in its log and its record: it may be confidential, or long.
            own = failed_by_itself(job.spec, attempt.outcome)
            fields["error"] = None if own else attempt.outcome.error
    if job.reason is not None:
        fields["reason"] = job.reason.value
    if job.superseded_by is not None:
        fields["superseded_by"] = job.superseded_by
    if transition.change.actor_uid is not None:
        fields["uid"] = transition.change.actor_uid
    return fields


def _measure(transition: Transition, telemetry: Telemetry, committed_at: int) -> None:
    job, attempt = transition.job, transition.attempt
    match transition.event:
        case None:
            telemetry.job_submitted(job, committed_at)
        case ev.Dispatched() if attempt is not None:
            telemetry.attempt_started(job, attempt, _waiting_since(job, attempt))
        case ev.Ended() if attempt is not None:
            telemetry.attempt_ended(job, attempt)
            if transition.before is not None and job.failures > transition.before.failures and not job.final:
                telemetry.count(Counted.RETRIES, labels={ATTR_QUEUE: job.spec.queue})
    if job.final and (transition.before is None or not transition.before.final):
        telemetry.job_finished(job)


def _waiting_since(job: Job, attempt: Attempt) -> int:
    """The first attempt waited since the job could start; a later one was delayed on purpose."""
    return attempt.created_at if attempt.ordinal > 1 else max(job.created_at, job.spec.run_at or 0)
