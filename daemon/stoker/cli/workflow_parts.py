"""Running a part of a workflow: the options of `workflow submit` for it, and what is printed about it.

Owns these options and their words. The daemon chooses the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render
from stoker.cli.kit.naming import few
from stoker.cli.kit.parser import Given, Option

if TYPE_CHECKING:
    from stoker.core.wire_types import WorkflowAccepted

OPTIONS = (
    Option("--target", "STEP", "only this step or group and all that it needs; repeatable", many=True),
    Option("--from", "STEP", "only this step or group and all that need it; repeatable", to="from", many=True),
)


def part_params(given: Given) -> dict[str, Any]:
    """The parameters of `workflow.submit` that these options give."""
    return {name: given[name] for name in ("target", "from") if given[name]}


def print_part(answer: WorkflowAccepted) -> None:
    """Say which needs count as met although nothing runs for them."""
    if answer["met"]:
        render.note(f"outside the part, so taken as met, without their outputs: {few(answer['met'])}")
