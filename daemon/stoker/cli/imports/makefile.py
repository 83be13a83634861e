"""Makefiles: GNU make says which targets a goal takes and which commands make them; each target becomes a step.

Owns how make is asked so that it runs no recipe, and what a recipe means as a script. A dry run of make runs some
recipes all the same: lines with `+` or `$(MAKE)`, and those of makefiles that a rule makes. The shell of these gets
the option `-n`, with which it only reads them. `$(shell …)` is run, as make runs it to read a makefile.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.cli.imports.draft import Draft, DraftStep, Remark, StepNames, contracted, flow_name, literal
from stoker.cli.imports.make_database import MakeDatabase, MakeRule, commands_of, read
from stoker.cli.imports.scripts import ShellLine, in_shells_of_their_own
from stoker.core.errors import InvalidParams, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

TIMEOUT_S = 120
MOST_PATTERNS = 100  # of a step
LONGEST_OUTPUT = 64 << 20
_PROBE = ".stoker-variables"  # a target of our own, which prints the variables that make exports
# Variables that make, or its shell, sets for a recipe by itself.
_OF_MAKE = frozenset({"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR"})
_OF_SHELL = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})
_UNLIKE_HERE = {
    ".DELETE_ON_ERROR": "a failed step leaves its file; make would delete it",
    ".NOTPARALLEL": "steps that do not need each other run at the same time",
}


def read_makefile(source: str, goals: Sequence[str]) -> Draft:
    """The draft of a makefile. Raises InvalidParams with what make says about a mistake."""
    make = _Make(source)
    first, exported = make.probed()
    if not goals:
        goals = [_default_goal(source, first)]
    del first.commands[_PROBE]
    unsafe = [rule.target for rule in first.rules.values() if rule.recursive] + list(first.commands)
    database = make.dry_run(goals, unsafe)
    options = ["-c"] if first.commands else make.shell_flags()
    shell = _Shell(first.variables["SHELL"], options, ".ONESHELL" in first.rules)
    return _Makefile(source, make.folder, shell, database, first, goals).draft(exported)


class _Make:
    """GNU make, asked about one makefile."""

    def __init__(self, source: str) -> None:
        self.folder = os.path.dirname(os.path.abspath(source))
        self._source = source
        self._environ = {name: value for name, value in os.environ.items() if name not in _OF_MAKE}
        self._environ["LC_ALL"] = "C"
        if not os.path.isfile(source):
            raise UsageError(f"cannot read {source}: not a file")
        try:
            version = self._output(["make", "--version"])
        except FileNotFoundError:
            raise UsageError("there is no `make` here", hint="a makefile is read by GNU make: install it") from None
        if not version.startswith("GNU Make ") or version.startswith("GNU Make 3"):
            raise UsageError(f"`make` is {version.partition(chr(10))[0]!r}", hint="install GNU make 4 or newer")

    def probed(self) -> tuple[MakeDatabase, dict[str, str]]:
        """The rules before any target is looked at, and the variables that make exports to recipes."""
        text = self._run(f"--eval={_PROBE}: ; +@env -0; echo", [_PROBE], f"$(if $(filter-out {_PROBE},$@),-nc,-c)")
        pairs = [entry.partition("=") for entry in text.partition("\nenv -0; echo\n")[2].split("\0")[:-1]]
        known, own = {*self._environ.items()}, _OF_MAKE | _OF_SHELL
        return read(text), {name: text for name, _, text in pairs if (name, text) not in known and name not in own}

    def shell_flags(self) -> list[str]:
        """The value of .SHELLFLAGS, which the other runs replace. Only for a makefile for which nothing is remade."""
        return read(self._run(f"--eval={_PROBE}: ;", [_PROBE])).variables[".SHELLFLAGS"].split()

    def dry_run(self, goals: Sequence[str], unsafe: Sequence[str]) -> MakeDatabase:
        """The rules and commands of the goals. Recipes of the targets `unsafe` are only read by their shell."""
        names = " ".join(target.replace("%", r"\%").replace("$", "$$") for target in unsafe)
        return read(self._run("--eval=.SECONDARY:", ["--", *goals], f"$(if $(filter {names},$@),-nc,-c)"))

    def _run(self, rule: str, goals: Sequence[str], flags: str | None = None) -> str:
        options = ["-n", "-B", "-p", "-s", "--trace", "--no-print-directory", rule]
        options += [f".SHELLFLAGS={flags}"] if flags else []
        return self._output(["make", "-C", self.folder, "-f", os.path.basename(self._source), *options, *goals])

    def _output(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - make, without a shell
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InvalidParams(f"{self._source}: make did not end in {TIMEOUT_S} s; it was stopped") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise InvalidParams(f"{self._source}: {said}", hint="see what `make -n` says")
        if len(done.stdout) > LONGEST_OUTPUT:
            raise InvalidParams(f"{self._source}: make prints more than {LONGEST_OUTPUT >> 20} MiB about it")
        try:
            return done.stdout.decode()
        except UnicodeDecodeError:
            raise InvalidParams(f"{self._source}: a target or a command is not UTF-8") from None


class _Shell(NamedTuple):
    """The shell of all recipes, and its options."""

    path: str
    options: list[str]
    oneshell: bool

    @property
    def exits_on_error(self) -> bool:
        return any("e" in option for option in self.options if option.startswith("-") and not option.startswith("--"))

    def fields(self, lines: list[ShellLine]) -> dict[str, Any]:
        if self.oneshell:  # make takes only the prefix of its first line
            script = "\n".join(line.text for line in lines)
        else:
            script = in_shells_of_their_own(lines, exits_on_error=self.exits_on_error)
        return {"command": literal(self.path), "args": [*map(literal, self.options), literal(script)]}


class _Makefile:
    """One makefile, as make has read it for its goals."""

    def __init__(
        self, source: str, folder: str, shell: _Shell, database: MakeDatabase, first: MakeDatabase, goals: Sequence[str]
    ) -> None:
        self._source, self._folder, self._shell, self._goals = source, folder, shell, goals
        self._database = database
        self._first = first
        self._made_with = {
            other: rule.target
            for rule in database.rules.values()
            if rule.target in database.commands
            for other in rule.also
            if other not in database.commands
        }
        self._remarks: list[Remark] = []

    def draft(self, exported: dict[str, str]) -> Draft:
        needs = self._needs_of_goals()
        commands = {
            name: found for name in self._database.commands if name in needs and (found := self._commands(name))
        }
        if not commands:
            raise InvalidParams(f"{self._source}: no recipe for {', '.join(self._goals)}", hint="--goal TARGET")
        names = StepNames()
        steps: dict[str, DraftStep] = {}
        own = contracted(needs, commands)
        for target, lines in commands.items():  # in the order of make
            fields = self._shell.fields(self._lines(target, lines)) | self._files(target, lines, needs, commands)
            steps[names[target]] = DraftStep(fields, [names[need] for need in own[target]], self._origin(target))
        env = {"env": {name: literal(value) for name, value in exported.items()}} if exported else {}
        defaults = {"working_dir": literal(self._folder), "on_orphan": "requeue", **env}
        self._remark_on_all(needs)
        name = flow_name(os.path.basename(self._folder))
        return Draft(name, steps, head={"defaults": defaults}, remarks=self._remarks)

    def _needs_of_goals(self) -> dict[str, list[str]]:
        """Each target that the goals take, and the targets that it needs."""
        found: dict[str, list[str]] = {}
        open_targets = [self._made_with.get(goal, goal) for goal in reversed(self._goals)]
        while open_targets:
            target = open_targets.pop()
            if target in found:
                continue
            rule = self._database.rules.get(target, MakeRule(target))
            needs = list(dict.fromkeys(self._made_with.get(need, need) for need in rule.needs))
            found[target] = [need for need in needs if need != target]
            open_targets += reversed(found[target])
        return found

    def _commands(self, target: str) -> list[str]:
        lines = self._database.commands.get(target, [])
        return lines if self._shell.oneshell else commands_of(lines)

    def _lines(self, target: str, commands: list[str]) -> list[ShellLine]:
        """The commands, of which those with `-` before them are ignored. The rule has them before expansion."""
        rule = self._database.rules.get(target, MakeRule(target))
        ignore = self._database.special(".IGNORE")
        if ignore is not None and (not ignore or target in ignore):
            return [ShellLine(command, ignored=True) for command in commands]
        recipe = [line for line in commands_of(rule.recipe) if line.strip(" \t@+-")]
        prefixed = [("-" in prefix, text) for prefix, text in map(_split_prefix, recipe)]
        if len(prefixed) == len(commands):
            return [ShellLine(text, ignored) for text, (ignored, _) in zip(commands, prefixed, strict=True)]
        beginnings = [text.partition("$")[0] for ignored, text in prefixed if ignored]
        if "" in beginnings:
            self._remark(rule, f"{target}: which commands may fail cannot be seen, so none may")
        known = tuple(begin for begin in beginnings if begin)
        return [ShellLine(command, ignored=bool(known) and command.startswith(known)) for command in commands]

    def _files(
        self, target: str, lines: list[str], needs: dict[str, list[str]], commands: Collection[str]
    ) -> dict[str, Any]:
        """Its sources and products, by which a reuse tells what is up to date. A target is taken for a file only if its
        recipe names it: many that are none are not declared as `.PHONY`.
        """
        rule = self._database.rules.get(target, MakeRule(target))
        text = f" {' '.join(lines)} "
        made = [each for each in (target, *rule.also) if f" {each} " in text or f"{each};" in text]
        sources: dict[str, None] = {}
        behind = [*needs[target]]
        while behind:
            need = behind.pop()
            if need not in commands and need not in sources:
                sources[need] = None
                behind += needs.get(need, ())
        files = sorted(name for name in sources if not self._database.rules.get(name, rule).phony)
        if len(files) > MOST_PATTERNS:
            files = sorted({f"{os.path.dirname(name) or '.'}/*{os.path.splitext(name)[1]}" for name in files})
        fields = {"sources": [*map(literal, files)]} if files and not rule.phony else {}
        return fields | ({"produces": [*map(literal, made)]} if made and not rule.phony else {})

    def _origin(self, target: str) -> str:
        rule = self._database.rules.get(target)
        where = f"{rule.place.file}:{rule.place.line}: " if rule and rule.place else ""
        return f"{where}{target}"

    # --- remarks --------------------------------------------------------------------------------------------

    def _remark(self, rule: MakeRule, text: str, *, loss: bool = True) -> None:
        line = rule.place.line if rule.place else None
        self._remarks.append(Remark(self._source, line, text, loss))

    def _remark_on_all(self, targets: dict[str, list[str]]) -> None:
        for name, text in _UNLIKE_HERE.items():
            if name in self._database.rules:
                self._remark(self._database.rules[name], f"{name}: {text}")
        for target in self._first.commands:
            rule = self._first.rules.get(target, MakeRule(target))
            self._remark(rule, f"{target} is a makefile that make makes itself: run make once, and import again")
        lazy = any("$(shell" in value or "${shell" in value for value in self._first.variables.values())
        for rule in self._rules_of(targets):
            if rule.recursive:
                self._remark(rule, f"{rule.target} runs make itself: this stays one step", loss=False)
                if lazy or any("shell " in line for line in rule.recipe):
                    self._remark(rule, f"{rule.target}: what $(shell …) gives is empty in this recipe: look at it")

    def _rules_of(self, targets: dict[str, list[str]]) -> Iterator[MakeRule]:
        return (self._database.rules[target] for target in targets if target in self._database.rules)


def _split_prefix(line: str) -> tuple[str, str]:
    text = line.lstrip(" \t@+-")
    return line[: len(line) - len(text)], text


def _default_goal(source: str, database: MakeDatabase) -> str:
    goal = database.variables.get(".DEFAULT_GOAL")
    if not goal or goal == _PROBE:
        raise InvalidParams(f"{source}: no targets", hint="--goal TARGET")
    return goal
