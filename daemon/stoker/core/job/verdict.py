"""The verdict on the end of an attempt: `judge(job, attempt, ended, wall)` gives its meaning for the job.

Success, failure, a stop by us, an unseen end; the lifecycle applies the verdict. Invariants: success needs an exit
that was seen, without a stop of ours before it; an unsafe job is not queued again after an unseen end; a stop that was
not delivered before the exit has no influence.

It also owns the limit that may have caused an unsuccessful end: "likely" only for a signal that the kernel sends at
that limit, "may" for errors inside the program. Out of memory and time limits are seen, and are reasons of their own.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.job.events import Ended
from stoker.core.job.limits import Bounds
from stoker.core.job.model import Attempt, Job, OnOrphan, Outcome, OutcomeKind, Reason, Spec, State, StopReason
from stoker.core.job.retry import RetryPolicy
from stoker.core.shortage import delay_ms

SIGXCPU, SIGXFSZ = 24, 25  # of Linux; core does not import the host's list
_SENT_BY_THE_KERNEL = {SIGXCPU: "cpu_seconds", SIGXFSZ: "file_size_bytes"}
# Limits that a program feels as an error or as lack of memory. A cgroup's memory is not among them: there the kernel
# kills the process and reports that.
_FELT_INSIDE = {"rlimit": ("memory_bytes", "processes", "open_files", "file_size_bytes"), "cgroup": ("processes",)}
_LIMIT_NAMES = {
    "memory_bytes": "memory",
    "cpu_seconds": "CPU time",
    "processes": "processes",
    "open_files": "open files",
    "file_size_bytes": "file size",
}


class Verdict(Struct, frozen=True):
    """The next state of the job and its reason, what is charged to it, and the delay until the next try."""

    state: State
    reason: Reason | None = None
    failure: int = 0
    orphaning: int = 0
    delay_ms: int | None = None


AGAIN = Verdict(State.QUEUED)
CANCELLED = Verdict(State.CANCELLED, Reason.USER)

# After these stops the exit of the process does not matter.
_STOPPED: dict[StopReason, Verdict] = {
    StopReason.CANCEL: CANCELLED,
    StopReason.SUPERSEDED: Verdict(State.SUPERSEDED, Reason.SUPERSEDED),
    StopReason.DEADLINE: Verdict(State.FAILED, Reason.DEADLINE, failure=1),
    StopReason.RESTART: AGAIN,
    StopReason.ABORTED: Verdict(State.CANCELLED, Reason.ABORTED),
}

_FAILED_BY_STOP = {StopReason.TIMEOUT: Reason.TIMEOUT, StopReason.UNRESPONSIVE: Reason.UNRESPONSIVE}

# If the kernel killed a child for lack of memory, the exit code of the main process still counts.
_OWN_WORD = (OutcomeKind.EXIT, OutcomeKind.OOM)

_FAILED_BY_KIND = {
    OutcomeKind.EXIT: Reason.EXIT,
    OutcomeKind.EXCEPTION: Reason.EXIT,
    OutcomeKind.SIGNAL: Reason.SIGNAL,
    OutcomeKind.OOM: Reason.OOM,
    OutcomeKind.SPAWN_ERROR: Reason.SPAWN_ERROR,
}


def judge(job: Job, attempt: Attempt, ended: Ended, wall: int) -> Verdict:
    """The verdict on an ended attempt. `wall` is UTC ms."""
    outcome = ended.outcome
    seen = outcome.kind not in (OutcomeKind.UNSEEN, OutcomeKind.NEVER_STARTED) and not outcome.shutdown
    stop = attempt.stop_reason if outcome.stopped or not seen else None
    if stop in _STOPPED:
        return _STOPPED[stop]
    if outcome.kind is OutcomeKind.NEVER_STARTED:
        return replace(AGAIN, delay_ms=delay_ms(ended.failed_starts)) if outcome.transient else AGAIN
    if _saved(job, outcome) and stop not in _FAILED_BY_STOP:
        # This holds for a stop of the service, too: the job saved its state and can continue.
        return _next_run(Verdict(State.QUEUED, delay_ms=_rest_of_base_delay(job, attempt, outcome, wall)), attempt)
    if not seen or stop in (StopReason.SHUTDOWN, StopReason.ORPHANED):
        return _unseen(job, Reason.SHUTDOWN if outcome.shutdown else _unseen_reason(attempt, stop))
    succeeded = stop is None and outcome.kind in _OWN_WORD and outcome.exit_code in job.spec.success_exit_codes
    if succeeded and not outcome.output_refused:
        return Verdict(State.SUCCEEDED, Reason.EXIT)
    if succeeded:
        reason = Reason.OUTPUT  # the steps that need this one would start without its output
    else:
        reason = _FAILED_BY_STOP[stop] if stop is not None else _FAILED_BY_KIND[outcome.kind]
    return _next_run(_failure(job, outcome, reason, wall, ended.luck), attempt)


def failed_by_itself(spec: Spec, outcome: Outcome) -> bool:
    """Whether its log may show the cause: it ended without success and was not stopped."""
    if outcome.stopped or outcome.kind not in (OutcomeKind.EXIT, OutcomeKind.SIGNAL, OutcomeKind.OOM):
        return False
    code = outcome.exit_code
    return code is None or code not in (*spec.success_exit_codes, spec.checkpoint_exit_code)


def _next_run(verdict: Verdict, attempt: Attempt) -> Verdict:
    """If a stop arrives too late for this attempt its outcome stands, but the job is not retried."""
    if verdict.state is State.FAILED or attempt.stop_reason not in _STOPPED:
        return verdict
    return replace(_STOPPED[attempt.stop_reason], failure=verdict.failure)


def _saved(job: Job, outcome: Outcome) -> bool:
    """Whether it exited with `checkpoint_exit_code`: it saved its state and asks to be run again."""
    code = job.spec.checkpoint_exit_code
    return code is not None and outcome.kind in _OWN_WORD and outcome.exit_code == code


def _rest_of_base_delay(job: Job, attempt: Attempt, outcome: Outcome, wall: int) -> int:
    """Starts are at least `base_delay_ms` apart, so that a job which saves and exits at once does not spin."""
    began = attempt.started_at or attempt.created_at
    ran_ms = (outcome.ended_at or wall) - began
    return job.spec.base_delay_ms - max(0, min(ran_ms, job.spec.base_delay_ms))


def _failure(job: Job, outcome: Outcome, reason: Reason, wall: int, luck: float) -> Verdict:
    """Another try if the budget and the deadline allow it."""
    decision = RetryPolicy.of(job.spec).after_failure(job.failures + 1, outcome, luck)
    late = (
        decision.delay_ms is not None
        and job.spec.deadline is not None
        and wall + decision.delay_ms >= job.spec.deadline
    )
    if decision.delay_ms is None or late:
        return Verdict(State.FAILED, reason, failure=1)
    return Verdict(State.WAITING, failure=1, delay_ms=decision.delay_ms)


def reason_of_stuck(outcome: Outcome) -> Reason:
    """The reason of a held job whose stuck attempt has ended."""
    return _FAILED_BY_KIND.get(outcome.kind, Reason.LOST)


def _unseen_reason(attempt: Attempt, stop: StopReason | None) -> Reason:
    if stop is StopReason.SHUTDOWN:
        return Reason.SHUTDOWN
    return Reason.LOST if attempt.adopted else Reason.ORPHANED


def _unseen(job: Job, reason: Reason) -> Verdict:
    """The job's `on_orphan` decides; an end by a stop of the service is not charged."""
    charge = 0 if reason is Reason.SHUTDOWN else 1
    if job.spec.on_orphan is OnOrphan.FAIL:
        return Verdict(State.FAILED, reason, orphaning=charge)
    if job.spec.on_orphan is OnOrphan.HOLD:
        return Verdict(State.HELD, reason, orphaning=charge)
    if charge and job.orphanings + charge >= job.spec.max_orphanings:
        return Verdict(State.HELD, Reason.POISON, orphaning=charge)
    return Verdict(State.QUEUED, orphaning=charge)


