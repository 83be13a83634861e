"""Looking at the worker of a job, and standing where it stands: worker, debug.

Owns how a worker is shown and the shell of `debug`. Refuses to hand anything to that shell that would make it a worker,
or let it speak in the job's name: the daemon gives its variables, and none of the caller's Stoker variables go along.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from stoker.cli.jobs import plain_text
from stoker.cli.kit import render, values
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, Given, command
from stoker.core.errors import UsageError

HEADERS = ("PID", "PARENT", "STATE", "CPU%", "CPU", "MEMORY", "FILES", "THREADS", "NAME")
OF_THE_TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "LINES")


@command(words="ID", least=1, most=1, options=(JSON,), examples=("stoker worker 42", "stoker worker 42 --json"))
def worker(given: Given) -> int:
    found = call(given, "worker.get", {"job": values.job_id(given["words"][0])})
    if given["json"]:
        render.json_document(found)
        return 0
    render.facts(_facts(found))
    if found["processes"]:
        render.line()
        render.table(HEADERS, [_row(process) for process in found["processes"]])
    return 0


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    said = found["said"] or {}
    silent_ms = found["silent_ms"]
    return [
        ("job", f"{found['job']}, attempt {found['attempt']}"),
        ("state", found["state"] + (f", being stopped ({found['stopping']})" if found["stopping"] else "")),
        ("pid", found["pid"]),
        ("launcher", f"{found['launcher']}, {found['launcher_state']}"),
        ("started", found["started_at"] and render.when(found["started_at"])),
        ("cpu", f"{found['cpu_percent']}% of a core now, {render.span(found['cpu_ms'])} so far"),
        ("memory", render.size(found["memory_bytes"])),
        ("open files", found["open_files"]),
        ("children", found["children"]),
        ("progress", None if said.get("progress") is None else f"{said['progress']}%"),
        ("status", said.get("status")),
        ("sign of life", said.get("last_heartbeat") and render.when(said["last_heartbeat"])),
        ("silent for", silent_ms and render.span(silent_ms)),
        ("ignored", said.get("ignored") or None),
    ]


def _row(process: dict[str, Any]) -> tuple[object, ...]:
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


@command(words="ID", least=1, most=1, examples=("stoker debug 42",))
def debug(given: Given) -> int:
    found = call(given, "job.environment", {"id": values.job_id(given["words"][0])})
    own = {name: os.environ[name] for name in OF_THE_TERMINAL if name in os.environ}
    shell = os.environ.get("SHELL", "")
    shell = shell if shell.startswith("/") else "/bin/sh"
    directory = plain_text(found["working_dir"])
    try:
        os.chdir(directory)
    except OSError as failure:
        raise UsageError(f"{directory}: {failure.strerror}", hint=f"stoker show {found['id']}") from None
    render.note(f"{shell} in {directory} with the environment of job {found['id']}; exit leaves it")
    render.flush()
    sys.stderr.flush()
    os.umask(found["umask"])
    os.execve(shell, [shell], own | {name: plain_text(value) for name, value in found["env"].items()})  # noqa: S606 - a shell is what was asked for
