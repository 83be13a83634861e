"""DAG files of HTCondor's DAGMan: their commands, read into nodes.

Owns the grammar of each command, and the mistakes in them, each with its line. What a command means to a
workflow is `dagman`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from stoker.cli.imports.draft import Remark, read_text
from stoker.cli.imports.submit_description import SubmitDescription, read_description

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VARIABLE = re.compile(r'(\w+)\s*=\s*"((?:\\.|[^"\\])*)"')
_ESCAPE = re.compile(r"\\(.)")
_ALL_NODES = "ALL_NODES"
_NO_MEANING = frozenset({"CONFIG", "DOT", "NODE_STATUS_FILE", "JOBSTATE_LOG", "ENV", "SET_JOB_ATTR", "SAVE_POINT_FILE"})


@dataclass
class DagNode:
    """A node as its lines give it. `run` is a file, or the text of a submit description."""

    name: str
    file: str
    line: int
    run: str | SubmitDescription
    folder: str = ""
    kind: str = "JOB"
    done: bool = False
    noop: bool = False
    parents: list[str] = field(default_factory=list)
    macros: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, list[str]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    retries: int = 0


class _DagCommand(NamedTuple):
    """A command: how many words follow it at least, its form, and who reads it."""

    least: int
    form: str
    read: Callable[[Any, list[str], str, SubmitDescription | None], None]


class DagFile:
    """The nodes of a DAG file and of those that it includes."""

    def __init__(self, source: str) -> None:
        self.folder = os.path.dirname(os.path.abspath(source))
        self._source = self._file = source
        self.nodes: dict[str, DagNode] = {}
        self.descriptions: dict[str, SubmitDescription] = {}
        self.categories: dict[str, int] = {}
        self._included: set[str] = set()
        self._at = 0
        self.remarks: list[Remark] = []
        self.mistakes: list[str] = []

    def read_file(self, source: str) -> None:
        """Read each command; `self._file` and `self._at` are where the reading is."""
        before = self._file, self._at
        self._file = source
        self._included.add(os.path.abspath(source))
        lines = iter(enumerate(read_text(source).split("\n"), 1))
        for self._at, line in lines:
            words = line.split()
            if words and not words[0].startswith("#"):
                inline = self._inline(lines) if words[-1] == "{" else None
                self._command(words, line, inline)
        self._file, self._at = before

    def _inline(self, lines: Iterator[tuple[int, str]]) -> SubmitDescription:
        return read_description(list(takewhile(lambda line: line[1].strip() != "}", lines)))

    def _command(self, words: list[str], line: str, inline: SubmitDescription | None) -> None:
        keyword = words[0].upper()
        command = self._COMMANDS.get(keyword)
        if keyword in _NO_MEANING:
            self._remark(f"{keyword} is not mapped", loss=False)
        elif command is None:
            self._remark(f"{keyword} is not mapped")
        elif len(words) <= command.least:
            self.mistakes.append(f"{self._file}:{self._at}: {keyword} {command.form}")
        else:
            command.read(self, words, line, inline)

    def _remark(self, text: str, *, loss: bool = True) -> None:
        self.remarks.append(Remark(self._file, self._at, text, loss))

    def _named(self, name: str) -> list[DagNode]:
        if name.upper() == _ALL_NODES:
            return [*self.nodes.values()]
        if name in self.nodes:
            return [self.nodes[name]]
        self.mistakes.append(f"{self._file}:{self._at}: {name}: no node with this name stands before this line")
        return []

    # --- the commands ---------------------------------------------------------------------------------------

    def _job(self, words: list[str], _line: str, inline: SubmitDescription | None) -> None:
        name, options = words[1], [word.upper() for word in words[2 if inline else 3 :]]
        run: str | SubmitDescription = inline or words[2]
        node = DagNode(name, self._file, self._at, run, self.folder, kind=words[0].upper(), done="DONE" in options)
        node.noop = "NOOP" in options
        if "DIR" in options[:-1]:
            node.folder = os.path.join(self.folder, words[-len(options) + options.index("DIR") + 1])
        if name in self.nodes:
            self.mistakes.append(f"{self._file}:{self._at}: {name}: a node of this name stands in an earlier line")
        self.nodes[name] = node

    def _subdag(self, words: list[str], line: str, inline: SubmitDescription | None) -> None:
        self._job(["SUBDAG", *words[2:]], line, inline)

    def _parent(self, words: list[str], _line: str, _inline: object) -> None:
        upper = [word.upper() for word in words]
        if "CHILD" not in upper:
            self.mistakes.append(f"{self._file}:{self._at}: PARENT {self._COMMANDS['PARENT'].form}")
            return
        middle = upper.index("CHILD")
        parents = [node.name for name in words[1:middle] for node in self._named(name)]
        for child in (node for name in words[middle + 1 :] for node in self._named(name)):
            child.parents += parents

    def _vars(self, words: list[str], line: str, _inline: object) -> None:
        pairs = {name: _ESCAPE.sub(r"\1", text) for name, text in _VARIABLE.findall(line)}
        for node in self._named(words[1]):
            node.macros |= pairs

    def _retry(self, words: list[str], _line: str, _inline: object) -> None:
        for node in self._named(words[1]):
            node.retries = self._number(words[2])
            if len(words) > 4 and words[3].upper() == "UNLESS-EXIT":  # noqa: PLR2004 - the words of the line
                node.fields["no_retry_exit_codes"] = [self._number(words[4])]

    def _script(self, words: list[str], _line: str, _inline: object) -> None:
        words = words[1:]
        while words[0].upper() in ("DEFER", "DEBUG") and len(words) > 3:  # noqa: PLR2004 - each with two words more
            self._remark(f"SCRIPT {words[0].upper()} is not mapped")
            words = words[3:]
        kind, name, *argv = [*words, ""] if len(words) == 1 else words
        if kind.upper() not in ("PRE", "POST"):
            self._remark(f"SCRIPT {kind.upper()} is not mapped")
            return
        for node in self._named(name):
            node.scripts[kind.upper()] = argv

    def _priority(self, words: list[str], _line: str, _inline: object) -> None:
        for node in self._named(words[1]):
            node.fields["priority"] = self._number(words[2])

    def _abort(self, words: list[str], _line: str, _inline: object) -> None:
        for node in self._named(words[1]):
            node.fields["abort_on"] = [self._number(words[2])]
        if len(words) > 3:  # noqa: PLR2004 - the words of the line
            self._remark(f"ABORT-DAG-ON {words[1]} … RETURN is not mapped: the workflow has failed")

    def _category(self, words: list[str], _line: str, _inline: object) -> None:
        for node in self._named(words[1]):
            node.fields["resources"] = {words[2]: 1}
            self.categories.setdefault(words[2], 0)

    def _max_jobs(self, words: list[str], _line: str, _inline: object) -> None:
        self.categories[words[1]] = self._number(words[2])
        self._remark(f"before the first submit: stoker resource set {words[1]} {words[2]}", loss=False)

    def _include(self, words: list[str], _line: str, _inline: object) -> None:
        path = os.path.join(self.folder, words[1])
        if os.path.abspath(path) in self._included:
            self.mistakes.append(f"{self._file}:{self._at}: {words[1]} is included twice")
        else:
            self.read_file(path)

    def _description(self, words: list[str], _line: str, inline: SubmitDescription | None) -> None:
        self.descriptions[words[1]] = inline or SubmitDescription()

    def _number(self, word: str) -> int:
        if not word.removeprefix("-").isdecimal():
            self.mistakes.append(f"{self._file}:{self._at}: {word!r} is not a whole number")
            return 0
        return int(word)

    _COMMANDS: ClassVar[dict[str, _DagCommand]] = {
        "JOB": _DagCommand(2, "NAME FILE", _job),
        "FINAL": _DagCommand(2, "NAME FILE", _job),
        "SPLICE": _DagCommand(2, "NAME FILE", _job),
        "SUBDAG": _DagCommand(3, "EXTERNAL NAME FILE", _subdag),
        "PARENT": _DagCommand(3, "NAME… CHILD NAME…", _parent),
        "VARS": _DagCommand(2, 'NAME KEY="VALUE"…', _vars),
        "RETRY": _DagCommand(2, "NAME COUNT", _retry),
        "SCRIPT": _DagCommand(3, "PRE|POST NAME PROGRAM…", _script),
        "PRIORITY": _DagCommand(2, "NAME NUMBER", _priority),
        "ABORT-DAG-ON": _DagCommand(2, "NAME CODE", _abort),
        "CATEGORY": _DagCommand(2, "NAME CATEGORY", _category),
        "MAXJOBS": _DagCommand(2, "CATEGORY COUNT", _max_jobs),
        "INCLUDE": _DagCommand(1, "FILE", _include),
        "SUBMIT-DESCRIPTION": _DagCommand(2, "NAME {", _description),
    }
