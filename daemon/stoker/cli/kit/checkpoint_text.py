"""What the data of a checkpoint reads as: JSON as its value, text as it is, anything else summarised; and what differs.

Owns these readings: for eyes, for programs, and without a loss. Refuses to ask the daemon for anything. Pure.
"""

from __future__ import annotations

import json
from binascii import b2a_base64

from stoker.cli.kit import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def plain(data: bytes, *, lossless: bool = False) -> Any:
    """The value of JSON, text as text, and of anything else its size and hash (`lossless`: base64)."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _summary(data, lossless=lossless)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _summary(data, lossless=lossless) if min(text, default=" ") < "\t" else text


def _summary(data: bytes, *, lossless: bool) -> dict[str, Any]:
    if lossless:
        return {"base64": b2a_base64(data, newline=False).decode()}
    from hashlib import sha256  # noqa: PLC0415 - only for binary data

    return {"binary": True, "bytes": len(data), "sha256": sha256(data).hexdigest(), "begins": data[:32].hex(" ")}


def readable(data: bytes) -> str:
    """The same as lines for eyes and diffs."""
    value = plain(data)
    if isinstance(value, str) and not data.startswith(b'"'):
        return value
    return render.sorted_text(value)


def changes(before: Any, after: Any) -> Iterator[dict[str, Any]]:
    """What differs, place by place; a side on which a place is missing is left out."""
    ahead = [("", {"old": before, "new": after})]
    while ahead:  # not recursive: JSON may be nested deeper than Python calls
        path, sides = ahead.pop()
        kinds = {type(side) for side in sides.values()}
        if len(sides) == 2 and kinds in ({dict}, {list}):  # noqa: PLR2004 - both have it
            ahead += reversed(_inner(path, sides))
        elif len(sides) == 1 or len(set(map(render.json_text, sides.values()))) > 1:
            yield {"path": path, **sides}


def _inner(path: str, sides: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(sides["old"], dict):
        places: dict[Any, str] = {key: f"{path}.{key}".lstrip(".") for key in sorted({*sides["old"], *sides["new"]})}
        parts = sides
    else:
        places = {index: f"{path}[{index}]" for index in range(max(map(len, sides.values())))}
        parts = {name: dict(enumerate(side)) for name, side in sides.items()}
    return [(place, {name: side[key] for name, side in parts.items() if key in side}) for key, place in places.items()]
