"""How workflows, steps and checkpoints are named on the command line. Pure.

Owns reading their ids and shortening long lists of names: a workflow may have thousands of steps.
"""

from __future__ import annotations

from stoker.cli.kit import values
from stoker.cli.kit.parser import Option
from stoker.core.errors import UsageError
from stoker.core.workflow.step_names import group_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

MOST_NAMES = 8
MOST_LABELS = 3
NO_REMARKS: Mapping[str, str] = {}
WAIT = Option("--wait", None, "wait until it has ended; exit 0 if it succeeded, else 1")


def workflow_id(text: str) -> int:
    """`7`, `#7` or `w7`."""
    try:
        return values.job_id(text.removeprefix("w"))
    except UsageError:
        raise UsageError(f"{text!r} is not the id of a workflow", hint="stoker workflow ls") from None


def checkpoint_id(text: str) -> int:
    """`112` or `#112`."""
    try:
        return values.job_id(text)
    except UsageError:
        raise UsageError(f"{text!r} is not the id of a checkpoint", hint="stoker checkpoint ls WORKFLOW") from None


def groups(names: list[str], remarks: Mapping[str, str] = NO_REMARKS) -> list[str]:
    """The steps of a fan-out as one word: `compile[lexer, parser]`, or `compile[lexer, parser] (width 2)`."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(group_of(name), []).append(name)
    suffixes = {group: f" ({remark})" for group, remark in remarks.items()}
    return [_together(group, steps) + suffixes.get(group, "") for group, steps in members.items()]


def _together(group: str, names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if not names[0].startswith((f"{group}[", f"{group}:")):
        return f"{group} x{len(names)}"  # the labels stand within the names, as in `all[x]/run`
    labels = [name.removeprefix(group).strip("[:]") for name in names]
    more = [f"… {len(labels) - MOST_LABELS} more"] if len(labels) > MOST_LABELS else []
    between = "; " if any("," in label for label in labels) else ", "  # a label of a matrix has commas
    return f"{group}[{between.join([*labels[:MOST_LABELS], *more])}]"


def few(names: list[str], most: int = MOST_NAMES) -> str:
    """The first names of a list, and the number of the others."""
    more = f" … {len(names) - most} more" if len(names) > most else ""
    return " ".join(names[:most]) + more


def edges(step: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The needs of a step, each with its condition: `ok`, `failed`, `any`, or that of the whole set."""
    when = step.get("when") or "each"
    return [(need["step"], need["on"] if when == "each" else when) for need in step["needs"]]


def need_text(need: str, condition: str) -> str:
    """`compile`, `compile(failed)`, `compile(any_failed)`."""
    return need if condition == "ok" else f"{need}({condition})"


def need_texts(step: Mapping[str, Any]) -> list[str]:
    return [need_text(need, condition) for need, condition in edges(step)]


def needs_by_group(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """All needs of these steps, each once: `compile[lexer, parser](any_ok)`."""
    names: dict[str, dict[str, None]] = {}
    for step in steps:
        for need, condition in edges(step):
            names.setdefault(condition, {})[need] = None
    return [need_text(group, condition) for condition, needs in names.items() for group in groups([*needs])]
