"""Inspecting workers: `worker` shows the processes of a running job, `debug` opens a shell where the job runs.

The shell must not act in the job's name: it gets the variables that the daemon names, and no Stoker variable of the
caller.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stoker.cli.jobs import plain_text
from stoker.cli.kit import render, table
from stoker.cli.kit.addresses import job_named
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, Command, Given
from stoker.core.errors import PermissionDenied, UsageError

if TYPE_CHECKING:
    from stoker.core.views import EnvironmentView, ProcessView, WorkerView

HEADERS = ("PID", "PARENT", "STATE", "CPU%", "CPU", "MEMORY", "FILES", "THREADS", "NAME")
TERMINAL_VARIABLES = ("TERM", "COLORTERM", "COLUMNS", "LINES")


@Command(words="ID", options=(JSON,), examples=("stoker worker 42", "stoker worker 42 --json"))
def worker(given: Given) -> None:
    view = call(given, "worker.get", {"job": job_named(given, given["words"][0])})
    if given["json"]:
        render.json_document(view)
        return
    render.facts(_facts(view))
    if view["processes"]:
        render.line()
        table.show(HEADERS, [_row(process) for process in view["processes"]], spare=("THREADS", "FILES", "PARENT"))


def _facts(view: WorkerView) -> list[tuple[str, object]]:
    reports = view["said"] or {}
    silent_ms = view["silent_ms"]
    return [
        ("job", f"{view['job']}, attempt {view['attempt']}"),
        ("state", view["state"] + (f", being stopped ({view['stopping']})" if view["stopping"] else "")),
        ("pid", view["pid"]),
        ("launcher", f"{view['launcher']}, {view['launcher_state']}"),
        ("started", view["started_at"] and render.when(view["started_at"])),
        ("cpu", f"{view['cpu_percent']}% of a core now, {render.span(view['cpu_ms'])} so far"),
        ("memory", render.size(view["memory_bytes"])),
        ("open files", view["open_files"]),
        ("children", view["children"]),
        ("progress", None if reports.get("progress") is None else f"{reports['progress']}%"),
        ("status", reports.get("status")),
        ("sign of life", reports.get("last_heartbeat") and render.when(reports["last_heartbeat"])),
        ("silent for", silent_ms and render.span(silent_ms)),
        ("ignored", reports.get("ignored") or None),
    ]


def _row(process: ProcessView) -> tuple[object, ...]:
    return (
        process["pid"],
        process["parent"],
        process["state"],
        process["cpu_percent"],
        render.span(process["cpu_ms"]),
        render.size(process["memory_bytes"]),
        "-" if process["open_files"] is None else process["open_files"],
        process["threads"],
        process["name"],
    )


def _check_owner(job: EnvironmentView) -> None:
    """A shell obeys its environment (PROMPT_COMMAND, PATH), so that of another user would act in the caller's name."""
    owner = job["owner_uid"]
    if owner != os.geteuid():
        raise PermissionDenied(
            f"job {job['id']} belongs to uid {owner}, and its environment would act as uid {os.geteuid()} in the shell",
            hint=f"sudo -u '#{owner}' stoker debug {job['id']}",
        )


@Command(words="ID", examples=("stoker debug 42",))
def debug(given: Given) -> int:
    job = call(given, "job.environment", {"id": job_named(given, given["words"][0])})
    _check_owner(job)
    own = {name: os.environ[name] for name in TERMINAL_VARIABLES if name in os.environ}
    shell = os.environ.get("SHELL", "")
    shell = shell if shell.startswith("/") else "/bin/sh"
    directory = plain_text(job["working_dir"])
    try:
        os.chdir(directory)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}", hint=f"stoker show {job['id']}") from None
    render.note(f"{shell} in {directory} with the environment of job {job['id']}; type exit to leave it")
    render.flush()
    sys.stderr.flush()
    os.umask(job["umask"])
    os.execve(shell, [shell], own | {name: plain_text(value) for name, value in job["env"].items()})  # noqa: S606 - the command opens a shell
