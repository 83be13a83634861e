"""Lists of items in files: `each = { file = "list.txt" }`, read by the client beside its flow file.

Owns where such a file is and what may be wrong with it. The daemon gets the list itself, and opens no file.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from typing import Any

from stoker.core.errors import ParseError
from stoker.rpc.wire import MAX_FRAME_BYTES, parse_strict


def put_in(source: str, flow: dict[str, Any]) -> Iterator[str]:
    """Put the items of each file into the flow; yields a mistake for each file that has no list."""
    steps = flow.get("steps")
    for name, step in steps.items() if isinstance(steps, dict) else ():
        each = step.get("each") if isinstance(step, dict) else None
        if isinstance(each, dict) and list(each) == ["file"] and isinstance(each["file"], str):
            try:
                step["each"] = _items(os.path.join(os.path.dirname(source), each["file"]))
            except OSError as error:
                yield f"steps.{name}.each.file: cannot read {each['file']!r}: {error.strerror}"
            except UnicodeDecodeError:
                yield f"steps.{name}.each.file: {each['file']!r} is not UTF-8"
            except ParseError as error:
                yield f"steps.{name}.each.file: {each['file']!r}: {error.message}"


def _items(path: str) -> list[Any]:
    """The list in a file: a list of JSON, or its lines. Braces in it are no templates."""
    with open(path, "rb") as file:
        raw = file.read(MAX_FRAME_BYTES + 1)
    if len(raw) > MAX_FRAME_BYTES:
        raise ParseError(f"larger than {MAX_FRAME_BYTES} bytes, so split the list")
    text = raw.decode().replace("{{", "{{{{")
    if text.lstrip()[:1] == "[":
        items: list[Any] = parse_strict(text.encode())
        return items
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
