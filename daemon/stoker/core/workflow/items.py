"""The items of a fan-out: texts, whole numbers and flat tables, with their labels and their words in templates.

A step of a fan-out is named GROUP[LABEL], as in `compile[lexer]` and `test[linux,3.12]`. Invariants: the labels of a
group differ from each other, and the same items in the same order always get the same labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.core.requests import MAX_LABELS, Name, Text

MAX_LABEL = 48
ITEM = "item"

Value = Text | int | bool
Table = Annotated[dict[Name, Value], Meta(min_length=1, max_length=MAX_LABELS)]
Item = Text | int | Table

_OTHER = re.compile(r"[^A-Za-z0-9._/+@%=:,-]")


def value_text(value: str | int | bool) -> str:  # noqa: FBT001 - a value of an item
    """A value as it stands in a text: true and false as in TOML and JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def item_text(item: Item) -> str:
    """An item as one text, as its step finds it in STOKER_ITEM: a table as compact JSON."""
    return msgspec.json.encode(item).decode() if isinstance(item, Mapping) else value_text(item)


def words(item: Item) -> dict[str, str]:
    """The words of templates that stand for an item: `item`, or `item.KEY` for each key of a table."""
    if isinstance(item, Mapping):
        return {f"{ITEM}.{key}": value_text(value) for key, value in item.items()}
    return {ITEM: value_text(item)}


def is_item_word(word: str) -> bool:
    return word == ITEM or word.startswith(f"{ITEM}.")


def labels(items: Iterable[Item]) -> list[str]:
    """The label of each item; a later one of the same label gets `#2`, `#3` and so on."""
    seen: dict[str, int] = {}
    found = []
    for item in items:
        label = _label(item)
        number = seen[label] = seen.get(label, 0) + 1
        found.append(label if number == 1 else f"{label}#{number}")
    return found


def as_label(text: str) -> str:
    """A text as a part of a name; of a long one the end, because long paths differ there."""
    return _OTHER.sub("_", text[-MAX_LABEL:]) or "_"


def _label(item: Item) -> str:
    if isinstance(item, Mapping):
        text = value_text(item["name"]) if "name" in item else ",".join(map(value_text, item.values()))
    else:
        text = value_text(item)
    return as_label(text)


def step_name(group: str, label: str) -> str:
    return f"{group}[{label}]"
