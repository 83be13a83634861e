"""`stoker recover`: what a daemon start would do with unfinished attempts, and what earlier starts did.

Owns how the plan and the reports are printed. Only a starting daemon carries a plan out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stoker import paths
from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, STATE_DIR, Command, Given, Option
from stoker.core.errors import UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.overview_views import RecoveredAttempt, RecoverySummary
    from stoker.ops.recovery_preview import PlannedStep, Preview

MOST_LISTED = 1_000  # more are not kept
COUNTS = ("settled", "adopted", "stopped", "requeued", "unseen", "stuck", "swept")
# The action for an attempt, in the words of the table.
WOULD = {
    "settle": "settle",
    "keep": "let it go on",
    "adopt": "adopt",
    "stop": "stop",
    "requeue": "queue again",
    "unseen": "close as unseen",
    "hold_stuck": "hold",
    "wait": "ask its launcher",
}


@Command(
    options=(
        Option("--dry-run", None, "print the plan of a start now, while no daemon runs; change and signal nothing"),
        Option("--list", None, "ask the daemon for the reports of its starts, newest first"),
        Option("--start", "NUMBER", "ask the daemon for the report of one start", convert=values.positive),
        STATE_DIR,
        JSON,
    ),
    examples=(
        "stoker recover --dry-run",
        "stoker recover --dry-run --state-dir /var/lib/stoker --json",
        "stoker recover --list",
        "stoker recover --start 7",
    ),
)
def recover(given: Given) -> int:
    """A daemon recovers by itself at each start. Exit status of --dry-run: 0 if a start would follow the plan, 1 if it
    would enter safe mode."""
    if [given["dry_run"], given["list"], given["start"] is not None].count(True) != 1:
        raise UsageError(
            "name one of --dry-run, --list and --start: a daemon recovers by itself at each start",
            hint="stoker recover --dry-run; stoker recover --list, or stoker status for what the last start did",
        )
    if given["dry_run"]:
        return _preview(given)
    if given["list"]:
        _list(given)
    else:
        _report(given)
    return 0


def _list(given: Given) -> None:
    page = call(given, "recovery.list", {"limit": MOST_LISTED})
    if given["json"]:
        render.json_document(page["recoveries"])
        return
    headers = ("START", "AT", "ATTEMPTS", *(name.upper() for name in COUNTS))
    rows = [
        (one["epoch"], render.when(one["started_at"]), one["attempts"], *(one[name] for name in COUNTS))
        for one in page["recoveries"]
    ]
    table.show(headers, rows)


def _report(given: Given) -> None:
    params, decisions = {"epoch": given["start"], "after": 0}, []
    while True:
        page = call(given, "recovery.get", params)
        decisions += page["decisions"]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    if given["json"]:
        render.json_document({**page, "decisions": decisions})
        return
    render.facts(_counts(page))
    if decisions:
        render.line()
        headers = ("JOB", "FOUND", "DID", "THEN", "WHY")
        table.show(headers, [_decided(one) for one in decisions], spare=("FOUND",), whole=True)


def _counts(report: RecoverySummary) -> list[tuple[str, object]]:
    finished = report["finished_at"]
    return [
        ("start", report["epoch"]),
        ("at", render.when(report["started_at"])),
        ("finished", "not yet" if finished is None else render.when(finished)),
        ("attempts", report["attempts"]),
        *[(name, report[name] or None) for name in COUNTS],  # type: ignore[literal-required]
    ]


def _decided(one: RecoveredAttempt) -> tuple[object, ...]:
    return (one["job"], one["fact"].replace("_", " "), one["action"].replace("_", " "), one["then"] or "-", one["why"])


def _preview(given: Given) -> int:
    from stoker.ops.recovery_preview import preview  # noqa: PLC0415 - SQLite and msgspec: completions load this module

    plan = preview(paths.state_dir(given["state_dir"], os.environ, os.getuid()))
    if given["json"]:
        render.json_document(plan.view())
    else:
        _print(plan)
    return 0 if plan.invalid is None else 1


def _print(plan: Preview) -> None:
    render.facts(_facts(plan))
    if plan.steps:
        render.line()
        headers = ("JOB", "NAME", "ATTEMPT", "FOUND", "WOULD", "THEN", "WHY")
        table.show(headers, [_row(step) for step in plan.steps], spare=("NAME", "ATTEMPT"), whole=True)
        render.line()
    if plan.invalid is None:
        render.line("nothing was changed: this is what a daemon would do if it started now")
    else:
        render.line("nothing was changed: a daemon that starts now enters safe mode and does not carry this out")
        render.line(f"next: {plan.remedy}")


def _facts(plan: Preview) -> list[tuple[str, object]]:
    leaked = [f"{run_id} ({_pids(pids)})" for run_id, pids in plan.leaked.items()]
    invalid = plan.invalid
    return [
        ("state dir", plan.state_dir),
        ("instance", f"{plan.instance}, last epoch {plan.epoch}{', a copy' if plan.copied else ''}"),
        *[("launcher", f"{name}, {'alive' if lives else 'dead'}") for name, lives in plan.launchers.items()],
        ("attempts", _sum(plan.steps)),
        ("not started", f"would be stopped: {_pids(plan.unborn)}" if plan.unborn else None),
        ("leaked", f"would be stopped: {', '.join(leaked)}" if leaked else None),
        ("no attempt", _without_attempt(plan.without_attempt)),
        ("not valid", invalid),
    ]


def _without_attempt(jobs: list[int]) -> str | None:
    if not jobs:
        return None
    named = f"job{'s' if len(jobs) > 1 else ''} {', '.join(map(str, jobs))}"
    return f"would be held: {named}, stored as running without an open attempt"


def _sum(steps: list[PlannedStep]) -> str:
    counts = {words: sum(step.would == action for step in steps) for action, words in WOULD.items()}
    sums = ", ".join(f"{count} to {words}" for words, count in counts.items() if count)
    return f"{counted(len(steps), 'unfinished attempt')}: {sums}" if steps else "no unfinished attempts"


def _row(step: PlannedStep) -> tuple[object, ...]:
    # `?`: the launcher has not answered yet, and its answer decides.
    then = "?" if step.would == "wait" else " ".join(filter(None, (step.then, step.reason)))
    state = step.found.replace("_", " ")
    return (step.job, step.name or "-", step.attempt, state, WOULD[step.would], then, step.why)


def _pids(pids: list[int]) -> str:
    return f"pid{'s' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
