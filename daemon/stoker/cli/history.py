"""`stoker history`, the table of attempts, and the last lines of a log.

Owns which facts of an attempt and of a change are shown, and how much of a log `--logs` shows.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table, values
from stoker.cli.kit.addresses import job_named
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.core.reason_words import last_line
from stoker.core.units import counted
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stoker.core.views import AttemptView, LimitView, RecordedChange

# Fields of a change that only --json shows. The times of an end are in its line and in the table of attempts.
HIDDEN = (
    "state", "key", "order_key", "checkpoint_floor", "needs_open", "conditions_open", "undecided", "not_needed",
    "started_at", "finished_at",
)  # fmt: skip
CHANGE_HEADERS = ("SEQ", "AT", "FROM", "TO", "CAUSE", "BY", "DETAILS")
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024
LOGS = Option("--logs", None, f"also the last {TAIL_LINES} lines of its log")


@Command(words="ID", options=(JSON,), examples=("stoker history 42",))
def history(given: Given) -> None:
    ident = job_named(given, given["words"][0])
    with connect(given) as client:
        answer = client.history(ident)
    if given["json"]:
        render.json_document(answer)
        return
    if answer["older_removed"]:
        render.note("older entries of its history were removed ([retention] keep_changes, stoker purge)")
    table.show(CHANGE_HEADERS, [change_row(c) for c in answer["changes"]], spare=("BY", "SEQ", "FROM"), whole=True)
    if answer["attempts"]:
        render.line()
        print_attempts(answer["attempts"], older=answer["attempts_before"])


def change_row(change: RecordedChange) -> tuple[object, ...]:
    """A change in the columns of `history`, and of the page of the job."""
    actor = change["actor_uid"]
    details = [f"“{change['note']}”"] if change["note"] else []
    details += edited(change["details"].get("edited", {}))
    details += [_detail(name, value) for name, value in change["details"].items() if _is_shown(name, value)]
    return (
        change["seq"],
        render.when(change["at"]),
        change["from"] or "-",
        change["to"] or "-",
        change["cause"],
        "stoker" if actor is None else f"uid {actor}",
        " ".join(details),
    )


def _is_shown(name: str, value: object) -> bool:
    """Nested records and keys of the database are for --json; the state has its own columns."""
    return value is not None and name not in HIDDEN and not isinstance(value, dict | list)


def _detail(name: str, value: Any) -> str:
    return f"{name}={render.when(value) if name.endswith('_at') else value}"


def typed_limits(by_field: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Limits as the command line writes them: `memory`, `64.0M`."""
    for name, field in values.LIMITS.items():
        value = by_field.get(field)
        if value is not None:
            unit = field.rpartition("_")[2]
            yield name, render.size(value) if unit == "bytes" else f"{value}s" if unit == "seconds" else value


def edited(changed: Mapping[str, list[Any]]) -> Iterator[str]:
    """`priority 0 -> 5`, for each change."""
    for field, (old, new) in changed.items():
        if field == "limits":
            before, after = dict(typed_limits(old)), dict(typed_limits(new))
            for name in {**before, **after}:
                if before.get(name) != after.get(name):
                    yield f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        else:
            label = field.removesuffix("_ms").replace("_", "-")
            yield f"{label} {_typed(field, old)} -> {_typed(field, new)}"


def _typed(field: str, value: Any) -> object:
    """A value as `stoker show` prints it."""
    if value is None:
        return "none"
    if field == "deadline":
        return render.when(value)
    return render.span(value) if field.endswith("_ms") else render.visible(str(value))


def print_attempts(attempts: list[AttemptView], *, older: int | None = None) -> None:
    """A table of attempts. `older`: the number of the first one shown, if earlier ones were left out."""
    table.show(*attempt_table(attempts), spare=("LOG", "MEMORY", "CPU", "STARTED"), whole=True)
    if older is not None:
        render.note(f"not shown: {counted(older - 1, 'earlier attempt')}")


def attempt_table(attempts: list[AttemptView]) -> tuple[list[str], list[tuple[object, ...]]]:
    """Headers and rows."""
    headers = ["TRY", "STARTED", "TOOK", "OUTCOME", "CPU", "MEMORY", "LOG", "REMARK"]
    rows = [_attempt_row(attempt) for attempt in attempts]
    if any(attempt["limits"] for attempt in attempts):
        headers.insert(-1, "IN FORCE")
        rows = [
            (*row[:-1], _in_force(attempt["limits"] or {}), row[-1])
            for row, attempt in zip(rows, attempts, strict=True)
        ]
    return headers, rows


def _in_force(limits: dict[str, LimitView]) -> str:
    """`memory=64.0M:cgroup processes:none`: each requested limit, its value, and what enforces it."""
    shown = dict(typed_limits({field: limit["value"] for field, limit in limits.items()}))
    typed = {field: name for name, field in values.LIMITS.items()}
    names = {typed[field]: limit["by"] for field, limit in limits.items()}
    return " ".join(f"{name}={shown[name]}:{by}" if name in shown else f"{name}:{by}" for name, by in names.items())


def _attempt_row(attempt: AttemptView) -> tuple[object, ...]:
    started, ended = attempt["started_at"], attempt["ended_at"]
    cpu_ms = None if attempt["user_ms"] is None else attempt["user_ms"] + (attempt["system_ms"] or 0)
    rss_kib = attempt["max_rss_kib"]
    return (
        attempt["ordinal"],
        render.when(started),
        render.span(ended - started if started is not None and ended is not None else None),
        attempt_outcome(attempt),
        render.span(cpu_ms),
        render.size(rss_kib and rss_kib * 1024),
        render.size(attempt["log_bytes"]),
        remark(attempt),
    )


def remark(attempt: AttemptView) -> str:
    """Further words about an attempt: its error, why it was stopped, a limit that may be the cause."""
    stopped = attempt["stop_reason"] and f"stopped: {attempt['stop_reason']}"
    pids = ", ".join(map(str, attempt["unstoppable"]))
    unstoppable = pids and f"cannot signal pid {pids}"
    return "; ".join(filter(None, (last_line(attempt["error"] or ""), stopped, unstoppable, attempt["suspicion"])))


def attempt_outcome(attempt: AttemptView) -> str:
    """`exit 3`, `signal 9`, `running, pid 123`."""
    if attempt["outcome"] is None:
        return f"running, pid {attempt['pid']}" if attempt.get("pid") else "running"
    number = {"exit": attempt["exit_code"], "signal": attempt["signal"]}.get(attempt["outcome"])
    return attempt["outcome"] if number is None else f"{attempt['outcome']} {number}"


def log_tail(client: Client, job: Mapping[str, Any]) -> bytes:
    """The last lines of the log of a job's newest attempt; empty if it never started."""
    if not job["attempts"]:
        return b""
    params = {"id": job["id"], "attempt": job["attempts"], "tail_lines": TAIL_LINES}
    tail = b""
    for piece in client.stream("job.logs", params):
        tail = (tail + a2b_base64(piece.get("data", "")))[-TAIL_BYTES:]
    return tail


def print_log_tail(title: str, tail: bytes) -> None:
    render.line()
    render.line(render.visible(title) if tail else f"{render.visible(title)} nothing")
    if tail:
        with render.LogText(raw=False) as text:
            text.write(tail if tail.endswith(b"\n") else tail + b"\n")
