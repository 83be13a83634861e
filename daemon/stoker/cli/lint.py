"""`stoker workflow lint`: the mistakes in flow files, and warnings, without a daemon.

Owns how they are shown. `rpc.flows` knows the mistakes, `lint_rules` the warnings.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from stoker.cli import flowfile
from stoker.cli.kit import render
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.lint_rules import LintSubject, LintWarning, warnings
from stoker.cli.toml_lines import TomlLines
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
    """One file. `lines` is None if its form has no lines to name."""

    source: str
    mistakes: list[LintMistake]
    warnings: list[LintWarning]
    lines: TomlLines | None

    def view(self) -> dict[str, Any]:
        mistakes = [each._asdict() | {"line": each.line or self._line(each.path)} for each in self.mistakes]
        found = [each._asdict() | {"line": self._line(each.path)} for each in self.warnings]
        return {"file": self.source, "mistakes": mistakes, "warnings": found}

    def _line(self, path: str) -> int | None:
        return self.lines.line_of(path) if self.lines else None


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
        flow = flowfile.read(source)
    except StokerError as error:
        return Linted(flowfile.shown(source), _of_reading(source, error), [], None)
    lines = None if source == "-" or source.endswith(".json") else TomlLines(_text(source))
    try:
        plan = planned(flow)
    except FlowInvalid as error:
        mistakes = [LintMistake(*each) for each in flowfile.in_order(source, flow, error)]
        return Linted(flowfile.shown(source), mistakes, [], lines)
    return Linted(flowfile.shown(source), [], warnings(LintSubject(flow, plan, os.getcwd())), lines)


def _text(source: str) -> str:
    with open(source, encoding="utf-8") as file:
        return file.read()


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
        place = f"{view['file']}:{each['line']}" if each["line"] else view["file"]
        path = f"{each['path']}: " if each["path"] and not each["message"].startswith(each["path"]) else ""
        hint = f" ({each['hint']})" if each["hint"] else ""
        rule = f"warning: {each['rule']}: " if kind == "warnings" else ""
        lines.append(f"{place}: {rule}{path}{each['message']}{hint}")
    return lines
