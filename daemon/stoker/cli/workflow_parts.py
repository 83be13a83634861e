"""Running a part of a flow, or what changed since an earlier run: the options of `workflow submit`, and their words.

Owns these options and their words. The daemon chooses the steps.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table
from stoker.cli.kit.naming import few, workflow_id
from stoker.cli.kit.parser import Given, Option
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.schedule.views import FlowPartView
    from stoker.core.wire_types import ReuseView, WorkflowAccepted

LATEST = "latest"
REUSE_HEADERS = ("STEP", "RUNS", "WHY")


def earlier(text: str) -> int | str:
    """`latest`, `7`, `#7` or `w7`."""
    return text if text == LATEST else workflow_id(text)


OPTIONS = (
    Option("--target", "STEP", "only this step or group and all that it needs; repeatable", many=True),
    Option("--from", "STEP", "only this step or group and all that need it; repeatable", to="from", many=True),
    Option(
        "--reuse",
        "ID|latest",
        "take over the steps of this workflow, or of the newest one of that name, that are unchanged",
        convert=earlier,
    ),
)


def part_params(given: Given) -> dict[str, Any]:
    """The parameters of `workflow.submit` and `schedule.add` that these options give."""
    return {name: given[name] for name in ("target", "from", "reuse") if given[name]}


def part_words(part: FlowPartView | None) -> str:
    """The options, as they are typed; empty for all of a workflow."""
    if part is None:
        return ""
    words = [f"--target {shlex.quote(step)}" for step in part["target"]]
    words += [f"--from {shlex.quote(step)}" for step in part["from"]]
    words += [] if part["reuse"] is None else [f"--reuse {part['reuse']}"]
    return " ".join(words)


def print_part(answer: WorkflowAccepted) -> None:
    """Say which needs count as met although nothing runs for them, and how many steps are reused."""
    if answer["met"]:
        render.note(f"outside the part, so taken as met, without their outputs: {few(answer['met'])}")
    if reuse := answer["reuse"]:
        reused = sum(step["reused"] for step in reuse["steps"])
        earlier = "no earlier run" if reuse["workflow"] is None else f"workflow {reuse['workflow']}"
        render.note(f"{reused} of {counted(len(reuse['steps']), 'step')} reused from {earlier}")


def print_reuse(reuse: ReuseView) -> None:
    """A line for each step: whether it runs, and why."""
    rows = [
        (step["step"], "no" if step["reused"] else "later" if step["later"] else "yes", step["why"])
        for step in reuse["steps"]
    ]
    table.show(REUSE_HEADERS, rows, whole=True)
