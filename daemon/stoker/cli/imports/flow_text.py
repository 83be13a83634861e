"""A draft as the text of a flow file, for people: TOML with tables for steps and scripts as they are read.

Owns how values are written. Invariant: the text reads back as exactly the flow of the draft.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.cli.imports.draft import Draft, DraftStep

WIDTH = 110
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def flow_text(draft: Draft, origin: str) -> str:
    """The text of the flow file; its first line names what it was made from."""
    lines = [f"# Made by `stoker workflow import` from {_comment(origin)}.", f"name = {_value(draft.name)}"]
    tables = {key: value for key, value in draft.head.items() if isinstance(value, dict)}
    lines += [f"{_key(key)} = {_value(value)}" for key, value in draft.head.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{_key(key)}]", *(f"{_key(name)} = {_value(value)}" for name, value in table.items())]
    for kind, steps in (("steps", draft.steps), ("finally", draft.finals)):
        for name, step in steps.items():
            lines += ["", *_step(f"{kind}.{_key(name)}", step)]
    return "\n".join(lines) + "\n"


def _step(table: str, step: DraftStep) -> Iterator[str]:
    """A long inline table is a table of its own, which stands behind the other keys."""
    yield f"[{table}]" + (f"  # {_comment(step.origin)}" if step.origin else "")
    fields = ({"needs": step.needs} if step.needs else {}) | step.fields
    lines = {key: f"{_key(key)} = {_value(value)}" for key, value in fields.items()}
    long = [key for key, value in fields.items() if value and isinstance(value, dict) and len(lines[key]) > WIDTH]
    yield from (line for key, line in lines.items() if key not in long)
    for key in long:
        yield f"[{table}.{_key(key)}]"
        yield from (f"{_key(name)} = {_value(value)}" for name, value in fields[key].items())


def _comment(text: str) -> str:
    return _CONTROL.sub("?", text.replace("\n", " "))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case dict():
            pairs = ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case list() | tuple():
            return _list([_value(inner) for inner in value])
    return repr(value)


def _list(values: list[str]) -> str:
    """On one line, or as lines of a bearable width. A long text stays in the line of its bracket."""
    line = f"[{', '.join(values)}]"
    if len(line) <= WIDTH or any("\n" in value or len(value) > WIDTH for value in values):
        return line
    lines, current = [], "   "
    for value in values:
        if len(current) + len(value) + 2 > WIDTH and current.strip():
            lines.append(current)
            current = "   "
        current += f" {value},"
    return "\n".join(["[", *lines, current, "]"])


def _text(text: str) -> str:
    if "'" not in text and ('"' in text or "\\" in text) and "\n" not in text and not _CONTROL.search(text):
        return f"'{text}'"
    if "\n" in text.strip("\n") and "'''" not in text and not text.endswith("'") and not _CONTROL.search(text):
        return f"'''\n{text}'''"
    return _quoted(text)


def _quoted(text: str) -> str:
    escaped = "".join(_ESCAPES.get(character, character) for character in text)
    return '"' + _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'
