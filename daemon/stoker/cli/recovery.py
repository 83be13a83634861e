"""`stoker recover --dry-run`: what a start would do with the attempts that an earlier life left open.

Owns how such a plan reads. Refuses to recover: a daemon does that by itself at each start, and nobody else may.
"""

from __future__ import annotations

import os
from typing import Any

from stoker import paths
from stoker.cli.kit import render
from stoker.cli.kit.parser import JSON, Given, Option, command
from stoker.core.errors import UsageError

# What is done about an attempt, as people say it.
WOULD = {
    "settle": "settle",
    "keep": "let it go on",
    "adopt": "adopt",
    "stop": "stop",
    "requeue": "queue again",
    "unseen": "close, end unseen",
    "hold_stuck": "hold",
    "wait": "ask its launcher",
}


@command(
    options=(
        Option("--dry-run", None, "show the plan; nothing is changed and nothing is signalled"),
        Option("--state-dir", "DIR", "as given to stokerd"),
        JSON,
    ),
    examples=("stoker recover --dry-run", "stoker recover --dry-run --state-dir /var/lib/stoker --json"),
)
def recover(given: Given) -> int:
    """0 for a plan that a start would follow, 1 for one that leads to safe mode."""
    if not given["dry_run"]:
        raise UsageError(
            "a daemon recovers by itself at each start; there is nothing to do by hand",
            hint="stoker recover --dry-run shows what a start would do, stoker status what the last one did",
        )
    from stoker.ops.recovery import preview  # noqa: PLC0415 - the only command that looks at the store

    found: dict[str, Any] = preview(paths.state_dir(given["state_dir"], os.environ))
    if given["json"]:
        render.json_document(found)
    else:
        _tell(found)
    return 0 if found["invalid"] is None else 1


def _tell(found: dict[str, Any]) -> None:
    render.facts(_facts(found))
    if found["steps"]:
        render.line()
        headers = ("JOB", "NAME", "ATTEMPT", "FOUND", "WOULD", "THEN", "WHY")
        render.table(headers, [_row(step) for step in found["steps"]])
        render.line()
    render.line("nothing was changed: this is what a daemon would begin with if it started now")


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    leaked = [f"{run_id} ({_pids(pids)})" for run_id, pids in found["leaked"].items()]
    invalid = found["invalid"]
    return [
        ("state dir", found["state_dir"]),
        ("instance", f"{found['instance']}, last epoch {found['epoch']}{', a copy' if found['copied'] else ''}"),
        *[("launcher", f"{name} {'lives' if lives else 'is dead'}") for name, lives in found["launchers"].items()],
        ("open", _sum(found["steps"])),
        ("unborn", f"would be stopped: {_pids(found['unborn'])}" if found["unborn"] else None),
        ("leaked", f"would be stopped: {', '.join(leaked)}" if leaked else None),
        ("not valid", None if invalid is None else f"{invalid}; the daemon would change nothing and go into safe mode"),
    ]


def _sum(steps: list[dict[str, Any]]) -> str:
    counts = {words: sum(step["would"] == action for step in steps) for action, words in WOULD.items()}
    told = ", ".join(f"{count} to {words}" for words, count in counts.items() if count)
    return f"{len(steps)} attempts: {told}" if steps else "no attempt"


def _row(step: dict[str, Any]) -> tuple[object, ...]:
    # What its launcher says decides, and that is not known yet.
    then = "?" if step["would"] == "wait" else " ".join(filter(None, (step["then"], step["reason"])))
    found = step["found"].replace("_", " ")
    return (step["job"], step["name"] or "-", step["attempt"], found, WOULD[step["would"]], then, step["why"])


def _pids(pids: list[int]) -> str:
    return f"pid{'s' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
