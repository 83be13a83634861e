"""JSON without the package `json`, whose import (`re`, `enum`) is a fifth of the time of a short run on a node.

Reads by the scanner in C that the package uses itself. Writes the few types that a claim and a record have.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


class Reading:
    """The settings of `json.loads`, as the scanner wants them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_int, parse_float, parse_constant = int, float, float


_settings: Any = Reading
_scan = make_scanner(_settings)


def read_json(path: str) -> Any:
    """The value in a file, which begins with it. Raises OSError, or ValueError."""
    with open(path, "rb") as file:
        text = file.read().decode()
    try:
        value, _ = _scan(text, 0)
    except StopIteration:
        raise ValueError(f"no JSON: {text[:100]!r}") from None
    return value


def json_of(value: Any) -> str:
    """Raises TypeError for a value that neither a claim nor a record has."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return encode_basestring_ascii(value)
        case dict():
            return "{" + ",".join(f"{json_of(str(name))}:{json_of(one)}" for name, one in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} in a record")
