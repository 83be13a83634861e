"""The daemon as a whole: status and drain.

Owns the facts of `status` and their order: what it is, what it does, what holds it back.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal

from stoker import paths
from stoker.cli.kit import outcome, render
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.limits import print_users
from stoker.cli.queues import print_queues
from stoker.cli.rates import in_words
from stoker.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.core.daemon_views import (
        BackupStatus,
        DiskView,
        DrainBegun,
        JournalStatus,
        LauncherView,
        RecoveryCount,
        RecoveryStatus,
        StatusView,
        TimeOffView,
        UsageView,
    )
    from stoker.core.host_views import FactView, FilesView, PressureView, ShortageView
    from stoker.core.quota_views import UserView
    from stoker.core.views import StaleCheckpoint

HOST_FACTS: tuple[Literal["idle", "charging"], ...] = ("idle", "charging")
MOST_STALE = 5
MOST_RATES = 5  # the others are in `stoker rate ls`
JOURNAL_SLACK_BYTES = 32 * 1024 * 1024  # the newest files are never removed
# The actions of a start on unfinished attempts, in the order in which they are shown.
RECOVERED: tuple[tuple[RecoveryCount, str], ...] = (
    ("settled", "settled"),
    ("adopted", "adopted"),
    ("stopped", "stopped"),
    ("requeued", "requeued"),
    ("failed", "failed"),
    ("held", "held"),
    ("swept", "leaked processes stopped"),
)


@Command(
    options=(Option("--users", None, "the jobs and limits of each user (for operators)"), JSON),
    examples=("stoker status", "stoker status --json | jq .running", "stoker status --users"),
)
def status(given: Given) -> None:
    if given["users"]:
        _users(given)
        return
    answer: StatusView = call(given, "system.status", {})
    if (step := answer["safe_mode_next"]) is not None:
        answer["safe_mode_next"] = paths.with_state_dir(step, answer["state_dir"], os.environ, os.getuid())
    if given["json"]:
        render.json_document(answer)
        return
    render.facts(summary(answer))
    render.line()
    print_queues(answer["queues"])


def _users(given: Given) -> None:
    users: list[UserView] = call(given, "system.users", {})["users"]
    if given["json"]:
        render.json_document(users)
    else:
        print_users(users)


def summary(answer: StatusView) -> list[tuple[str, object]]:
    return [
        ("stokerd", f"{answer['version']}, pid {answer['pid']}, up {render.span(answer['uptime_ms'])}"),
        ("mode", f"safe mode, changes are refused: {answer['safe_mode']}" if answer["safe_mode"] else answer["mode"]),
        ("next", answer["safe_mode_next"]),
        ("jobs", _jobs(answer)),
        ("pressure", _pressure(answer["pressure"])),
        *[(fact, _fact(answer["host"][fact])) for fact in HOST_FACTS],
        ("files", _files(answer["files"])),
        *[("rate", f"{one['key']}, {in_words(one)}") for one in answer["rates"][:MOST_RATES]],
        ("starts", _shortage(answer["host_shortage"])),
        *[("launcher", _launcher(launcher)) for launcher in answer["launchers"]],
        *[("stale", remark) for remark in _stale(answer["stale_checkpoints"])],
        ("recovery", _recovery(answer["recovery"], safe_mode=answer["safe_mode"])),
        ("disk", _disk(answer["disk"])),
        ("state", _database(answer["usage"])),
        ("measured", _measured(answer["usage"])),
        ("retention", _time_off(answer["retention_off"])),
        ("backup", backup_words(answer["backups"], _ago)),
        ("journal", _journal(answer["journal"])),
        ("state dir", answer["state_dir"]),
        ("socket", answer["socket"]),
        ("instance", f"{answer['instance']}, epoch {answer['epoch']}, change {answer['last_seq']}"),
    ]


def _jobs(answer: StatusView) -> str:
    others = ", ".join(f"{answer[state]} {state}" for state in ("queued", "waiting", "held"))
    if answer["safe_mode"]:  # it is unknown whether their workers live: safe mode does not check them
        return f"{answer['running']} recorded as running and left alone, {others}"
    return f"{answer['running']} of at most {answer['max_running']} running, {others}"


def _shortage(shortage: ShortageView | None) -> str | None:
    if shortage is None:
        return None
    next_try = render.span(shortage["next_try_in_ms"])
    return (
        f"the host cannot start a process: {shortage['error']}; jobs wait and use up no attempt; next try in {next_try}"
    )


def _pressure(pressure: PressureView) -> str:
    """`no queue is throttled; cpu 75%, memory 3%; PSI cpu some 9%, io full 0%`: `top` may cut the end."""
    levels = {gauge.replace("_", " "): f"{level:.0f}%" for gauge, level in pressure["levels"].items()}
    usage = ", ".join(f"{gauge} {level}" for gauge, level in levels.items() if " " not in gauge)
    stalls = ", ".join(f"{gauge} {level}" for gauge, level in levels.items() if " " in gauge)
    causes = " and ".join(cause.replace("_", " ") for cause in pressure["causes"])
    state = f"queues of class low are throttled by {causes}" if pressure["throttled"] else "no queue is throttled"
    times = pressure["throttle_events"]
    state += f" ({counted(times, 'time')} so far)" if times else ""
    return "; ".join(filter(None, (state, usage or "not measured yet", stalls and f"PSI {stalls}")))


def _fact(fact: FactView) -> str:
    return f"{'yes' if fact['holds'] else 'no'}: {fact['words']}"


def _files(files: FilesView) -> str | None:
    """`jobs wait for 3 paths; the kernel reports no changes of 1, looked at again and again: ...`."""
    if not files["paths"]:
        return None
    text = f"jobs wait for {counted(files['paths'], 'path')}"
    if files["untold"]:
        text += f"; the kernel may not report changes of {files['untold']}, looked at again and again: {files['why']}"
    return text + "".join(f"; the file system at {point} does not answer" for point in files["hanging"])


def _launcher(launcher: LauncherView) -> str:
    leaked = f", {launcher['leaked']} leaked" if launcher["leaked"] else ""
    return f"{launcher['id']}, pid {launcher['pid']}, {launcher['state']}, {launcher['running']} running{leaked}"


def _stale(attempts: list[StaleCheckpoint]) -> list[str]:
    more = len(attempts) - MOST_STALE
    return [*map(outcome.stale, attempts[:MOST_STALE]), *([f"and {more} more"] if more > 0 else [])]


def _recovery(recovery: RecoveryStatus, *, safe_mode: str | None) -> str:
    """The actions of the last start on unfinished attempts."""
    counts = [f"{recovery[count]} {words}" for count, words in RECOVERED if recovery[count]]
    if safe_mode and recovery["took_ms"] is None and not counts:
        return f"given up, unfinished attempts are unchanged; began {render.when(recovery['started_at'])}"
    took = "still going on" if recovery["took_ms"] is None else f"took {render.span(recovery['took_ms'])}"
    return f"{', '.join(counts) or 'no unfinished attempts'}; began {render.when(recovery['started_at'])}, {took}"


def _disk(disk: DiskView) -> str:
    return f"{render.size(disk['free_bytes'])} free{', LOW: new jobs are refused' if disk['full'] else ''}"


def _database(usage: UsageView) -> str:
    """`database 12.0M (3.1M of it free)`, as it is now."""
    free = f" ({render.size(usage['database_free_bytes'])} of it free)" if usage["database_free_bytes"] else ""
    return f"database {render.size(usage['database_bytes'] + usage['wal_bytes'])}{free}"


def _measured(usage: UsageView) -> str:
    """`logs 1.2G, checkpoints 64.0M, archives 0B (2026-11-29 09:12:44)`: these are summed up from time to time."""
    if usage["measured_at"] is None:
        return "logs, checkpoints and archives are not measured yet"
    logs, checkpoints = render.size(usage["log_bytes"]), render.size(usage["checkpoint_bytes"])
    archives, at = render.size(usage["archive_bytes"]), render.when(usage["measured_at"])
    return f"logs {logs}, checkpoints {checkpoints}, archives {archives} ({at})"


def _time_off(off: TimeOffView | None) -> str | None:
    if off is None:
        return None
    span = f"{render.when(off['begin'])} to {render.when(off['end'])}"
    return f"{span} is not counted as age: this host was off, or its clock is wrong; stoker purge counts it"


def backup_words(backups: BackupStatus, made: Callable[[int], str]) -> str:
    """`2h05m ago, up to change 345; 17 kept, 1.2G`; `made` says when."""
    newest, every = backups["newest"], backups["every_ms"]
    schedule = "made only by hand" if every is None else f"one every {render.span(every)}"
    text = f"none yet, {schedule}"
    if newest is not None:
        size = render.size(backups["bytes"])
        text = f"{made(newest['at'])}, up to change {newest['seq']}; {backups['count']} kept, {size}"
    return f"{text}; the last one FAILED: {backups['error']}" if backups["error"] else text


def _ago(at_ms: int) -> str:
    return f"{render.span(time.time() * 1_000 - at_ms)} ago"


def _journal(journal: JournalStatus) -> str:
    """`up to change 345; 3 files, 40.1M`."""
    if not journal["enabled"]:
        return "off: [journal] enabled"
    at = "" if journal["at"] is None else f", {render.when(journal['at'])}"
    text = f"up to change {journal['seq']}{at}; {counted(journal['files'], 'file')}, {render.size(journal['bytes'])}"
    if journal["error"]:
        later = "it was given up, a new one begins later" if journal["given_up"] else "the missing rows are added later"
        return f"{text}; it CANNOT BE WRITTEN, {later}: {journal['error']}"
    if journal["behind"]:
        return f"{text}; catching up"
    if journal["bytes"] > journal["keep_bytes"] + JOURNAL_SLACK_BYTES:
        return f"{text}; more than [journal] keep_bytes, until a newer backup replaces the older files: stoker backup"
    return text


@Command(
    options=(Option("--stop", None, "also stop the jobs that survive the daemon"), JSON),
    examples=("stoker drain", "stoker drain --stop"),
)
def drain(given: Given) -> None:
    answer: DrainBegun = call(given, "system.drain", {"stop": given["stop"]})
    if given["json"]:
        render.json_document(answer)
    else:
        jobs, patience = counted(answer["waits_for"], "running job"), render.span(answer["timeout_ms"])
        wait = f"{jobs} may go on for {patience}; then " if answer["waits_for"] else ""
        render.note(f"draining: no job starts; {wait}the daemon exits")
