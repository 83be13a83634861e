"""The cause of the end of a job in words, with the limit that the job exceeded.

Owns the part of the sentence of `why` that follows the state. `core.reason_words` has the words for each reason.
"""

from __future__ import annotations

from stoker.core.job.model import Job, Reason, Spec, State, StopReason
from stoker.core.reason_words import SENTENCES, signal_words
from stoker.core.units import duration, exited_with, instant


def cause(job: Job) -> str:
    """`: signal 9 (SIGKILL)`, `: stopped at its time limit (timeout), 20s an attempt`, ` by a person`."""
    reason = job.reason
    if reason is None:
        return ""
    if reason is Reason.USER:
        skipped_step = job.state is State.SKIPPED and job.workflow_id is not None
        return f" {SENTENCES[reason]}" + (" or by a resume strategy" if skipped_step else "")
    if reason is Reason.REUSED and job.spec.reused is not None:
        return f": reused from {job.spec.reused.place} (job {job.spec.reused.job})"
    if reason is Reason.EXIT and job.exit_code is not None and job.state is State.FAILED:
        return f": {exited_with(job.exit_code, job.spec.success_exit_codes)}"
    if reason is Reason.SIGNAL and job.signal is not None:
        return f": {signal_words(job.signal)}"
    return f": {SENTENCES[reason]}{_limit(job.spec, reason)}" if reason in SENTENCES else in_brackets(job)


def stop_words(spec: Spec, why: StopReason) -> str:
    """`timeout, 20s an attempt`: why an attempt is being stopped, with the limit that it exceeded."""
    exceeded = {StopReason.TIMEOUT: Reason.TIMEOUT, StopReason.DEADLINE: Reason.DEADLINE}.get(why)
    return why.value if exceeded is None else why.value + _limit(spec, exceeded)


def _limit(spec: Spec, reason: Reason) -> str:
    """The limit that a job exceeded."""
    if reason is Reason.TIMEOUT and spec.timeout_ms is not None:
        return f", {duration(spec.timeout_ms)} an attempt"
    if reason is Reason.TTL and spec.ttl_ms is not None:
        return f", {duration(spec.ttl_ms)}"
    return f", {instant(spec.deadline)}" if reason is Reason.DEADLINE and spec.deadline is not None else ""


def in_brackets(job: Job) -> str:
    """` (exit 0)`, ` (dependency)`: the reason of a job that has one."""
    assert job.reason is not None
    number = {Reason.EXIT: job.exit_code, Reason.SIGNAL: job.signal}.get(job.reason)
    return f" ({job.reason}{'' if number is None else f' {number}'})"