def suspected_limit(bounds: Bounds | None, outcome: Outcome | None) -> str | None:
    """A clause that names the limit that may have caused an unsuccessful end; None if no limit is suspected."""
    if bounds is None or outcome is None or outcome.stopped or outcome.exit_code == 0:
        return None
    if outcome.kind not in (OutcomeKind.EXIT, OutcomeKind.SIGNAL):
        return None
    name = _SENT_BY_THE_KERNEL.get(outcome.signal or 0)
    if name is not None and getattr(bounds.rlimit, name) is not None:
        return f"its limit of {_LIMIT_NAMES[name]} is the likely cause: the kernel sends that signal there"
    suspects = [
        _LIMIT_NAMES[name]
        for by, names in _FELT_INSIDE.items()
        for name in names
        if getattr(getattr(bounds, by), name) is not None
    ]
    if _used_up(bounds.rlimit.cpu_seconds, outcome):
        suspects.insert(0, _LIMIT_NAMES["cpu_seconds"])
    return f"a limit may be the cause, see its log: {', '.join(suspects)}" if suspects else None


def _used_up(cpu_seconds: int | None, outcome: Outcome) -> bool:
    """A program that catches SIGXCPU and goes on gets SIGKILL."""
    used_ms = (outcome.user_ms or 0) + (outcome.system_ms or 0)
    return cpu_seconds is not None and outcome.signal is not None and used_ms >= cpu_seconds * 1_000
