"""The data of a checkpoint for people and programs, and the differences between two checkpoints. Pure.

Owns three forms: JSON as its value, text as text, and other bytes as a summary (or base64, where no byte may be lost).
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from itertools import accumulate

from stoker.cli.kit import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def plain(data: bytes, *, lossless: bool = False) -> Any:
    """JSON as its value, text as text, anything else as its size and hash (`lossless`: base64)."""
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


def readable(data: bytes, most: int | None = None) -> str:
    """The same as lines of text. JSON of which these would have more than `most` characters stays as it is: with deep
    nesting, the indentation makes megabytes of some kilobytes.
    """
    value = plain(data)
    if isinstance(value, str) and not data.startswith(b'"'):
        return value
    if most is not None and _is_longer(value, most):
        return data.decode()
    return render.sorted_text(value)


def _is_longer(value: Any, most: int) -> bool:
    """Found without making all of the text."""
    lengths = accumulate(map(len, json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value)))
    return any(length > most for length in lengths)


def differing_lines(before: str, after: str, names: tuple[str, str]) -> Iterator[str]:
    """The lines of two texts that differ, with a few around them, as `diff -u` shows them."""
    import difflib  # noqa: PLC0415 - only for a comparison

    old, new = (text.removesuffix("\n").split("\n") for text in (before, after))
    return difflib.unified_diff(old, new, *names, lineterm="")


def changes(before: Any, after: Any) -> Iterator[dict[str, Any]]:
    """Each path at which the values differ, with `old` and `new`; a side without that path is left out."""
    pending = [("", {"old": before, "new": after})]
    while pending:  # JSON may be nested deeper than Python can recurse
        path, sides = pending.pop()
        kinds = {type(side) for side in sides.values()}
        if len(sides) == 2 and kinds in ({dict}, {list}):  # noqa: PLR2004 - old and new
            pending += reversed(_inner(path, sides))
        elif len(sides) == 1 or len(set(map(render.json_text, sides.values()))) > 1:
            yield {"path": path, **sides}


def _inner(path: str, sides: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(sides["old"], dict):
        paths: dict[Any, str] = {key: f"{path}.{key}".lstrip(".") for key in sorted({*sides["old"], *sides["new"]})}
        parts = sides
    else:
        paths = {index: f"{path}[{index}]" for index in range(max(map(len, sides.values())))}
        parts = {name: dict(enumerate(side)) for name, side in sides.items()}
    return [(path, {name: side[key] for name, side in parts.items() if key in side}) for key, path in paths.items()]
