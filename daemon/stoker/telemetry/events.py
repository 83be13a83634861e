"""The closed list of events that the daemon logs, with their severities; alerts and dashboards depend on these names.

A name is never reused with another meaning, and its severity never depends on the caller: details go into fields.
`error` needs a person now, `warning` needs one if it goes on, `info` reports the life of jobs and the daemon, `debug`
helps to find a bug.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Self


class Severity(IntEnum):
    """In order; the numbers are those of the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


DEBUG, INFO, WARNING, ERROR, CRITICAL = Severity


class LogEvent(StrEnum):
    """The name is the field `event` of a line, the severity its field `level`."""

    severity: Severity

    def __new__(cls, name: str, severity: Severity) -> Self:
        event = str.__new__(cls, name)
        event._value_ = name
        event.severity = severity
        return event

    # --- the daemon ---
    DAEMON_STARTING = "daemon_starting", INFO
    DAEMON_READY = "daemon_ready", INFO
    DAEMON_UNWELL = "daemon_unwell", ERROR
    DAEMON_WELL = "daemon_well", INFO
    DAEMON_DRAINING = "daemon_draining", INFO
    DAEMON_STOPPING = "daemon_stopping", INFO
    DAEMON_STOPPED = "daemon_stopped", INFO
    DAEMON_FAILED = "daemon_failed", CRITICAL
    SAFE_MODE_ENTERED = "safe_mode_entered", CRITICAL
    CONFIG_RELOADED = "config_reloaded", INFO
    CONFIG_REFUSED = "config_refused", ERROR
    TURN_SLOW = "turn_slow", WARNING
    CALLBACK_SLOW = "callback_slow", WARNING
    LOG_LINES_LOST = "log_lines_lost", WARNING
    LIBRARY_MESSAGE = "library_message", WARNING
    TELEMETRY_LOST = "telemetry_lost", WARNING
    BACKGROUND_RETRIED = "background_retried", ERROR
    BACKGROUND_FAILED = "background_failed", CRITICAL

    HOST_STATE_CHANGED = "host_state_changed", DEBUG
    FILE_UNTOLD = "file_untold", WARNING

    # --- jobs ---
    JOB_SUBMITTED = "job_submitted", DEBUG  # job_started repeats it a moment later
    JOB_STARTED = "job_started", INFO
    JOB_SUCCEEDED = "job_succeeded", INFO
    JOB_RETRY_SCHEDULED = "job_retry_scheduled", INFO
    JOB_RETRIED = "job_retried", INFO
    JOB_RESTARTED = "job_restarted", INFO
    JOB_EDITED = "job_edited", INFO
    JOB_REQUEUED = "job_requeued", INFO
    JOB_RELEASED = "job_released", INFO
    JOB_ADOPTED = "job_adopted", INFO
    JOB_STOPPING = "job_stopping", INFO
    JOB_CANCELLED = "job_cancelled", INFO
    JOB_SUPERSEDED = "job_superseded", INFO
    JOB_EXPIRED = "job_expired", WARNING
    JOB_SKIPPED = "job_skipped", WARNING
    JOB_HELD = "job_held", WARNING
    JOB_ORPHANED = "job_orphaned", WARNING
    TASK_FAILED = "task_failed", WARNING
    TASK_TIMEOUT = "task_timeout", WARNING
    WORKER_UNRESPONSIVE = "worker_unresponsive", WARNING
    WORKER_UNHEARD = "worker_unheard", WARNING
    WORKER_UNSTOPPABLE = "worker_unstoppable", WARNING
    CLUSTER_AWAY = "cluster_away", WARNING
    CLUSTER_FULL = "cluster_full", WARNING
    CLUSTER_FULL_END = "cluster_full_end", INFO
    CLUSTER_BACK = "cluster_back", INFO
    RUN_FILES_LEFT = "run_files_left", WARNING
    WORKER_LEAKED = "worker_leaked", WARNING
    HANDLER_RAISED = "handler_raised", ERROR

    # --- queues, resources, rates, schedules, workflows ---
    QUEUE_SET = "queue_set", INFO
    QUEUE_PAUSED = "queue_paused", INFO
    QUEUE_RESUMED = "queue_resumed", INFO
    QUEUE_THROTTLED = "queue_throttled", WARNING
    QUEUE_NARROWED = "queue_narrowed", INFO
    QUEUE_WIDENED = "queue_widened", INFO
    QUEUE_UNTHROTTLED = "queue_unthrottled", INFO
    QUEUE_OVERFLOWED = "queue_overflowed", INFO
    QUEUE_STANDSTILL = "queue_standstill", WARNING
    EVENT_EMITTED = "event_emitted", INFO
    RESOURCE_SET = "resource_set", INFO
    RATE_SET = "rate_set", INFO
    RATE_REMOVED = "rate_removed", INFO
    SCHEDULE_SET = "schedule_set", INFO
    SCHEDULE_REMOVED = "schedule_removed", INFO
    SCHEDULE_PAUSED = "schedule_paused", INFO
    SCHEDULE_RESUMED = "schedule_resumed", INFO
    SCHEDULE_RUN = "schedule_run", INFO
    SCHEDULE_MISSED = "schedule_missed", WARNING
    SCHEDULE_SKIPPED = "schedule_skipped", WARNING
    SCHEDULE_REFUSED = "schedule_refused", ERROR
    HOOK_REFUSED = "hook_refused", ERROR
    HOOK_UNUSABLE = "hook_unusable", ERROR
    HOOK_UNMATCHED = "hook_unmatched", WARNING  # its queue or workflow may still come
    RESOURCE_EXHAUSTED = "resource_exhausted", WARNING
    DEPENDENCY_CYCLE_DETECTED = "dependency_cycle_detected", WARNING
    WORKFLOW_EXPANDED = "workflow_expanded", INFO
    WORKFLOW_ROLLED_BACK = "workflow_rolled_back", WARNING
    ARCHIVE_FAILED = "archive_failed", ERROR
    WORKFLOW_FAILED = "workflow_failed", WARNING
    CHECKPOINT_DAMAGED = "checkpoint_damaged", WARNING
    CHECKPOINT_FAILED = "checkpoint_failed", WARNING
    CHECKPOINT_STALE = "checkpoint_stale", WARNING

    # --- launchers and recovery ---
    LAUNCHER_STARTED = "launcher_started", INFO
    LAUNCHER_BACK = "launcher_back", INFO
    LAUNCHER_STUCK = "launcher_stuck", ERROR
    LAUNCHER_LEFT = "launcher_left", INFO
    LAUNCHER_LOST = "launcher_lost", ERROR
    RECOVERY_PLANNED = "recovery_planned", INFO
    RECOVERY_FINISHED = "recovery_finished", INFO
    RECOVERY_FAILED = "recovery_failed", CRITICAL

    # --- the host and clients ---
    SOCKET_LOST = "socket_lost", ERROR
    SOCKET_RESTORED = "socket_restored", WARNING
    SOCKET_OUT_OF_REACH = "socket_out_of_reach", WARNING
    STATE_NOT_NOTED = "state_not_noted", ERROR
    STATE_RESTORED = "state_restored", WARNING
    STATE_LOST = "state_lost", CRITICAL
    STATE_BACK = "state_back", WARNING
    RETENTION_PURGED = "retention_purged", INFO
    RETENTION_WAITS = "retention_waits", WARNING
    RETENTION_FAILED = "retention_failed", ERROR
    BACKUP_MADE = "backup_made", INFO
    BACKUP_FAILED = "backup_failed", ERROR
    JOURNAL_BEGUN = "journal_begun", INFO
    JOURNAL_DAMAGED = "journal_damaged", ERROR
    JOURNAL_FAILED = "journal_failed", ERROR
    JOURNAL_GIVEN_UP = "journal_given_up", ERROR
    JOURNAL_BACK = "journal_back", INFO
    HOST_SHORTAGE = "host_shortage", ERROR
    HOST_SHORTAGE_OVER = "host_shortage_over", INFO
    DISK_FULL = "disk_full", ERROR
    DISK_OK = "disk_ok", INFO
    STORAGE_FAILED = "storage_failed", CRITICAL
    CLIENT_REFUSED = "client_refused", WARNING
    ACCESS_DENIED = "access_denied", WARNING
    REQUEST_FAILED = "request_failed", ERROR
