"""The status of the daemon in words, and what of it a person should know at once, with the next command. Pure.

Owns the table of notices: what holds jobs back, what is lost if it goes on, what waits for a person.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from stoker import paths
from stoker.cli.kit import outcome, render
from stoker.cli.status import backup_words, summary
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import StatusView

MOST_STALE: Final = 5


class StatusNotice(NamedTuple):
    """`severity`: error (jobs do not run, or something is lost), warning or note. `link`: the page with more."""

    severity: str
    text: str
    next: str | None = None
    link: str | None = None


def steady_facts(status: StatusView) -> dict[str, str]:
    """The lines of `stoker status` by name, without what changes while nothing happens: a page is then sent again."""
    facts = {name: str(text) for name, text in summary(status) if text is not None and name != "stokerd"}
    return {**facts, "backup": backup_words(status["backups"], render.when)}


Rule = Callable[["StatusView", dict[str, str]], list[StatusNotice]]


def notices(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    """Those that hold, in the order of the table. `facts`: the status in words."""
    return [notice for rule in RULES for notice in rule(status, facts)]


def _safe_mode(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    if status["safe_mode"] is None:
        return []
    step = status["safe_mode_next"]
    named = step and paths.with_state_dir(step, status["state_dir"], os.environ, os.getuid())
    return [StatusNotice("error", facts["mode"], named, "/recovery")]


def _mode(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    """Draining, or a refusal of all changes."""
    if status["safe_mode"] is not None or status["mode"] == "running":
        return []
    return [StatusNotice("warning", f"No job starts: {facts['mode']}", "stoker status", "/health")]


def _shortage(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    return [StatusNotice("error", facts["starts"])] if status["host_shortage"] else []


def _disk(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    return (
        [StatusNotice("error", f"Disk: {facts['disk']}", "stoker purge --before 30d --dry-run")]
        if status["disk"]["full"]
        else []
    )


def _journal(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    return (
        [StatusNotice("error", f"Journal: {facts['journal']}", "stoker doctor")] if status["journal"]["error"] else []
    )


def _backup(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    return [StatusNotice("error", f"Backup: {facts['backup']}", "stoker backup")] if status["backups"]["error"] else []


def _launchers(status: StatusView, _facts: dict[str, str]) -> list[StatusNotice]:
    return [
        StatusNotice(
            "error",
            f"Launcher {one['id']} does not answer; its {counted(one['running'], 'job')} may go on",
            "stoker doctor",
            "/recovery",
        )
        for one in status["launchers"]
        if one["state"] == "stuck"
    ]


def _retrying(status: StatusView, _facts: dict[str, str]) -> list[StatusNotice]:
    return [
        StatusNotice("warning", f"{name} failed and is tried again: {why}") for name, why in status["retrying"].items()
    ]


def _throttled(status: StatusView, facts: dict[str, str]) -> list[StatusNotice]:
    names = ", ".join(queue["name"] for queue in status["queues"] if queue["throttled"])
    if not names:
        return []
    return [StatusNotice("warning", f"{facts['pressure'].partition(';')[0]}: {names}", None, "/resources")]


def _away(status: StatusView, _facts: dict[str, str]) -> list[StatusNotice]:
    """A cluster that does not answer: its queues wait for it."""
    away = [queue for queue in status["queues"] if queue["backend_away"] is not None]
    if not away:
        return []
    names = ", ".join(queue["name"] for queue in away)
    text = f"The cluster does not answer, no job starts there ({names}): {away[0]['backend_away']}"
    return [StatusNotice("warning", text, "sinfo", f"/queues/{quote(away[0]['name'], safe='')}")]


def _stale(status: StatusView, _facts: dict[str, str]) -> list[StatusNotice]:
    stale = status["stale_checkpoints"]
    shown = [StatusNotice("warning", outcome.stale(one), None, f"/jobs/{one['job']}") for one in stale[:MOST_STALE]]
    more = len(stale) - len(shown)
    return [*shown, *([StatusNotice("warning", f"and {more} more without a new checkpoint")] if more else [])]


def _held(status: StatusView, _facts: dict[str, str]) -> list[StatusNotice]:
    held = status["held"]
    return [StatusNotice("note", f"{counted(held, 'job')} held for a person", None, "/jobs?state=held")] if held else []


RULES: Final[tuple[Rule, ...]] = (
    _safe_mode,
    _mode,
    _shortage,
    _disk,
    _journal,
    _backup,
    _launchers,
    _retrying,
    _throttled,
    _away,
    _stale,
    _held,
)
