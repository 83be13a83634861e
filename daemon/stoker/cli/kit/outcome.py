"""How a job stands, said as an exit status and as a sentence.

Owns the mapping from state and reason to what a shell sees: the job's own code, 128+N for a signal, 124 for a
time limit, 1 for every other end that is no success. Pure.
"""

from __future__ import annotations

from signal import Signals
from typing import Any

from stoker.cli.kit import render

TIME_LIMIT = 124
FINAL = ("succeeded", "failed", "cancelled", "expired", "superseded", "skipped")

SENTENCES = {
    "timeout": "stopped at its time limit (timeout)",
    "deadline": "its deadline passed",
    "ttl": "did not start within its ttl",
    "oom": "killed for want of memory",
    "unresponsive": "stopped: no sign of life in time, or it said itself that it hangs (WATCHDOG=trigger)",
    "orphaned": "it ran or ended while no daemon watched it",
    "lost": "it outlived a daemon, and nobody saw how it ended",
    "stuck": "a process may be alive that cannot be proven to be its own",
    "poison": "too many of its attempts ended unseen",
    "spawn_error": "the command could not be executed",
    "user": "by a person",
    "superseded": "a newer job took its place",
    "dependency": "a job it needs can no longer end as it must",
    "not_needed": "the failure that it waited for did not come",
    "output": "what it handed on could not be taken",
    "shutdown": "it was stopped with the daemon",
}


# What the kernel says with a signal that hardly anybody has met.
MEANINGS = {24: ", CPU time limit exceeded", 25: ", file size limit exceeded"}


def ended(standing: dict[str, Any]) -> bool:
    """No further attempt comes by itself: final, or held for a person."""
    return standing["state"] in FINAL or standing["state"] == "held"


def well(standing: dict[str, Any]) -> bool:
    """It ended as those that need it want it: it succeeded, or a person called it done."""
    by_hand = standing["state"] == "skipped" and standing.get("reason") != "dependency"
    return standing["state"] == "succeeded" or by_hand


def exit_status(standing: dict[str, Any]) -> int:
    """What `run` and `wait` of one job exit with."""
    state, reason = standing["state"], standing.get("reason")
    code, signal = standing.get("exit_code"), standing.get("signal")
    if well(standing):
        return code or 0 if state == "succeeded" else 0
    if reason in ("timeout", "deadline", "ttl"):
        return TIME_LIMIT
    if state == "failed" and reason in ("exit", "signal", "oom"):
        return code or (128 + signal if signal else 1)
    return 1


def cause(standing: dict[str, Any]) -> str:
    """`exit code 7`, `signal 9 (SIGKILL)`, or why else; empty for a plain success."""
    reason: str | None = standing.get("reason")
    code, signal = standing.get("exit_code"), standing.get("signal")
    if reason == "signal" and signal:
        return f"signal {signal} ({_signal_name(signal)}{MEANINGS.get(signal, '')})"
    if reason in (None, "exit"):
        return f"exit code {code}" if code or (code == 0 and standing["state"] == "failed") else ""
    said = SENTENCES.get(reason, reason)
    # Only job.get tells attempts; what the kernel said of a command is worth more than our words.
    error = next((attempt["error"] for attempt in reversed(standing.get("attempts_list", ()))), None)
    return f"{said}: {last_line(error)}" if error else said


def last_line(error: str | None) -> str:
    """Of a traceback or the end of a log what says most."""
    return (error or "").rstrip().rpartition("\n")[2]


def sentence(standing: dict[str, Any]) -> str:
    """`job 42 failed: exit code 7`."""
    why = cause(standing)
    return f"job {standing['id']} {standing['state']}" + (f": {why}" if why else "")


def result(standing: dict[str, Any]) -> str:
    """The same for a column of a table: `exit 7`, `signal 9`, `timeout`."""
    reason: str | None = standing.get("reason")
    if standing["state"] == "succeeded" and not standing.get("exit_code"):
        return ""
    if reason == "exit" and standing.get("exit_code") is not None:
        return f"exit {standing['exit_code']}"
    if reason == "signal" and standing.get("signal"):
        return f"signal {standing['signal']}"
    return reason or ""


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - 34}"


def said(job: dict[str, Any]) -> str:
    """What its worker reports of itself, in a few words."""
    percent = None if job.get("progress") is None else f"{job['progress']}%"
    silent = "no sign of life" if job.get("unresponsive") else None
    return ", ".join(word for word in (silent, percent, job.get("status_text"), _stale(job)) if word)


def _stale(job: dict[str, Any]) -> str | None:
    return f"no checkpoint for {render.span(job['stale_ms'])}" if job.get("stale_ms") else None


def stale(one: dict[str, Any]) -> str:
    """An attempt that has left no checkpoint for too long, as `status` and `workflow show` tell of it."""
    what = f"job {one['job']}" if one["step"] is None else f"{one['step']} (job {one['job']})"
    return f"{what} runs and has left no checkpoint for {render.span(one['age_ms'])}"
