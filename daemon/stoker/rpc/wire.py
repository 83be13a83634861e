"""Frames on the wire: one JSON value per line, within limits and unambiguous.

Owns the limits of the wire, the split of bytes into frames (`Framer`), strict reading (`parse_strict`) and writing
(`encode`). It refuses values that Python's json accepts but the rest of the system cannot handle: NaN, integers beyond
64 bits, duplicate keys, NUL, lone surrogates, deep nesting. Standard library only, as the client imports it.

Invariants: for every accepted frame `parse_strict` returns the same as json.loads; the fragmentation of the bytes
never changes the frames.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from math import isfinite

from stoker.core.errors import ParseError

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_FRAME_BYTES = 1024 * 1024
MAX_STRING_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_INT = 2**63 - 1
MIN_INT = -(2**63)
MAX_SHOWN = 80  # characters of a key in an error's path


class Framer:
    """Splits a stream of bytes into frames. A frame that is too long sets `overflowed`; no frame follows it."""

    __slots__ = ("_partial", "overflowed")

    def __init__(self) -> None:
        self._partial = bytearray()
        self.overflowed = False

    @property
    def unfinished(self) -> int:
        """The bytes of a frame that has begun and not ended."""
        return len(self._partial)

    def drop(self) -> None:
        """Forget the frame that has not ended."""
        self._partial.clear()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, without their newlines. Blank lines are ignored."""
        if self.overflowed:
            return []
        *frames, rest = data.split(b"\n")
        if frames and self._partial:
            frames[0] = bytes(self._partial) + frames[0]
            self._partial.clear()
        self._partial += rest
        return self._within_limit(frames)

    def finish(self) -> list[bytes]:
        """The last frame of a stream that ended without a newline."""
        return self.feed(b"\n") if self._partial else []

    def _within_limit(self, frames: list[bytes]) -> list[bytes]:
        for index, frame in enumerate(frames):
            if len(frame) > MAX_FRAME_BYTES:
                return self._overflow(_not_blank(frames[:index]))
        complete = _not_blank(frames)
        return self._overflow(complete) if len(self._partial) > MAX_FRAME_BYTES else complete

    def _overflow(self, before: list[bytes]) -> list[bytes]:
        self.overflowed = True
        self._partial.clear()
        return before


def _not_blank(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if frame and not frame.isspace()]


def encode(value: object) -> bytes:
    """`value` as one frame, newline included. Raises ParseError with the path of the value that cannot be sent."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except ValueError:  # NaN, or a lone surrogate: Python makes them of arguments that are not UTF-8
        _inspect(value, None, 1)
        raise


def raw_text(text: str) -> Any:
    """`text` as a frame can hold it. Text that Python made of bytes that are not UTF-8 becomes `{"base64": "…"}`."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"base64": b2a_base64(text.encode("utf-8", "surrogateescape"), newline=False).decode()}
    return text


def parse_strict(raw: bytes) -> Any:
    """The value of one frame. Raises ParseError, with the path of the field if there is one."""
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise ParseError(f"not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}") from None
    except json.JSONDecodeError as error:
        raise ParseError(f"not JSON: {error.msg} at character {error.pos}", hint="one JSON value per line") from None
    except RecursionError:
        raise ParseError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # Python's own guard against integers of more than 4300 digits
        raise ParseError("an integer is beyond 64 bits") from None
    _inspect(value, None, 1)
    return value


class _Duplicate(dict):  # type: ignore[type-arg]
    """Stands for an object with a duplicate key, and holds that key alone: the hook that finds it knows no path."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _Duplicate(_first_duplicate(pairs))


def _first_duplicate(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = set()
    for key, value in pairs:
        if key in seen:
            return {key: value}
        seen.add(key)
    raise AssertionError("called for pairs with a duplicate key")


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _inspect(value: Any, where: Any, depth: int) -> None:
    """Raise ParseError for the first fault in `value`. `where` is its path, as a chain of (parent, key or index)."""
    if isinstance(value, str):
        if not (value.isascii() and len(value) <= MAX_STRING_BYTES and "\0" not in value):
            _inspect_text(value, where)
    elif isinstance(value, (dict, list, tuple)):
        _inspect_container(value, where, depth)
    elif isinstance(value, int):
        if not MIN_INT <= value <= MAX_INT:
            raise _refusal(where, f"the integer {value} is out of range", f"{MIN_INT} to {MAX_INT}")
    elif isinstance(value, float) and not isfinite(value):
        raise _refusal(where, f"{value} is not a number in JSON", "leave the field out, or send a finite number")


def _inspect_container(value: Any, where: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _refusal(where, f"nested deeper than {MAX_DEPTH} levels", None)
    if isinstance(value, _Duplicate):
        raise _refusal((where, next(iter(value))), "this key occurs twice in its object", "keep one of them")
    if isinstance(value, dict):
        for key, item in value.items():
            _inspect(key, (where, key), depth)
            _inspect(item, (where, key), depth + 1)
    else:
        for index, item in enumerate(value):
            _inspect(item, (where, index), depth + 1)


def _inspect_text(text: str, where: Any) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        char = ord(text[error.start])
        raise _refusal(where, f"lone surrogate U+{char:04X} at character {error.start}", "send UTF-8") from None
    if "\0" in text:
        raise _refusal(
            where, f"NUL at character {text.index(chr(0))}", "remove it: commands and file names cannot contain NUL"
        )
    if size > MAX_STRING_BYTES:
        raise _refusal(where, f"a string of {size} bytes; the limit is {MAX_STRING_BYTES}", "pass large data by a file")


def _refusal(where: Any, problem: str, hint: str | None) -> ParseError:
    path = "".join(reversed(list(_steps(where)))).removeprefix(".").removeprefix("params.")
    if not path:
        return ParseError(problem, hint=hint)
    return ParseError(f"{path}: {problem}", hint=hint, path=path)


def _steps(where: Any) -> Iterator[str]:
    while where is not None:
        where, step = where
        yield f"[{step}]" if isinstance(step, int) else f".{_shown(step)}"


def _shown(key: str) -> str:
    """A key that is safe to print on terminals and in logs."""
    safe = key if key.isprintable() else key.encode("unicode_escape").decode()
    return safe[:MAX_SHOWN]
