"""The words of a flow: `{{name}}` in the texts of a step, and what is put in their place.

Owns which fields have words, and what is wrong with one. Refuses to know flows: it is given a step and the value of
every word. Invariants: a text that was filled obeys the limit of its field; none is made that would not, as a few bytes
can ask for gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from stoker.core.errors import InvalidParams
from stoker.core.requests import MAX_ARGV_BYTES, MAX_TEXT, AbsolutePath, JobWork, Path, Text, Title
from stoker.core.workflow.mistakes import Mistake

ITEM = "item"
MOST_NAMED = 20  # parameters, in one message
OVERHEAD = 64  # of a text in memory and in a row, in characters: many small ones are large too
_WORD = re.compile(r"\{\{\s*([^{}\s]*)\s*\}\}")
_SINGLE = {"command": Path, "working_dir": AbsolutePath, "stdin": Text, "name": Title}
_OF_PROGRAM = frozenset({"command", "working_dir", "env.PATH"})
_LARGE = "pass large data by a file or by stdin"

W = TypeVar("W", bound=JobWork)


class TemplateNames:
    """The parameters of a flow by name; a step of an `each` has one word more."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters

    @cached_property
    def known(self) -> str:
        return named(self.parameters)

    @cached_property
    def known_to_items(self) -> str:
        return named({*self.parameters, ITEM})


class Filled(NamedTuple, Generic[W]):
    """A step without words. `size` is of all its texts, in characters; the paths of mistakes begin at the step."""

    step: W
    size: int
    mistakes: list[Mistake]

    @property
    def locatable(self) -> bool:
        """Whether what says where its program is can be believed."""
        return not any(mistake.path in _OF_PROGRAM for mistake in self.mistakes)


class _Text(NamedTuple):
    """A text with words in it: `pieces` are text and words by turns. `key` is its place in `args` or `env`."""

    field: str
    key: int | str | None
    text: str
    pieces: list[str]

    @property
    def path(self) -> str:
        if self.key is None:
            return self.field
        return f"{self.field}[{self.key}]" if isinstance(self.key, int) else f"{self.field}.{self.key}"


class Template(Generic[W]):
    """A step whose texts may have words in them."""

    def __init__(self, sent: W, words: TemplateNames, *, of_items: bool) -> None:
        self._sent = sent
        self._parameters = words.parameters
        self._size = sum(len(text) + OVERHEAD for text in (*(sent.args or ()), *(sent.env or {}).values()))
        self._mistakes: list[Mistake] = []  # that every step made of it has
        self._texts: list[_Text] = []
        for text in _texts(sent):
            missing = [word for word in dict.fromkeys(text.pieces[1::2]) if word not in words.parameters]
            if of_items and ITEM in missing:
                missing.remove(ITEM)
            for word in missing:
                known = words.known_to_items if of_items else words.known
                told = f"{{{{{word}}}}}: no such parameter (there are: {known})"
                self._mistakes.append(Mistake(text.path, told, "declare it under [parameters]"))
            if not missing:
                self._texts.append(text)

    def fill(self, item: str | None = None) -> Filled[W]:
        """The step with every word replaced by its value; a text that cannot be filled stays as it was."""
        mistakes, size = [*self._mistakes], self._size
        changes: dict[str, Any] = {}
        args, env = list(self._sent.args or ()), dict(self._sent.env or {})
        room = MAX_ARGV_BYTES - sum(map(len, args))
        for text in self._texts:
            made = self._made(text, item)
            if isinstance(made, Mistake):
                mistakes.append(made)
                continue
            grown = len(made) - len(text.text)
            size += grown
            if isinstance(text.key, str):
                env[text.key] = made
                changes["env"] = env
            elif text.key is None:
                changes[text.field] = made
            elif grown > room:
                mistakes.append(Mistake("args", f"filled in, they take more than {MAX_ARGV_BYTES} bytes", _LARGE))
                break
            else:
                room -= grown
                args[text.key] = made
                changes["args"] = args
        return Filled(self._changed(changes, mistakes), size, mistakes)

    def _made(self, text: _Text, item: str | None) -> str | Mistake:
        pieces = [*text.pieces]
        for index in range(1, len(pieces), 2):
            word = pieces[index]
            pieces[index] = item if word == ITEM and item is not None else self._parameters[word]
        length = sum(map(len, pieces))
        if length > MAX_TEXT:
            return Mistake(text.path, f"filled in, it has {length} characters; the limit is {MAX_TEXT}", _LARGE)
        made = "".join(pieces)
        try:
            return made if text.key is not None else msgspec.convert(made, _SINGLE[text.field])
        except msgspec.ValidationError as error:
            return Mistake(text.path, f"filled in, it is not what it must be: {str(error).replace('`', '')}")

    def _changed(self, changes: dict[str, Any], mistakes: list[Mistake]) -> W:
        try:
            return msgspec.structs.replace(
                self._sent, **{field: tuple(made) if field == "args" else made for field, made in changes.items()}
            )
        except InvalidParams as error:  # each of its texts is short enough, all of them together are not
            path = error.details["path"]
            mistakes.append(Mistake(path, error.message.removeprefix(f"{path}: "), error.hint))
            return self._sent


def named(names: Iterable[str]) -> str:
    """Some of the names there are, for a message."""
    known = sorted(names)
    more = [f"and {len(known) - MOST_NAMED} more"] if len(known) > MOST_NAMED else []
    return ", ".join([*known[:MOST_NAMED], *more]) or "none"


def _texts(sent: JobWork) -> Iterator[_Text]:
    """The texts that have words in them."""
    single = ((field, None, getattr(sent, field)) for field in _SINGLE)
    env = (("env", name, text) for name, text in (sent.env or {}).items())
    args = (("args", index, text) for index, text in enumerate(sent.args or ()))
    for field, key, text in (*single, *env, *args):
        if isinstance(text, str) and "{{" in text:
            pieces = _WORD.split(text)
            if len(pieces) > 1:
                yield _Text(field, key, text, pieces)
