"""Submit descriptions of HTCondor: what a job of DAGMan runs, as the fields of a step.

Owns their form (`key = value`, `$(macro)`, two ways to write arguments and environment), and which keys mean something
on one host.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.cli.imports.draft import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LINE = re.compile(r"\s*(?P<key>[+\w.]+)\s*=\s*(?P<value>.*?)\s*")
_MACRO = re.compile(r"\$\((?P<name>\w+)(?::(?P<default>[^)]*))?\)")
_QUEUE = re.compile(r"\s*queue(?:\s+(?P<count>\S.*?))?\s*", re.IGNORECASE)
_DEEPEST = 20  # macros within macros
# They say how a cluster handles a job, and mean nothing on one host.
_OF_A_CLUSTER = frozenset(
    {
        "batch_name",
        "getenv",
        "log",
        "notification",
        "notify_user",
        "output_destination",
        "rank",
        "request_cpus",
        "request_disk",
        "should_transfer_files",
        "stream_error",
        "stream_output",
        "transfer_executable",
        "universe",
        "when_to_transfer_output",
    }
)


class GivenValue(NamedTuple):
    """A value, and the line that gave it."""

    text: str
    line: int


@dataclass
class SubmitDescription:
    """`values`: by key in lower case. `problems`: what cannot be mapped, with its line."""

    values: dict[str, GivenValue] = field(default_factory=dict)
    queued: GivenValue | None = None
    problems: list[tuple[int, str]] = field(default_factory=list)

    def expanded(self, macros: Mapping[str, str]) -> dict[str, GivenValue]:
        """The values with their macros replaced; `macros` are those of the node, which come first."""
        known = {key: found.text for key, found in self.values.items()} | {
            name.lower(): text for name, text in macros.items()
        }
        return {key: GivenValue(self._replaced(found, known), found.line) for key, found in self.values.items()}

    def _replaced(self, found: GivenValue, known: Mapping[str, str]) -> str:
        text = found.text
        for _ in range(_DEEPEST):
            replaced = _MACRO.sub(lambda macro: known.get(macro["name"].lower(), macro["default"] or ""), text)
            if replaced == text:
                return text
            text = replaced[:65536]
        self.problems.append((found.line, f"{found.text!r} refers to itself"))
        return text


class NodeRun(NamedTuple):
    """The program of a node: `argv` is without a shell; `files` are those of its standard streams, by their signs."""

    argv: list[str]
    folder: str
    fields: dict[str, Any]
    files: dict[str, str]
    attempts: int = 1

    def script(self) -> str:
        """As a command of a shell."""
        return " ".join([*map(shlex.quote, self.argv), *(f"{sign} {shlex.quote(p)}" for sign, p in self.files.items())])


def read_description(lines: list[tuple[int, str]]) -> SubmitDescription:
    description = SubmitDescription()
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if queue := _QUEUE.fullmatch(line):
            description.queued = GivenValue(queue["count"] or "1", number)
        elif pair := _LINE.fullmatch(line):
            description.values[pair["key"].lower()] = GivenValue(pair["value"], number)
        else:
            description.problems.append((number, f"{line.strip()!r} is not mapped"))
    return description


def run_of(description: SubmitDescription, macros: Mapping[str, str], folder: str) -> NodeRun | None:
    """The program of a node with these macros, in `folder`; None without an executable."""
    values = description.expanded({"process": "0", "procid": "0", "step": "0", **macros})
    executable = values.pop("executable", None)
    if executable is None:
        return None
    folder = os.path.join(folder, values.pop("initialdir", GivenValue("", 0)).text).rstrip("/")
    fields: dict[str, Any] = {}
    files: dict[str, str] = {}
    arguments: list[str] = []
    attempts = 1
    for key, (text, line) in values.items():
        try:
            if key in ("arguments", "args"):
                arguments = _words(text)
            elif key in ("environment", "env"):
                fields["env"] = {name: literal(value) for name, value in _variables(text)}
            elif key in _FILES:
                files |= {_FILES[key]: text} if text and text != "/dev/null" else {}
            elif key == "max_retries":
                attempts = int(text) + 1
            elif key in _FIELDS:
                name, convert = _FIELDS[key]
                fields[name] = convert(text)
            elif key not in _OF_A_CLUSTER and not _is_used(key, description):
                description.problems.append((line, f"{key} is not mapped"))
        except ValueError:
            description.problems.append((line, f"{key} = {text!r} is not mapped"))
    return NodeRun([os.path.join(folder, executable.text), *arguments], folder, fields, files, attempts)


_FILES = {"input": "<", "output": ">", "error": "2>"}
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "priority": ("priority", int),
    "success_exit_code": ("success_exit_codes", lambda text: [int(text)]),
    "allowed_job_duration": ("timeout_ms", lambda text: int(text) * 1000),
    "allowed_execute_duration": ("timeout_ms", lambda text: int(text) * 1000),
    "nice_user": ("nice", lambda text: 10 if text.lower() == "true" else 0),
}


def _is_used(key: str, description: SubmitDescription) -> bool:
    """Whether the key is a macro of the description's own."""
    name = f"$({key}"
    return any(name in found.text.lower() for found in description.values.values())


def _words(text: str) -> list[str]:
    """The new form stands in double quotes, where '…' holds a word together; in the old one spaces separate words."""
    if not (text.startswith('"') and text.endswith('"') and len(text) > 1):
        return text.replace('\\"', '"').split()
    return _quoted_words(text[1:-1].replace('""', '"'))


def _variables(text: str) -> Iterator[tuple[str, str]]:
    new = text.startswith('"') and text.endswith('"') and len(text) > 1
    for word in _quoted_words(text[1:-1].replace('""', '"')) if new else text.split(";"):
        name, equals, value = word.strip().partition("=")
        if not equals:
            raise ValueError(word)
        yield name, value


def _quoted_words(text: str) -> list[str]:
    """Words separated by spaces; within '…' a space belongs to the word, and '' is a quote."""
    words: list[str] = []
    current: list[str] | None = None
    inside = False
    for piece in re.findall(r"''|'|[^']", text):
        if piece == "'" or (piece == "''" and not inside):
            inside = not inside if piece == "'" else inside
            current = current if current is not None else []
        elif piece.isspace() and not inside:
            words += ["".join(current)] if current is not None else []
            current = None
        else:
            current = [*(current or ()), "'" if piece == "''" else piece]
    return words + (["".join(current)] if current is not None else [])
