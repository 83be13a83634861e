"""Warnings about a flow: what is allowed, and hardly ever meant.

Owns RULES, each with the name that `stoker workflow lint` prints; docs/workflows.md explains them. A rule looks at the
flow as it stands in the file, and at its plan.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.cli.flowfile import values_in_scripts
from stoker.cli.kit.spec import resolve
from stoker.core.job.model import ExecutionMode, NeedOn, When
from stoker.core.leaves import leaves
from stoker.core.workflow.definition import MAX_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stoker.core.workflow.fan_out import Planned
    from stoker.core.workflow.plan import Plan


class LintWarning(NamedTuple):
    rule: str
    path: str
    message: str
    hint: str | None = None


class LintSubject(NamedTuple):
    """A flow without mistakes. `folder` is where its programs are looked up."""

    flow: dict[str, Any]
    plan: Plan
    folder: str


def warnings(subject: LintSubject) -> list[LintWarning]:
    return [LintWarning(name, *found) for name, rule in RULES.items() for found in rule(subject)]


def _value_in_script(subject: LintSubject) -> Iterator[tuple[str, str]]:
    for remark in values_in_scripts(subject.flow):
        path, _, message = remark.partition(": ")
        yield path, message


def _unused_parameter(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    texts = "\0".join(leaf for _, leaf in leaves(subject.flow) if isinstance(leaf, str))
    for name in subject.flow.get("parameters", ()):
        word = re.escape(name)
        if not re.search(rf"\{{\{{\s*{word}\s*\}}\}}|\bparameters(\.{word}\b|\[['\"]{word}['\"]\])", texts):
            yield f"parameters.{name}", "no text of the flow uses it", f"write {{{{{name}}}}} where it belongs"


def _program(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    """Only of steps without needs: an earlier step may make the program of another."""
    for step in subject.plan.steps:
        sent = step.sent
        if step.needs or sent.execution_mode is ExecutionMode.IN_PROCESS or not isinstance(sent.command, str):
            continue
        folder = sent.working_dir if isinstance(sent.working_dir, str) else subject.folder
        path = os.path.join(folder, resolve(sent.command, sent.env or {}))
        if wrong := _why_not_executable(path, named="/" in sent.command):
            yield f"{step.path}.command", f"{sent.command}: {wrong[0]}", wrong[1]


def _why_not_executable(path: str, *, named: bool) -> tuple[str, str] | None:
    """The problem and what to do."""
    if not os.path.exists(path):
        if not named:
            return "not found in the directories of PATH", "give its full path"
        return "there is no such file", "relative paths begin at working_dir, by default where the flow is submitted"
    if os.path.isdir(path):
        return "a directory", "name a program in it"
    return None if os.access(path, os.X_OK) else ("not executable", f"chmod +x {path}")


def _idle_width(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    sizes = Counter(step.group for step in subject.plan.steps)
    for name, width in subject.plan.widths.items():
        if 0 < sizes[name] <= width < MAX_STEPS:  # a group with `fail_fast` alone has the width MAX_STEPS
            yield f"steps.{name}.width", f"{width} has no effect on {sizes[name]} items", "a lower number, or none"


def _same_item(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    for name, step in subject.flow["steps"].items():
        items = step.get("each")
        for item, count in Counter(map(repr, items if isinstance(items, list) else ())).items():
            if count > 1:
                yield f"steps.{name}.each", f"{item} stands {count} times in the list", "each item makes a step"


def _case_of_names(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    seen: dict[str, str] = {}
    for name in subject.flow["steps"]:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            yield f"steps.{name}", f"differs from {other!r} only in the case of letters", "choose another name"


def _never_runs(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    """A step that waits for the failure of one that must have succeeded before another of its needs could."""
    must: dict[str, frozenset[str]] = {}
    for step in subject.plan.steps:  # each stands behind all that it needs
        sure = [need.step for need in step.needs if need.on is NeedOn.OK] if step.when is When.EACH else []
        must[step.name] = frozenset(sure).union(*(must[name] for name in sure))
        impossible = _impossible(step, must[step.name])
        if impossible:
            message = f"never runs: it waits for the failure of {impossible}, and for a step that needs its success"
            yield f"{step.path}.needs", message, 'when = "any_failed" waits for any failure'


def _handler_never_runs(subject: LintSubject) -> Iterator[tuple[str, str, str]]:
    """A handler of a failure, in a flow that no step can make fail."""
    limited = any(name in subject.flow for name in ("timeout_ms", "deadline_ms"))
    can_fail = any(step.handler is None and (step.critical or step.abort_on) for step in subject.plan.steps)
    if not limited and not can_fail:
        for name in subject.flow.get("on_failure", ()):
            message = "never runs: no step is critical, so the workflow does not fail"
            yield f"on_failure.{name}", message, "critical = true in a step, or [finally]"


def _impossible(step: Planned, must: frozenset[str]) -> str | None:
    failed = [need.step for need in step.needs if need.on is NeedOn.FAILED] if step.when is When.EACH else []
    return next((name for name in failed if name in must), None)


RULES: dict[str, Callable[[LintSubject], Iterator[tuple[str, str] | tuple[str, str, str]]]] = {
    "value-in-script": _value_in_script,
    "unused-parameter": _unused_parameter,
    "program": _program,
    "idle-width": _idle_width,
    "same-item": _same_item,
    "case-of-names": _case_of_names,
    "never-runs": _never_runs,
    "handler-never-runs": _handler_never_runs,
}
