"""Inspecting jobs: ls, show.

Owns which columns and facts are shown, and their order. All values come from the daemon.
"""

from __future__ import annotations

import json
import shlex
import time
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any

from stoker.cli.history import LOGS, log_tail, print_attempts, print_log_tail, typed_limits
from stoker.cli.kit import outcome, render, table, values
from stoker.cli.kit.addresses import NamedGroup, job_or_group
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import JSON, Command, Given
from stoker.cli.kit.selection import FILTER, Overview, filter_fields
from stoker.core.redaction import HIDDEN_TEXT

if TYPE_CHECKING:
    from stoker.core.views import JobDetails, JobView
    from stoker.core.wire_types import NeedShape, RawBytesShape

HEADERS = ("ID", "STATE", "WHY", "QUEUE", "PRIO", "TRY", "AGE", "RAN", "SAYS", "JOB")
SAYS = HEADERS.index("SAYS")
SAYS_WIDTH = 24
SPARE = ("PRIO", "TRY", "AGE", "QUEUE", "SAYS", "RAN")


@Command(
    options=(
        *FILTER,
        *values.HOW_MANY,
        JSON,
    ),
    examples=(
        "stoker ls",
        "stoker ls --state failed,held --label nightly=yes",
        "stoker ls --state failed --ids | xargs -n1 stoker show",
    ),
)
def ls(given: Given) -> None:
    most = values.how_many(given)
    with connect(given) as client:
        overview = Overview(client, given["state"], filter_fields(given), most)
    if given["json"]:
        render.json_document({"jobs": overview.jobs, "more": overview.more})
    elif given["ids"]:
        for job in overview.jobs:
            render.line(job["id"])
    else:
        _print_jobs(overview.jobs)
        if overview.held_left_off:
            render.note("not all held jobs are shown: stoker ls --state held")
        elif overview.more and not given["limit"]:
            render.note(f"only the first {len(overview.jobs)} jobs are shown; --all or --limit N shows more")


