"""Templates: `{{name}}` in the texts of a step, and the values that replace them; `{{{{` stands for `{{` itself.

Owns which fields are templates, and their mistakes. Invariant: a filled text keeps the limit of its field; this is
checked before the text is made, because a few bytes can ask for gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from stoker.core.command_limits import MAX_ARGV_BYTES, MAX_SHOWN
from stoker.core.errors import InvalidParams
from stoker.core.job import conditions
from stoker.core.job.conditions import Tree
from stoker.core.requests import (
    MAX_TEXT,
    AbsolutePath,
    JobWork,
    Name,
    Path,
    RateKey,
    Text,
    Title,
)
from stoker.core.workflow.items import ITEM, Item, is_item_word, item_text, words
from stoker.core.workflow.mistakes import Mistake

MOST_NAMED = 20  # parameters, in one message
OVERHEAD = 64  # characters that each text costs beside its own, in memory and in a row
# The parts are possessive: with backtracking, spaces behind `{{` would take time by the square of their number.
_WORD = re.compile(r"\{\{\s*+([^{}\s]*+)\s*+\}\}")
_BRACED = re.compile(r"\{\{[^{}]*+\}\}")
_LISTS = ("args", "sources", "produces")
_ESCAPED = "{{{{"
_SINGLE = {
    "command": Path,
    "working_dir": AbsolutePath,
    "stdin": Text,
    "name": Title,
    "queue": Name,
    "rate_key": RateKey,
}
# A step takes longer texts there, so one without a template is checked here, too.
_LATE = {
    "queue": "letters, digits and . _ : -, at most 64, the first a letter or digit",
    "rate_key": "letters, digits and . _ : @ / -, at most 128, the first a letter or digit",
}
_KINDS = {**_SINGLE, "labels": Title, "sources": Path, "produces": Path}
_OF_PROGRAM = frozenset({"command", "working_dir", "env.PATH"})
WAIT_FOR = "wait_for"
_single_texts = attrgetter(*_SINGLE)
_LARGE = "pass large data by a file or by stdin"

W = TypeVar("W", bound=JobWork)


class TemplateNames:
    """The parameters of a flow by name; a step of a fan-out has the words of its item, too."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters

    @cached_property
    def listed(self) -> str:
        return named(self.parameters)

    @cached_property
    def listed_with_item(self) -> str:
        return named({*self.parameters, ITEM})


class Filled(NamedTuple, Generic[W]):
    """A step with all names replaced. `size` is that of all its texts in characters; paths are relative to the step."""

    step: W
    size: int
    mistakes: list[Mistake]

    @property
    def locatable(self) -> bool:
        """Whether the fields that decide where its program is are valid."""
        return not any(mistake.path in _OF_PROGRAM for mistake in self.mistakes)


