"""The errors that people and programs get from Stoker, one class for each cause.

Owns the stable `code`, whether a retry can help (`transient`), the JSON-RPC number and the exit status of each.
Standard library only: the client imports it.

Invariants: codes are unique; a transient error never asks the user to change the request.
Exit statuses follow sysexits.h, JSON-RPC numbers section 5.1 of the JSON-RPC 2.0 specification.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self

EX_USAGE = 64
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78


class StokerError(Exception):
    """The base class. `message` is for people, `hint` is the next command to type, `details` can be sent as JSON."""

    code: ClassVar[str] = "internal"
    transient: ClassVar[bool] = False
    rpc_code: ClassVar[int] = -32000
    exit_status: ClassVar[int] = 1
    perhaps_done = False  # the answer was lost, so the request may have been carried out

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def within(self, place: str) -> Self:
        """The same error about a part of a larger request, as in `jobs[3]`."""
        path = self.details.get("path")
        message = f"{place}: {self.message}" if path is None else f"{place}.{self.message}"
        where = place if path is None else f"{place}.{path}"
        return type(self)(message, hint=self.hint, **{**self.details, "path": where})

    def as_value(self) -> Self:
        """This error without its traceback, so that it can be kept: frames keep alive all that they refer to."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def to_wire(self) -> dict[str, Any]:
        """The JSON-RPC error object of this error."""
        data: dict[str, Any] = {"code": self.code, "transient": self.transient}
        if self.hint is not None:
            data["hint"] = self.hint
        data.update(self.details)
        return {"code": self.rpc_code, "message": self.message, "data": data}


# --- what a person typed, or a client sent -------------------------------------------------------------------


class UsageError(StokerError):
    """The command line is wrong; nothing was sent."""

    code, exit_status = "usage", EX_USAGE


class ParseError(StokerError):
    """The frame is not JSON, or not JSON that Stoker accepts. `path` names the field where known."""

    code, rpc_code, exit_status = "parse_error", -32700, EX_DATAERR


class InvalidRequest(StokerError):
    """JSON, but not a JSON-RPC 2.0 request."""

    code, rpc_code, exit_status = "invalid_request", -32600, EX_DATAERR


class MethodNotFound(StokerError):
    code, rpc_code, exit_status = "method_not_found", -32601, EX_USAGE


class InvalidParams(StokerError):
    """A field is missing, unknown, of the wrong type or beyond its limit; `path` names it."""

    code, rpc_code, exit_status = "invalid_params", -32602, EX_DATAERR


class FlowInvalid(InvalidParams):
    """A workflow that cannot be run as it is written; `errors` lists every mistake with its path."""

    code = "flow_invalid"


class CheckpointTooLarge(InvalidParams):
    code = "checkpoint_too_large"


class FrameTooLarge(ParseError):
    code = "frame_too_large"


class FrameTimeout(ParseError):
    code = "frame_timeout"


class TooManyRequests(StokerError):
    code, transient, exit_status = "too_many_requests", True, EX_TEMPFAIL


class TooManyConnections(StokerError):
    code, transient, exit_status = "too_many_connections", True, EX_TEMPFAIL


class TooManyStreams(StokerError):
    code, transient, exit_status = "too_many_streams", True, EX_TEMPFAIL


class TooManyWaits(StokerError):
    code, transient, exit_status = "too_many_waits", True, EX_TEMPFAIL


class AnswerTooLarge(StokerError):
    code, exit_status = "answer_too_large", EX_DATAERR


class PermissionDenied(StokerError):
    code, exit_status = "permission_denied", EX_NOPERM


class IdempotencyConflict(StokerError):
    """The key was used before with another spec; nothing was stored."""

    code, exit_status = "idempotency_conflict", EX_DATAERR


# --- what a request names ---------------------------------------------------------------------------------


class JobNotFound(StokerError):
    code, exit_status = "job_not_found", EX_DATAERR


class QueueNotFound(StokerError):
    code, exit_status = "queue_not_found", EX_DATAERR


class AttemptNotFound(StokerError):
    code, exit_status = "attempt_not_found", EX_DATAERR


class ResourceNotFound(StokerError):
    code, exit_status = "resource_not_found", EX_DATAERR


class RateNotFound(StokerError):
    code, exit_status = "rate_not_found", EX_DATAERR


class HookNotFound(StokerError):
    code, exit_status = "hook_not_found", EX_DATAERR


class ScheduleNotFound(StokerError):
    code, exit_status = "schedule_not_found", EX_DATAERR


class ScheduleExists(StokerError):
    code, exit_status = "schedule_exists", EX_DATAERR


class TooManySchedules(StokerError):
    code, exit_status = "too_many_schedules", EX_CANTCREAT


class TooManyPaths(StokerError):
    code, transient, exit_status = "too_many_paths", True, EX_TEMPFAIL


class TooManyRates(StokerError):
    code, exit_status = "too_many_rates", EX_CANTCREAT


class TooManyEvents(StokerError):
    code, exit_status = "too_many_events", EX_CANTCREAT


class ScheduleDeclared(StokerError):
    """It is declared in the settings file, so only the file can change it."""

    code, exit_status = "schedule_declared", EX_DATAERR


class WorkflowNotFound(StokerError):
    code, exit_status = "workflow_not_found", EX_DATAERR


class StepNotFound(StokerError):
    code, exit_status = "step_not_found", EX_DATAERR


