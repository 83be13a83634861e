"""How a job ended, as an exit status and in words. Pure.

Owns the mapping from state and reason to an exit status: the job's own code, 128+N for a signal, 124 for a time limit,
1 for every other end that is not a success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render
from stoker.core.reason_words import HANDLER_FAILED, SENTENCES, last_line, signal_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stoker.core.views import JobView, StaleCheckpoint

TIME_LIMIT = 124
AWAITED_WIDTH = 30
FINAL = ("succeeded", "failed", "cancelled", "expired", "superseded", "skipped")


def ended(standing: Mapping[str, Any]) -> bool:
    """Whether no further attempt starts by itself: the state is final, or the job is held for a person."""
    return standing["state"] in FINAL or standing["state"] == "held"


def ended_well(standing: Mapping[str, Any]) -> bool:
    """Whether it counts as done: it succeeded, or a person skipped it."""
    by_hand = standing["state"] == "skipped" and standing.get("reason") != "dependency"
    return standing["state"] == "succeeded" or by_hand


def exit_status(standing: Mapping[str, Any]) -> int:
    """The exit status of `run`, and of `wait` for one job."""
    state, reason = standing["state"], standing.get("reason")
    code, signal = standing.get("exit_code"), standing.get("signal")
    if ended_well(standing):
        return code or 0 if state == "succeeded" else 0
    if reason in ("timeout", "deadline", "ttl"):
        return TIME_LIMIT
    if state == "failed" and reason in ("exit", "signal", "oom"):
        return code or (128 + signal if signal else 1)
    return 1


def cause(standing: Mapping[str, Any]) -> str:
    """`exit code 7`, `signal 9 (SIGKILL)` or another reason; empty for a plain success."""
    reason: str | None = standing.get("reason")
    code, signal = standing.get("exit_code"), standing.get("signal")
    if reason == "signal" and signal:
        return signal_words(signal)
    if reason in (None, "exit") and not handler_failed(standing):
        return f"exit code {code}" if code or (code == 0 and standing["state"] == "failed") else ""
    if reason == "superseded" and (newer := standing.get("superseded_by")):
        return f"job {newer} took its place"
    text = SENTENCES.get(reason or "", HANDLER_FAILED if reason == "exit" else reason or "")
    # Only job.get has attempts. Their error, such as the kernel's, says more than the reason.
    error = next((attempt["error"] for attempt in reversed(standing.get("attempts_list", ()))), None)
    return f"{text}: {last_line(error)}" if error and has_error(standing) else text


def has_error(standing: Mapping[str, Any]) -> bool:
    """Whether the error of the last attempt says more than the reason."""
    return standing.get("reason") in ("spawn_error", "output") or handler_failed(standing)


def handler_failed(standing: Mapping[str, Any]) -> bool:
    """Whether it is an in-process job whose handler raised an exception."""
    return standing["state"] == "failed" and standing.get("reason") == "exit" and standing.get("exit_code") is None


def sentence(standing: Mapping[str, Any]) -> str:
    """`job 42 failed: exit code 7`."""
    why = cause(standing)
    return f"job {standing['id']} {standing['state']}" + (f": {why}" if why else "")


def result(standing: Mapping[str, Any]) -> str:
    """The cause for a column of a table: `exit 7`, `signal 9`, `timeout`."""
    reason: str | None = standing.get("reason")
    if standing["state"] == "succeeded" and not standing.get("exit_code"):
        return ""
    if handler_failed(standing):
        return "exception"
    if reason == "exit" and standing.get("exit_code") is not None:
        return f"exit {standing['exit_code']}"
    if reason == "signal" and standing.get("signal"):
        return f"signal {standing['signal']}"
    return reason or ""


def reports(job: JobView) -> str:
    """Progress and status that the job reported, and warnings about silence."""
    percent = None if job.get("progress") is None else f"{job['progress']}%"
    silent = "no sign of life" if job.get("unresponsive") else None
    return ", ".join(word for word in (silent, percent, job.get("status_text"), _stale(job)) if word)


def _stale(job: JobView) -> str | None:
    return f"no checkpoint for {render.span(job['stale_ms'])}" if job.get("stale_ms") else None


def stale(one: StaleCheckpoint) -> str:
    """An attempt that has saved no checkpoint for too long, for `status` and `workflow show`."""
    what = f"job {one['job']}" if one["step"] is None else f"{one['step']} (job {one['job']})"
    return f"{what} has saved no checkpoint for {render.span(one['age_ms'])}"


def awaited(standing: Mapping[str, Any]) -> str:
    """The conditions that a job waits for, or the token of a rate, for a column of a table."""
    if standing["state"] != "waiting":
        return "rate" if standing.get("awaits_token") else ""
    return render.cut(", ".join(standing.get("conditions_open", ())), AWAITED_WIDTH)
