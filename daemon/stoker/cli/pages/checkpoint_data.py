"""The data of checkpoints on a page: as text or as bytes in hexadecimal, bounded, and what differs between two. Pure.

Owns the bounds: a checkpoint may have megabytes, and a page of it must stay small and quick. The download is whole.
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

from stoker.cli.kit import render
from stoker.cli.kit.checkpoint_text import differing_lines, readable

SHOWN_BYTES: Final = 64 * 1024
HEX_BYTES: Final = 4 * 1024
IN_A_LINE: Final = 16
MOST_LONGER: Final = 4  # times, by which indentation may make JSON longer
COMPARED_BYTES: Final = 256 * 1024
COMPARED_LINES: Final = 5_000
LINES: Final = 1_000
LONGEST_LINE: Final = 400
HEADER_LINES: Final = 2  # of a unified diff: the names


class ShownData(NamedTuple):
    """`form`: how the data is shown, in words. `cut`: there is more of it."""

    form: str
    text: str
    cut: bool


class DifferingLine(NamedTuple):
    """`kind`: `+`, `-`, `@` or a space."""

    kind: str
    text: str


def shown(data: bytes, size: int) -> ShownData:
    """`data`: the beginning of a checkpoint of `size` bytes."""
    text = _text(data[:SHOWN_BYTES])
    if text is None:
        return ShownData("bytes in hexadecimal", hex_dump(data[:HEX_BYTES]), size > HEX_BYTES)
    if size <= min(len(data), SHOWN_BYTES):
        text = readable(data, MOST_LONGER * SHOWN_BYTES)
    return ShownData("text", render.visible(text, keep="\n\t"), size > SHOWN_BYTES)


def _text(data: bytes) -> str | None:
    """The text of data that may end within a character; None for other data."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
    return None if min(text, default=" ") < "\t" else text


def hex_dump(data: bytes) -> str:
    """As `hexdump -C` shows it."""
    lines = []
    for offset in range(0, len(data), IN_A_LINE):
        piece = data[offset : offset + IN_A_LINE]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)  # noqa: PLR2004 - ASCII
        lines.append(f"{offset:08x}  {piece.hex(' ').ljust(3 * IN_A_LINE - 1)}  {letters}")
    return "\n".join(lines)


def differences(old: str, new: str) -> tuple[list[DifferingLine], bool]:
    """The lines that differ, and whether some were left out."""
    found = list(differing_lines(old, new, ("", "")))[HEADER_LINES:]
    lines = [DifferingLine(line[:1], _cut(line)) for line in found[:LINES]]
    return lines, len(found) > LINES or any(len(line) > LONGEST_LINE for line in found)


def _cut(line: str) -> str:
    return render.visible(render.cut(line, LONGEST_LINE), keep="\t")


def comparable(text: str) -> bool:
    """Whether a comparison of it takes no long time."""
    return text.count("\n") < COMPARED_LINES
