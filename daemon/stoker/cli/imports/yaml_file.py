"""YAML files, read with the line of each key.

Owns what a scalar is: as in YAML 1.2, `on` and `yes` are texts. Invariant: a file cannot make the reader use more than
a bounded number of values, whatever its aliases repeat.
"""

from __future__ import annotations

from typing import Any

import yaml

from stoker.cli.imports.draft import read_text
from stoker.core.errors import ParseError

MOST_VALUES = 100_000
DEEPEST = 100
_BOOLEANS = {"true": True, "false": False}
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class LinedMap(dict[str, Any]):
    """A mapping; `line_of` gives the line of a key, or that of the mapping itself."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self._line = line
        self._lines: dict[str, int] = {}

    def put(self, key: str, value: Any, line: int) -> None:
        self[key] = value
        self._lines[key] = line

    def line_of(self, key: str | None = None) -> int:
        return self._lines.get(key, self._line) if key is not None else self._line


class _BoundedLoader(yaml.SafeLoader):
    """Reads no further than a depth: beyond, PyYAML takes time by the square of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"nested deeper than {DEEPEST}")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def read_yaml(source: str) -> LinedMap:
    """The mapping that the file holds. Raises ParseError with file and line."""
    text = read_text(source)
    try:
        value = _NodeReader(source).value(yaml.compose(text, Loader=_BoundedLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ParseError(f"{source}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ParseError(f"{source}: {error}") from None
    if not isinstance(value, LinedMap):
        raise ParseError(f"{source}:1: not a mapping")
    return value


class _NodeReader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._count = 0

    def value(self, node: yaml.Node | None) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise ParseError(f"{self._source}: more than {MOST_VALUES} values")
        match node:
            case None:
                return None
            case yaml.MappingNode():
                return self._mapping(node)
            case yaml.SequenceNode():
                return [self.value(item) for item in node.value]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode) -> LinedMap:
        mapping = LinedMap(node.start_mark.line + 1)
        for key, value in node.value:
            mapping.put(str(key.value), self.value(value), key.start_mark.line + 1)
        return mapping


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    if node.tag == "tag:yaml.org,2002:null":
        return None
    if node.tag == "tag:yaml.org,2002:bool":
        return _BOOLEANS.get(text.lower(), text)
    if node.tag in _NUMBERS:
        try:
            return int(text)
        except ValueError:
            return text if "_" in text or ":" in text else _number(text)
    return text


def _number(text: str) -> int | float | str:
    try:
        return float(text)
    except ValueError:
        return text