class _Text(NamedTuple):
    """A template: `pieces` are text and names in turn. `key` is its place in a list, in `env` or in `labels`."""

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
    def __init__(self, sent: W, names: TemplateNames, *, of_items: bool) -> None:
        self._sent = sent
        self._parameters = names.parameters
        self._of_items = of_items
        self._size = sum(len(text) + OVERHEAD for text in (*(sent.args or ()), *(sent.env or {}).values()))
        self.mistakes: list[Mistake] = []  # of every step that is made of it
        self._texts: list[_Text] = []
        for text in _texts(sent):
            if wrong := _no_name(text.path, text.text):
                self.mistakes.append(wrong)
                continue
            missing = [name for name in dict.fromkeys(text.pieces[1::2]) if name not in names.parameters]
            if of_items:
                missing = [name for name in missing if not is_item_word(name)]
            for name in missing:
                listed = names.listed_with_item if of_items else names.listed
                message = f"{{{{{name}}}}}: no such parameter (there are: {listed})"
                self.mistakes.append(Mistake(text.path, message, "declare it under [parameters]"))
            if not missing:
                self._texts.append(text)

    def fill(self, item: Item | None = None) -> Filled[W]:
        """The step with every name replaced by its value; a text that cannot be filled stays as it was."""
        mistakes, size = [*self.mistakes], self._size
        tree = self._sent.wait_for or None
        if not self._texts and tree is None:
            return Filled(self._sent, size, mistakes)
        own = {} if item is None else words(item)
        changes: dict[str, Any] = {}
        lists = {name: list(getattr(self._sent, name, None) or ()) for name in _LISTS}
        mappings: dict[str, dict[str, Any]] = {
            "env": dict(self._sent.env or {}),
            "labels": dict(self._sent.labels or {}),
        }
        room = MAX_ARGV_BYTES - sum(map(len, lists["args"]))
        waits = {}
        for text in self._texts:
            filled = self._filled(text, own)
            if isinstance(filled, Mistake):
                mistakes.append(filled)
                continue
            grown = len(filled) - len(text.text)
            size += grown
            if text.field == WAIT_FOR:
                waits[text.text] = filled
            elif isinstance(text.key, str):
                mappings[text.field][text.key] = filled
                changes[text.field] = mappings[text.field]
            elif text.key is None:
                changes[text.field] = filled
            elif text.field == "args" and grown > room:
                mistakes.append(Mistake("args", f"filled in, they take more than {MAX_ARGV_BYTES} bytes", _LARGE))
                break
            else:
                room -= grown if text.field == "args" else 0
                lists[text.field][text.key] = filled
                changes[text.field] = lists[text.field]
        if tree is not None:
            changes[WAIT_FOR] = _conditions(tree, waits, mistakes)
        return Filled(self._changed(changes, mistakes), size, mistakes)

    def _filled(self, text: _Text, own: Mapping[str, str]) -> str | Mistake:
        pieces = [*text.pieces]
        for index in range(1, len(pieces), 2):
            name = pieces[index]
            if name in own:
                pieces[index] = own[name]
            elif self._of_items and is_item_word(name):
                return Mistake(text.path, *_no_such_word(name, own))
            else:
                pieces[index] = self._parameters[name]
        length = sum(map(len, pieces))
        if length > MAX_TEXT:
            return Mistake(text.path, f"filled in, it has {length} characters; the limit is {MAX_TEXT}", _LARGE)
        filled = "".join(pieces)
        try:
            return msgspec.convert(filled, _KINDS[text.field]) if text.field in _KINDS else filled
        except msgspec.ValidationError as error:
            if text.field in _LATE:
                return Mistake(text.path, f"{filled[:MAX_SHOWN]!r} is not a valid name", _LATE[text.field])
            return Mistake(text.path, f"filled in, it is not valid: {str(error).replace('`', '')}")

    def _changed(self, changes: dict[str, Any], mistakes: list[Mistake]) -> W:
        try:
            return msgspec.structs.replace(
                self._sent, **{field: tuple(text) if field in _LISTS else text for field, text in changes.items()}
            )
        except InvalidParams as error:  # each of its texts is short enough, but their sum is not
            mistakes.append(_as_mistake(error))
            return self._sent


def _conditions(tree: Tree, waits: Mapping[str, str], mistakes: list[Mistake]) -> Tree | None:
    """The conditions to wait for with their texts replaced; none if one is wrong."""
    if any(mistake.path == WAIT_FOR for mistake in mistakes):
        return None
    filled = conditions.filled(tree, lambda text: waits.get(text, text))
    try:
        conditions.check(filled)
    except InvalidParams as error:
        mistakes.append(_as_mistake(error))
        return None
    return filled


def _as_mistake(error: InvalidParams) -> Mistake:
    path = error.details["path"]
    return Mistake(path, error.message.removeprefix(f"{path}: "), error.hint)


def named(names: Iterable[str]) -> str:
    """The first names, for a message."""
    ordered = sorted(names)
    more = [f"and {len(ordered) - MOST_NAMED} more"] if len(ordered) > MOST_NAMED else []
    return ", ".join([*ordered[:MOST_NAMED], *more]) or "none"