def _print_jobs(jobs: list[JobView]) -> None:
    table.show(*columns(jobs, time.time_ns() // 1_000_000), spare=SPARE)


def columns(jobs: list[JobView], now_ms: int) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Headers and rows of `ls` and `top`. The column SAYS is left out if no job reports anything."""
    rows = [row(job, now_ms) for job in jobs]
    if any(line[SAYS] for line in rows):
        return HEADERS, rows
    return (*HEADERS[:SAYS], *HEADERS[SAYS + 1 :]), [(*line[:SAYS], *line[SAYS + 1 :]) for line in rows]


def row(job: JobView, now_ms: int) -> tuple[object, ...]:
    return (
        job["id"],
        "stopping" if job.get("stopping") else "frozen" if job.get("frozen") else job["state"],
        outcome.result(job) or outcome.awaited(job) or "-",
        job["queue"],
        job["priority"],
        tries(job),
        render.span(now_ms - job["created_at"]),
        render.span(_ran_ms(job, now_ms)),
        render.cut(outcome.reports(job), SAYS_WIDTH),
        title(job),
    )


def tries(job: JobView) -> str:
    """`2/3`: attempts of those allowed. `4` if there were more: orphaned and restarted ones are not charged."""
    attempts, allowed = job["attempts"], job["max_attempts"]
    return f"{attempts}/{allowed}" if attempts <= allowed else str(attempts)


def _ran_ms(job: JobView, now_ms: int) -> int | None:
    if job["started_at"] is None:
        return None
    if job["state"] == "running":
        return int(now_ms - job["started_at"])
    if job["finished_at"] is None or job["state"] == "skipped":  # a person may have skipped it long after it ran
        return None
    return max(0, int(job["finished_at"] - job["started_at"]))


def title(job: JobView) -> str:
    line = HIDDEN_TEXT if _hidden(job) else " ".join(map(quoted, (_program(job["command"]), *job["args"])))
    named = f"{job['name']}: {line}" if job["name"] else line
    return f"w{job['workflow_id']} {named}" if job.get("workflow_id") else named


def _program(command: str | RawBytesShape) -> str | RawBytesShape:
    """The name of a program; its directory is for `show`."""
    return command.rpartition("/")[2] or command if isinstance(command, str) else command


def _hidden(job: JobView) -> bool:
    """Whether it is another user's, of which an operator sees neither command nor log."""
    return job["command"] == HIDDEN_TEXT


def command_line(job: JobView) -> str:
    """The command as a shell would read it."""
    return HIDDEN_TEXT if _hidden(job) else " ".join(quoted(word) for word in (job["command"], *job["args"]))


def quoted(word: str | RawBytesShape) -> str:
    """Quoted for a shell: `'a b'`, `"it's"`, and `$'caf\\xe9'` for bytes that are not UTF-8."""
    if isinstance(word, str):
        plain_in_quotes = "'" in word and not any(mark in word for mark in '"$`\\!')
        return f'"{word}"' if plain_in_quotes else shlex.quote(word).replace("""'"'"'""", r"'\''")
    text = plain_text(word).replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") + "'"


def plain_text(word: str | RawBytesShape) -> str:
    """A string of a spec as the functions of `os` take it."""
    return word if isinstance(word, str) else a2b_base64(word["base64"]).decode("utf-8", "surrogateescape")


@Command(
    words="ID",
    options=(LOGS, JSON),
    examples=("stoker show 42", "stoker show 7/link --logs", "stoker show 42 --json | jq .reason"),
)
def show(given: Given) -> None:
    ident = job_or_group(given, given["words"][0])
    if isinstance(ident, NamedGroup):
        from stoker.cli.workflow_show import show_steps  # noqa: PLC0415 - only for groups

        show_steps(given, *ident.address)
        return
    with connect(given) as client:
        job = client.call("job.get", {"id": ident})
        log = log_tail(client, job) if given["logs"] else None
    if given["json"]:
        render.json_document(job if log is None else {**job, "log_tail": log.decode(errors="backslashreplace")})
        return
    render.facts(facts(job), verbatim=("command", "env"))
    if job.get("attempts_list"):
        render.line()
        print_attempts(job["attempts_list"], older=job.get("attempts_before"))
    if log is not None:
        print_log_tail(f"the last lines of its log (stoker logs {job['id']}):", log)


def facts(job: JobDetails) -> list[tuple[str, object]]:
    """The facts that `show` and the page of the job have."""
    state = job["state"] + (", stopping" if job.get("stopping") else ", frozen" if job.get("frozen") else "")
    # Earlier ends of a job that goes on are in the table of its attempts.
    why = outcome.cause(job) if outcome.ended(job) else ""
    return [
        ("job", job["id"]),
        ("name", job["name"]),
        ("workflow", job.get("workflow_id") and f"{job['workflow_id']}, step {job['step']}"),
        ("schedule", job.get("schedule") and f"{job['schedule']}, for {render.when(job['scheduled_for'])}"),
        ("hook", job.get("hook") and f"{job['hook']}, for change {job['hook_change'] or '(test)'}"),
        ("state", f"{state}: {why}" if why else state),
        ("superseded by", job["superseded_by"] and f"job {job['superseded_by']}"),
        ("command", command_line(job)),
        ("working dir", _text(job["working_dir"])),
        ("queue", f"{job['queue']}, priority {job['priority']}"),
        ("pid", job["pid"]),
        ("attempts", _budget(job)),
        ("says", outcome.reports(job) or None),
        ("sign of life", job.get("last_heartbeat") and render.when(job["last_heartbeat"])),
        ("created", render.when(job["created_at"])),
        ("not before", job["run_at"] and render.when(job["run_at"])),
        ("started", job["started_at"] and render.when(job["started_at"])),
        ("finished", job["finished_at"] and render.when(job["finished_at"])),
        ("deadline", job["deadline"] and render.when(job["deadline"])),
        ("timeout", job["timeout_ms"] and f"{render.span(job['timeout_ms'])} an attempt"),
        ("ttl", job["ttl_ms"] and render.span(job["ttl_ms"])),
        ("on orphan", f"{job['on_orphan']}{', survives the daemon' if job['survive'] else ''}"),
        ("rate key", job["rate_key"]),
        ("supersede key", _supersede(job)),
        ("needs", ", ".join(_need(need) for need in job["needs"] if need["job"] != job["id"]) or None),
        ("if", job.get("run_if")),
        ("needed by", ", ".join(map(str, job.get("dependents", ()))) or None),
        ("waits for", _conditions(job)),
        ("resources", _pairs(job["resources"])),
        ("limits", _pairs(dict(typed_limits(job["limits"] or {})))),
        ("nice", job["nice"] or None),
        ("umask", None if job["umask"] is None else f"{job['umask']:03o}"),
        ("labels", _pairs(job["labels"])),
        ("env", _pairs({name: _text(value) for name, value in job["env_vars"].items()})),
        ("secrets", ", ".join(job["secrets"]) or None),
        ("trace", job["trace_id"]),
        ("log", HIDDEN_TEXT if _hidden(job) else _log(job)),
    ]


def _log(job: JobView) -> str | None:
    return job["log"] or ("none: it printed nothing" if job["attempts"] else None)


def _text(word: str | RawBytesShape) -> str:
    return word if isinstance(word, str) else quoted(word)


def _budget(job: JobView) -> str:
    unseen = f", {job['orphanings']} ended unseen" if job["orphanings"] else ""
    return f"{job['attempts']} so far, {job['failures']} of {job['max_attempts']} allowed failures{unseen}"


def _supersede(job: JobView) -> str | None:
    """`nightly, stops one that runs, debounced by 30s, at most 5m00s`."""
    if job["supersede_key"] is None:
        return None
    stops = ", stops one that runs" if job["supersede_running"] == "stop" else ""
    debounced = f", debounced by {render.span(job['debounce_ms'])}" if job["debounce_ms"] else ""
    most = "" if job["debounce_max_ms"] is None else f", at most {render.span(job['debounce_max_ms'])}"
    return f"{job['supersede_key']}{stops}{debounced}{most}"


def _need(need: NeedShape | int) -> str:
    return str(need) if isinstance(need, int) else f"{need['job']}:{need['on']}"


def _conditions(job: JobView) -> str | None:
    """The open conditions, or all of them once it waits for none."""
    awaited = job.get("wait_for")
    if awaited is None:
        return None
    tree, still = awaited if isinstance(awaited, str) else json.dumps(awaited), ", ".join(job["conditions_open"])
    if not still:
        return f"{tree}, which is met"
    return tree if still == tree else f"{still} of {tree}"


def _pairs(values_by_name: dict[str, Any]) -> str | None:
    return " ".join(f"{name}={value}" for name, value in values_by_name.items()) or None
