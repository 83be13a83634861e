"""The steps of a job of GitHub Actions as one script, and the values that their expressions stand for.

Owns how a value reaches a script: as a variable, never as a part of its text. Each step runs in a subshell with
`set -e`, so that directory and variables of one are not seen by the next.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stoker.cli.imports.actions_expression import ContextValue, NotMapped, parsed
from stoker.cli.imports.draft import literal
from stoker.core.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_UNFIT = re.compile(r"\W")
_READ_OUTPUT = (  # of a matrix the last value counts; without one the text is empty
    'output() { python3 -c \'import json, os, sys; needs = json.load(open(os.environ["STOKER_INPUTS_FILE"]));'
    ' ends = [needs[name]["outputs"] for name in needs if name.split("[")[0] == sys.argv[1]];'
    ' print(*[end[sys.argv[2]] for end in ends if end.get(sys.argv[2])][-1:])\' "$1" "$2"; }'
)


@dataclass
class Values:
    """The values of the expressions of one job, and their needs: parameters of the flow, variables, outputs.

    `axes`: the names of `matrix`. `known` are variables with their texts, for `env.X` outside of scripts.
    """

    steps: Mapping[str, str]
    axes: frozenset[str] = frozenset()
    known: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)

    def in_text(self, text: object) -> str:
        """A text of the flow file: values are templates in it."""
        return self._replaced(_plain(text), self._template, literal)

    def environment(self, variables: Mapping[str, object]) -> dict[str, str]:
        """Variables of the flow file, without those whose values it cannot say."""
        found: dict[str, str] = {}
        for name, text in variables.items():
            known = len(self.unmapped)
            value = self.in_text(text)
            if len(self.unmapped) == known:
                found[name] = value
        return found

    def in_script(self, text: str) -> str:
        """A text of a shell: values are variables in it."""
        pieces: list[str] = []
        end = 0
        for found in _EXPRESSION.finditer(text):
            pieces.append(text[end : found.start()])
            end = found.end()
            before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
            value = self._value(found, self._variable)
            quoted = _in_single_quotes(before) and value.startswith("$")
            pieces.append(f"'\"{value}\"'" if quoted else value)
        return "".join(pieces) + text[end:]

    def _replaced(self, text: str, convert: Callable[[ContextValue], str], rest: Callable[[str], str]) -> str:
        parts = _EXPRESSION.split(text)
        found = _EXPRESSION.finditer(text)
        return "".join(
            self._value(next(found), convert) if index % 2 else rest(part) for index, part in enumerate(parts)
        )

    def _value(self, found: re.Match[str], convert: Callable[[ContextValue], str]) -> str:
        try:
            expression = parsed(found[1])
            if isinstance(expression, ContextValue):
                return convert(expression)
        except (NotMapped, ParseError):
            pass  # it is among the unmapped, with the whole expression
        self.unmapped.append(found[0])
        return literal(found[0]) if convert == self._template else found[0]

    def parameter(self, path: tuple[str, ...]) -> str:
        """The name of the parameter for `inputs.x`, `vars.x`, `github.x`. Raises NotMapped."""
        if path[:3] == ("github", "event", "inputs"):
            path = path[2:]
        if path[0] == "inputs" and len(path) == 2:  # noqa: PLR2004 - a context and one name
            name = path[1]
        elif path[0] in ("vars", "github") and len(path) == 2:  # noqa: PLR2004 - as above
            name = f"{path[0]}_{path[1]}"
        else:
            raise NotMapped(".".join(path))
        self.parameters.setdefault(name, "")
        return name

    def _template(self, context: ContextValue) -> str:
        path = context.path
        if path[0] == "matrix" and path[1:] and path[1] in self.axes:
            return f"{{{{item.{path[1]}}}}}"
        if path[0] == "env" and path[1:] and path[1] in self.known:
            return self.known[path[1]]
        return f"{{{{{self.parameter(path)}}}}}"

    def _variable(self, context: ContextValue) -> str:
        path = context.path
        if path[0] in ("env", "secrets") and len(path) == 2:  # noqa: PLR2004 - a context and one name
            if path[0] == "secrets":
                self.unmapped.append(f"secrets.{path[1]}")
            return f"${{{path[1]}}}"
        name = _UNFIT.sub("_", "_".join(path)).upper()
        if path[0] == "needs" and len(path) == 4 and path[2] == "outputs":  # noqa: PLR2004 - needs.JOB.outputs.NAME
            if path[1] not in self.steps:
                raise NotMapped(path[1])
            self.outputs[name] = (self.steps[path[1]], path[3])
        else:
            self.variables[name] = self._template(context)
        return f"${{{name}}}"


@dataclass
class RunCommand:
    """The `run` of a step. `ignored`: the job goes on if it fails."""

    name: str
    text: str
    folder: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    ignored: bool = False
    pipefail: bool = False


def script(commands: list[RunCommand], values: Values) -> str:
    """One script for a shell with `-e`."""
    alone = len(commands) == 1 and not commands[0].ignored
    parts = [part for command in commands for part in _part(command, values, alone=alone)]
    head = [_READ_OUTPUT] if values.outputs else []
    for name, (step, output) in values.outputs.items():
        head.append(f"{name}=$(output {shlex.quote(step)} {shlex.quote(output)}); export {name}")
    if any("GITHUB_OUTPUT" in command.text for command in commands):
        head.append('export GITHUB_OUTPUT="$STOKER_OUTPUT"')
    return "\n".join([*head, *parts]) + "\n"


def _part(command: RunCommand, values: Values, *, alone: bool) -> list[str]:
    lines = [f"# {command.name}"] if command.name else []
    inside = ["set -o pipefail"] if command.pipefail else []
    if command.folder:
        inside.append(f"cd {_double_quoted(values.in_script(command.folder))}")
    inside += [f"export {name}={_double_quoted(values.in_script(text))}" for name, text in command.variables.items()]
    text = "\n".join([*inside, values.in_script(command.text.strip("\n"))])
    if alone:
        return [*lines, text]
    if command.ignored:
        return [*lines, "set +e; (", "set -e", text, "); set -e"]
    return [*lines, "(", text, ")"]


def _double_quoted(text: str) -> str:
    """A word of a shell in which `${NAME}` of a value is still replaced."""
    pieces = re.split(r"(\$\{\w+\})", text)
    escaped = [piece if index % 2 else re.sub(r'([\\"$`])', r"\\\1", piece) for index, piece in enumerate(pieces)]
    return f'"{"".join(escaped)}"'


def _in_single_quotes(before: str) -> bool:
    """Whether a line is within '…' after this beginning."""
    quote = ""
    for sign in before:
        if sign == quote:
            quote = ""
        elif not quote and sign in "'\"":
            quote = sign
    return quote == "'"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