def _texts(sent: JobWork) -> Iterator[_Text]:
    single = zip(_SINGLE, repeat(None), _single_texts(sent))
    env = (("env", name, text) for name, text in (sent.env or {}).items())
    labels = (("labels", name, text) for name, text in (sent.labels or {}).items())
    lists = ((field, index, text) for field in _LISTS for index, text in enumerate(getattr(sent, field, None) or ()))
    waits = ((WAIT_FOR, None, text) for text in conditions.texts(sent.wait_for or None))
    for field, key, text in (*single, *env, *labels, *lists, *waits):
        if isinstance(text, str) and ("{{" in text or field in _LATE):
            yield _Text(field, key, text, pieces_of(text))


def pieces_of(text: str) -> list[str]:
    """Text and names in turn, with the text as it is to be."""
    first, *others = text.split(_ESCAPED)
    pieces = _WORD.split(first)
    for other in others:
        more = _WORD.split(other)
        pieces[-1] += "{{" + more[0]
        pieces += more[1:]
    return pieces


def _no_name(path: str, text: str) -> Mistake | None:
    """The mistake of a text that has something in double braces that is no name."""
    if "{{" not in text:
        return None
    plain = (piece for part in text.split(_ESCAPED) for piece in _WORD.split(part)[::2])
    braced = next(filter(None, map(_BRACED.search, plain)), None)
    if braced is None:
        return None
    return Mistake(path, f"{braced[0][:MAX_SHOWN]}: this is not a name", f"write {_ESCAPED} for {{{{ itself")


def _no_such_word(name: str, own: Mapping[str, str]) -> tuple[str, str]:
    """The message and the hint for a word that an item does not have."""
    if ITEM in own:
        return f"{{{{{name}}}}}: an item is no table, so it has no keys", f"{{{{{ITEM}}}}} stands for the whole item"
    listed = named(word.removeprefix(f"{ITEM}.") for word in own)
    if name == ITEM:
        return f"{{{{{ITEM}}}}}: an item is a table", f"name one of its keys, as in {{{{{next(iter(own))}}}}}"
    message = f"{{{{{name}}}}}: an item has no such key (it has: {listed})"
    return message, "give the key to every item"


def filled_items(items: Sequence[Any], names: TemplateNames, field: str = "each") -> tuple[list[Any], list[Mistake]]:
    """The items of an `each`, or the values of an axis, with every parameter replaced, and the mistakes in them."""
    values: list[Any] = list(items)
    mistakes: list[Mistake] = []
    for index, item in enumerate(items):
        path = f"{field}[{index}]"
        if isinstance(item, str):
            values[index] = filled_text(path, item, names, mistakes)
        elif isinstance(item, Mapping):
            values[index] = table = {
                key: filled_text(f"{path}.{key}", value, names, mistakes) if isinstance(value, str) else value
                for key, value in item.items()
            }
            if (length := len(item_text(table))) > MAX_TEXT:
                mistakes.append(Mistake(path, f"it has {length} characters as JSON; the limit is {MAX_TEXT}", _LARGE))
    return values, mistakes


def filled_text(
    path: str, text: str, names: TemplateNames, mistakes: list[Mistake], item: Mapping[str, str] | None = None
) -> str:
    """A text with every name replaced; with a mistake, as it was. `item`: the words of the item, if there is one."""
    if "{{" not in text:
        return text
    if wrong := _no_name(path, text):
        mistakes.append(wrong)
        return text
    pieces, own = pieces_of(text), item or {}
    missing = [name for name in dict.fromkeys(pieces[1::2]) if name not in own and name not in names.parameters]
    for name in missing:
        if own and is_item_word(name):
            mistakes.append(Mistake(path, *_no_such_word(name, own)))
        else:
            listed = names.listed_with_item if own else names.listed
            message = f"{{{{{name}}}}}: no such parameter (there are: {listed})"
            mistakes.append(Mistake(path, message, "declare it under [parameters]"))
    if missing:
        return text
    pieces[1::2] = [own[name] if name in own else names.parameters[name] for name in pieces[1::2]]
    if (length := sum(map(len, pieces))) > MAX_TEXT:
        mistakes.append(Mistake(path, f"filled in, it has {length} characters; the limit is {MAX_TEXT}", _LARGE))
        return text
    return "".join(pieces)
