"""The daemon as a whole: status and drain.

Owns the order in which its facts are read: is it well, what does it do, what holds it back. Refuses to judge
them; whether something is wrong is what `mode`, `throttled`, `full` and `state` say.
"""

from __future__ import annotations

from stoker.cli import render
from stoker.cli.connection import call
from stoker.cli.options import JSON, Option, command
from stoker.cli.queues import print_queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.options import Given


@command(options=(JSON,), examples=("stoker status", "stoker status --json | jq .running"))
def status(given: Given) -> int:
    answer = call(given, "system.status", {})
    if given["json"]:
        render.json_document(answer)
        return 0
    render.facts(summary(answer))
    if isinstance(answer.get("queues"), list):
        render.line()
        print_queues(answer["queues"])
    return 0


def summary(answer: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("stokerd", f"{answer['version']}, pid {answer['pid']}, up {render.span(answer['uptime_ms'])}"),
        ("mode", answer["mode"]),
        ("jobs", _jobs(answer)),
        ("pressure", _pressure(answer.get("pressure") or {})),
        *[("launcher", _launcher(launcher)) for launcher in answer.get("launchers") or ()],
        ("recovery", _recovery(answer.get("recovery") or {})),
        ("database", _database(answer.get("database") or {})),
        ("disk", _disk(answer.get("disk") or {})),
        ("state dir", answer.get("state_dir")),
        ("socket", answer.get("socket")),
        ("instance", f"{answer['instance']}, epoch {answer['epoch']}"),
    ]


def _jobs(answer: dict[str, Any]) -> str:
    room = f" of {answer['max_running']}" if answer.get("max_running") else ""
    others = ", ".join(f"{answer[state]} {state}" for state in ("queued", "waiting", "held"))
    return f"{answer['running']}{room} running, {others}"


def _pressure(pressure: dict[str, Any]) -> str | None:
    if not pressure:
        return None
    measured = [f"{name} {pressure[name]:.0f}%" for name in ("cpu", "memory") if pressure.get(name) is not None]
    state = "low queues are throttled" if pressure.get("throttled") else "not throttled"
    since = f" since {render.when(pressure['since'])}" if pressure.get("throttled") and pressure.get("since") else ""
    return f"{', '.join([*measured, state])}{since}, {pressure.get('throttle_events', 0)} throttlings so far"


def _launcher(launcher: dict[str, Any]) -> str:
    leaked = f", {launcher['leaked']} leaked" if launcher.get("leaked") else ""
    return f"{launcher['id']}, pid {launcher['pid']}, {launcher['state']}, {launcher['running']} running{leaked}"


def _recovery(recovery: dict[str, Any]) -> str | None:
    shown = [
        f"{name} {render.when(value) if name.endswith('_at') else value}"
        for name, value in recovery.items()
        if value and not isinstance(value, dict | list)
    ]
    return ", ".join(shown) or None


def _database(database: dict[str, Any]) -> str | None:
    if not database:
        return None
    sizes = f"{render.size(database.get('bytes'))}, WAL {render.size(database.get('wal_bytes'))}"
    return f"{sizes}, change {database.get('last_seq')}"


def _disk(disk: dict[str, Any]) -> str | None:
    if not disk:
        return None
    return f"{render.size(disk.get('free_bytes'))} free{', FULL: nothing is accepted' if disk.get('full') else ''}"


@command(
    options=(Option("--stop", None, "stop running jobs too, also those that would survive the daemon"), JSON),
    examples=("stoker drain", "stoker drain --stop"),
)
def drain(given: Given) -> int:
    answer = call(given, "system.drain", {"stop": given["stop"]})
    if given["json"]:
        render.json_document(answer)
    else:
        render.note("draining: nothing new starts, and the daemon leaves when its running jobs have ended")
    return 0
