"""`stoker workflow lint`: the mistakes in flow files, and warnings, without a daemon.

Owns how they are shown. `rpc.flows` knows the mistakes, `lint_rules` the warnings.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from stoker.cli import flowfile
from stoker.cli.flow_places import FlowPlaces
from stoker.cli.kit import render
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.lint_rules import LintSubject, LintWarning, warnings
from stoker.core.errors import FlowInvalid, StokerError
from stoker.core.units import counted
from stoker.rpc.flows import planned

FOUND = 1


class LintMistake(NamedTuple):
    path: str
    message: str
    hint: str | None = None
    line: int | None = None


class Linted(NamedTuple):
    """One file. `files`: it and those that it includes, by the path before the fields of their flows."""

    source: str
    mistakes: list[LintMistake]
    warnings: list[LintWarning]
    files: dict[str, str]

    def view(self) -> dict[str, Any]:
        """Each mistake and warning with the file that has it, and its path and line there."""
        places = FlowPlaces(self.files)

        def placed(each: LintMistake | LintWarning) -> dict[str, Any]:
            place = places.of(each.path)
            line = getattr(each, "line", None) or place.line
            return each._asdict() | {"file": flowfile.shown(place.file), "path": place.path, "line": line}

        return {
            "file": flowfile.shown(self.source),
            "mistakes": [*map(placed, self.mistakes)],
            "warnings": [*map(placed, self.warnings)],
        }


@Command(
    words="FILE…",
    options=(Option("--strict", None, "exit with 1 also if there are only warnings"), JSON),
    examples=("stoker workflow lint build.toml", "stoker workflow lint --strict flows/*.toml"),
)
def lint(given: Given) -> int:
    """Exits with 1 if a file has a mistake, and with 0 if there are only warnings. Queues, resources and strategies are
    known to the daemon alone: `workflow submit --dry-run` asks it.
    """
    views = [_linted(source).view() for source in given["words"]]
    if given["json"]:
        render.json_document({"files": views})
    else:
        for view in views:
            for line in (*_lines(view, "mistakes"), *_lines(view, "warnings")):
                render.line(render.visible(line))
    mistakes = sum(len(view["mistakes"]) for view in views)
    found = sum(len(view["warnings"]) for view in views)
    if not given["json"]:
        render.line(f"{counted(len(views), 'file')}: {counted(mistakes, 'mistake')}, {counted(found, 'warning')}")
    return FOUND if mistakes or (found and given["strict"]) else 0


def _linted(source: str) -> Linted:
    try:
        flow, files = flowfile.read(source)
    except StokerError as error:
        return Linted(source, _of_reading(source, error), [], {"": source})
    try:
        plan = planned(flow)
    except FlowInvalid as error:
        return Linted(source, [LintMistake(*each) for each in flowfile.in_order(source, flow, error)], [], files)
    return Linted(source, [], warnings(LintSubject(flow, plan, os.getcwd())), files)


def _of_reading(source: str, error: StokerError) -> list[LintMistake]:
    """The mistakes of a file that cannot be read as a flow; their texts begin with its name, and perhaps a line."""
    prefix = re.compile(rf"{re.escape(flowfile.shown(source))}:(?:(?P<line>\d+):(?:\d+:)?)? ?")
    mistakes = []
    for text in error.details.get("errors") or [error.message]:
        found = prefix.match(str(text))
        line = int(found["line"]) if found and found["line"] else None
        mistakes.append(LintMistake("", str(text)[found.end() :] if found else str(text), error.hint, line))
    return mistakes


def _lines(view: dict[str, Any], kind: str) -> list[str]:
    lines = []
    for each in view[kind]:
        place = f"{each['file']}:{each['line']}" if each["line"] else each["file"]
        path = f"{each['path']}: " if each["path"] and not each["message"].startswith(each["path"]) else ""
        hint = f" ({each['hint']})" if each["hint"] else ""
        rule = f"warning: {each['rule']}: " if kind == "warnings" else ""
        lines.append(f"{place}: {rule}{path}{each['message']}{hint}")
    return lines