class ChangesRemoved(StokerError):
    """Retention has removed changes behind the cursor of a watch; `oldest` is the first that is left."""

    code, exit_status = "changes_removed", EX_DATAERR


class HistoryChanged(StokerError):
    """The cursor of a watch belongs to a history that a restore replaced."""

    code, exit_status = "history_changed", EX_DATAERR


class CheckpointNotFound(StokerError):
    code, exit_status = "checkpoint_not_found", EX_DATAERR


class StrategyNotFound(StokerError):
    code, exit_status = "strategy_not_found", EX_DATAERR


class HandlerNotFound(StokerError):
    code, exit_status = "handler_not_found", EX_DATAERR


# --- what cannot be done now ------------------------------------------------------------------------------


class NotAllowed(StokerError):
    """The verb does not apply to a job in that state; nothing changed."""

    code, exit_status = "not_allowed", EX_DATAERR


class AlreadyFinished(NotAllowed):
    """The job ended before the verb could take effect; its end stands."""

    code = "already_finished"


class AttemptMayLive(NotAllowed):
    """An attempt of the job is open, so nothing may start another."""

    code = "attempt_may_live"


class StaleAttempt(NotAllowed):
    """The token is not that of a running attempt: only a running attempt may write for its job."""

    code = "stale_attempt"


class ConfirmationNeeded(NotAllowed):
    """The verb would run an unsafe job a second time; ask again with `yes`."""

    code = "confirmation_needed"


class StrategyFailed(NotAllowed):
    """A resume strategy of the user raised an error, or returned an unknown name; nothing changed."""

    code = "strategy_failed"


class ResumeTimeout(NotAllowed):
    """The checks before a resume took longer than `[workflows] resume_timeout_ms`; nothing changed."""

    code, transient, exit_status = "resume_timeout", True, EX_TEMPFAIL


class QueueFull(StokerError):
    """Backpressure: the queue's `max_queued` is reached. `retry_after_ms` says when to try again."""

    code, transient, exit_status = "queue_full", True, EX_TEMPFAIL


class QuotaReached(StokerError):
    code, transient, exit_status = "quota_reached", True, EX_TEMPFAIL


class CheckpointTooSoon(StokerError):
    """The minimum interval between two checkpoints of a job; `retry_after_ms` says when to try again."""

    code, transient, exit_status = "checkpoint_too_soon", True, EX_TEMPFAIL


class DiskFull(StokerError):
    code, transient, exit_status = "disk_full", True, EX_TEMPFAIL


class Draining(StokerError):
    code, transient, exit_status = "draining", True, EX_TEMPFAIL


class SafeMode(StokerError):
    """Recovery failed its validation: until it is started again, the daemon answers reads and changes nothing."""

    code, transient, exit_status = "safe_mode", True, EX_TEMPFAIL


class WaitTimeout(StokerError):
    code, transient, exit_status = "wait_timeout", True, EX_TEMPFAIL


# --- the world around -------------------------------------------------------------------------------------


class DaemonUnreachable(StokerError):
    code, transient, exit_status = "daemon_unreachable", True, EX_UNAVAILABLE


class NoAnswer(DaemonUnreachable):
    """The daemon did not answer in time; it may still carry out the request."""

    code, exit_status = "no_answer", EX_TEMPFAIL


class ConfigInvalid(StokerError):
    """The settings are wrong; `errors` lists every mistake at once."""

    code, exit_status = "config_invalid", EX_CONFIG


class StateRefused(StokerError):
    """The state directory is not one this daemon may use; nothing in it was changed."""

    code, exit_status = "state_refused", EX_CONFIG


class AlreadyRunning(StokerError):
    code, exit_status = "already_running", EX_TEMPFAIL


class InputOutputFailed(StokerError):
    """The client could not read its input or write its output."""

    code, exit_status = "io_error", EX_IOERR


class CannotCreate(StokerError):
    code, exit_status = "cannot_create", EX_CANTCREAT


class StorageFailed(StokerError):
    """A commit failed and may or may not be on disk: the daemon stops, and the next start reads what is there."""

    code, exit_status = "storage_failed", EX_IOERR


class BackupFailed(StokerError):
    """A backup could not be made, or is not sound; nothing of it is left, and the state is as it was."""

    code, exit_status = "backup_failed", EX_IOERR


class BackupRefused(StokerError):
    """A file is not a backup that can be used here; nothing was changed."""

    code, exit_status = "backup_refused", EX_DATAERR


class JournalBroken(StokerError):
    """A file of the journal is damaged, or one is missing; nothing was changed."""

    code, exit_status = "journal_broken", EX_DATAERR


class CorruptRecord(StokerError):
    """A record cannot be read, or does not match its own checksum: a person must look, a restart does not help."""

    code, exit_status = "corrupt_record", EX_CONFIG


class LogUnreadable(StokerError):
    """The log is gone, was replaced by its worker, or cannot be read from the disk."""

    code, exit_status = "log_unreadable", EX_IOERR


class CheckpointDamaged(StokerError):
    """A checkpoint does not match its checksum, so its data is not used."""

    code, exit_status = "checkpoint_damaged", EX_IOERR


class ChainBroken(StokerError):
    """A checkpoint that later ones build on is missing, so nothing is rebuilt from these."""

    code, exit_status = "chain_broken", EX_IOERR


class IllegalTransition(StokerError):
    """A bug of ours: the table has no row for this event in this state. Nothing changed."""

    code, exit_status = "illegal_transition", EX_SOFTWARE
