"""The format of `$STOKER_OUTPUT`, by which a step passes values to the steps that need it.

A file has entries in any order: a line `key=value`; a block, which begins with a line `key<<END` and ends with a line
`END` (as in the files of GitHub's runner); a JSON object, which may take several lines. A later entry of a key
replaces an earlier one. A line ends at \\n or \\r\\n and nowhere else: other breaks are part of the data. A file that
cannot be read completely is refused. Standard library only: jobs import this module.
"""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 64 * 1024
_BLANK = " \t\r"


class OutputRefused(ValueError):
    """The message says what is wrong, and in which line."""


def read(written: bytes) -> dict[str, str]:
    """Every key with its value; a JSON value other than a string stays JSON text. Raises OutputRefused."""
    if len(written) > MAX_BYTES:
        raise OutputRefused(too_large(len(written)))
    try:
        text = written.decode()
    except UnicodeDecodeError as error:
        raise OutputRefused(f"not UTF-8: {error.reason} at byte {error.start}") from None
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        try:
            entry, end = _entry(text, at)
        except RecursionError:
            raise OutputRefused(f"line {_number(text, at)}: nested too deeply") from None
        except ValueError as error:
            raise OutputRefused(f"line {_number(text, at)}: {error}") from None
        values |= entry
        at = end
    return values


def entry(values: dict[str, Any]) -> bytes:
    """A line that adds `values`, any JSON values, to a file. Raises OutputRefused."""
    for key, value in values.items():
        if not key:
            raise OutputRefused("a key is empty")
        try:
            _text(key + json.dumps(value, allow_nan=False, ensure_ascii=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise OutputRefused(f"{key!r}: {error}") from None
    line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
    if len(line) > MAX_BYTES:
        raise OutputRefused(too_large(len(line)))
    return line


def too_large(size: int) -> str:
    return f"{size} bytes; the limit is {MAX_BYTES}: hand on the path of a file"


def add(before: bytes, line: bytes) -> bytes:
    """The text with one more entry; if it gets too long, replaced entries are left out. Raises OutputRefused."""
    after = before + (b"\n" if before and not before.endswith(b"\n") else b"") + line
    return after if len(after) <= MAX_BYTES else entry({**read(before), **read(line)})


def _entry(text: str, at: int) -> tuple[dict[str, str], int]:
    """The values of the entry at the beginning of a line, and where the next line begins."""
    line, end = _line(text, at)
    begin = at + len(line) - len(line.lstrip(_BLANK))
    if text.startswith("{", begin):
        return _object(text, begin)
    if not line.strip(_BLANK):
        return {}, end
    equals, block = line.find("="), line.find("<<")
    if block >= 0 and not 0 <= equals < block:
        return _block(text, end, line[:block].strip(_BLANK), line[block + 2 :])
    key = line[:equals].strip(_BLANK)
    if equals < 0 or not key:
        raise ValueError(f"not key=value: {line[:80]!r}")
    return {key: line[equals + 1 :]}, end


def _block(text: str, begin: int, key: str, last: str) -> tuple[dict[str, str], int]:
    if not key or not last:
        raise ValueError("a block begins with key<<END, and neither may be empty")
    at = begin
    while at < len(text):
        line, end = _line(text, at)
        if line == last:
            value = text[begin:at]
            return {key: value.removesuffix("\n").removesuffix("\r") if value else value}, end
        at = end
    raise ValueError(f"the block of {key!r} has no line {last!r} that ends it")


def _object(text: str, at: int) -> tuple[dict[str, str], int]:
    _, end = _json(text, at)  # it is valid JSON, so the loop below cannot run past its end
    rest, following = _line(text, end)
    if rest.strip(_BLANK):
        raise ValueError(f"behind the JSON object: {rest[:80]!r}")
    values: dict[str, str] = {}
    at = _solid(text, at + 1)
    while text[at] != "}":
        key, at = _json(text, at)
        at = _solid(text, _solid(text, at) + len(":"))
        value, stop = _json(text, at)
        values[_text(key)] = _text(value) if text[at] == '"' else text[at:stop]
        at = _solid(text, stop)
        if text[at] == ",":
            at = _solid(text, at + 1)
    if "" in values:
        raise ValueError("a key is empty")
    return values, following


def _json(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and its end."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON object: {error.msg}") from None


def _text(value: str) -> str:
    """`value`, unless it has half of a surrogate pair: JSON can write it (\\ud800), but it is not valid text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"not text, half of a pair of surrogates: {value[:80]!r}") from None
    return value


def _refused_constant(name: str) -> None:
    raise ValueError(f"not a JSON object: {name}")


# Numbers are kept as they were written: a version 1.10 is not 1.1.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refused_constant)


def _solid(text: str, at: int) -> int:
    """The next position that is not white space of JSON."""
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at


def _line(text: str, at: int) -> tuple[str, int]:
    """The line without its end, and where the next one begins."""
    end = text.find("\n", at)
    if end < 0:
        return text[at:], len(text)
    return text[at:end].removesuffix("\r"), end + 1


def _number(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
