"""The output of `make --print-data-base --dry-run --trace`: commands that it would run, and rules that it found.

Owns the form of this text, which is that of GNU make 4. Invariant: the commands are those that make printed, in its
order, with all variables expanded; only their prefixes (`-`) are taken from the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN = re.compile(r"^# GNU Make \d", re.MULTILINE)
_TRACE = re.compile(
    r"^(?P<file>\S[^\n]*?)(?::(?P<line>\d+))?: (?:update target|target) '(?P<target>.*?)' (?:due to: |does not exist)"
)
_RULE = re.compile(r"^(?P<target>[^\s#][^\n]*?)(?P<colon>::?)(?:\s(?P<needs>.*))?$")
_NO_TARGET = "# Not a target:"
_BEFORE_RULE = re.compile(r"^#|^[^\n]*?: \S+ [:+?!]?= ?")  # variables of a target, with remarks where they are set
_RECIPE = re.compile(r"^#  recipe to execute \((?:from '(?P<file>.*)', line (?P<line>\d+)|built-in)\):$")
_VARIABLE = re.compile(r"^(?P<name>[^\s:=]+) :?= ?(?P<value>.*)$", re.MULTILINE)
_RECURSIVE = re.compile(r"^[@-]*\+|\$\(MAKE\)|\$\{MAKE\}")
_ALSO = "#  Also makes: "
_PHONY = "#  Phony target (prerequisite of .PHONY)."


class RecipePlace(NamedTuple):
    file: str
    line: int | None


@dataclass
class MakeRule:
    """A target. `recipe` is as the makefile has it, before expansion; `also` are the targets made with it."""

    target: str
    needs: list[str] = field(default_factory=list)
    recipe: list[str] = field(default_factory=list)
    place: RecipePlace | None = None
    also: list[str] = field(default_factory=list)
    phony: bool = False

    @property
    def recursive(self) -> bool:
        """Whether make runs lines of its recipe also in a dry run."""
        return any(_RECURSIVE.search(line) for line in self.recipe)


@dataclass
class MakeDatabase:
    """`commands`: the text that make printed for each target, as lines; a command can have several (`\\` at the end).

    `remade`: targets that make had to make before it could read all makefiles.
    """

    commands: dict[str, list[str]]
    rules: dict[str, MakeRule]
    variables: dict[str, str]

    def special(self, name: str) -> list[str] | None:
        """The targets that a special target (`.PHONY`) names; None without it."""
        return self.rules[name].needs if name in self.rules else None


def read(text: str) -> MakeDatabase:
    begin = _BEGIN.search(text)
    printed, base = (text[: begin.start()], text[begin.start() :]) if begin else (text, "")
    variables, _, files = base.partition("\n# Files\n")
    return MakeDatabase(_commands(printed), _rules(files), _variables(variables))


def commands_of(lines: list[str]) -> list[str]:
    """The commands that lines hold: one goes on in the next line if it ends with an odd number of backslashes."""
    commands: list[str] = []
    goes_on = False
    for line in lines:
        if goes_on:
            commands[-1] += "\n" + line
        else:
            commands.append(line)
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2 == 1
    return [command for command in commands if command.strip()]


def _commands(printed: str) -> dict[str, list[str]]:
    commands: dict[str, list[str]] = {}
    current: list[str] = []
    for line in printed.split("\n")[:-1]:
        if trace := _TRACE.match(line):
            current = commands.setdefault(trace["target"], [])
        else:
            current.append(line)
    return commands


def _variables(text: str) -> dict[str, str]:
    return {found["name"]: found["value"] for found in _VARIABLE.finditer(text)}


def _rules(files: str) -> dict[str, MakeRule]:
    rules: dict[str, MakeRule] = {}
    for block in files.split("\n\n"):
        lines = block.strip("\n").split("\n")
        lines = [] if lines[0] == _NO_TARGET else list(dropwhile(_BEFORE_RULE.match, lines))
        head = _RULE.match(lines[0]) if lines else None
        if head is None:
            continue
        rule = rules.setdefault(head["target"], MakeRule(head["target"]))  # `::` has several
        rule.needs += _needs(head["needs"] or "")
        _fill(rule, lines[1:])
    return rules


def _needs(words: str) -> Iterator[str]:
    """Order-only needs are needs: a step is never up to date."""
    return (word for word in words.split() if word not in ("|", ".WAIT"))


def _fill(rule: MakeRule, lines: list[str]) -> None:
    recipe = False
    for line in lines:
        if recipe:
            rule.recipe.append(line.removeprefix("\t"))
        elif found := _RECIPE.match(line):
            recipe = True
            rule.place = RecipePlace(found["file"], int(found["line"])) if found["file"] else None
        elif line.startswith(_ALSO):
            rule.also += line.removeprefix(_ALSO).split()
        elif line == _PHONY:
            rule.phony = True
