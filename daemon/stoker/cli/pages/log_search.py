"""A search in the bytes of a log, however they arrive. Pure.

Owns what matches: the text of a line, without its colours; ASCII letters match in both cases. Each match has the number
of its line and the lines around it. A line that is longer than MOST_HELD is searched in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from stoker.cli.kit import render
from stoker.cli.pages.log_text import plain

AROUND: Final = 2  # lines before and after a match
MOST_HELD: Final = 1024 * 1024
MOST_SHOWN: Final = 240  # bytes of a line before and after the text that was found

_SEQUENCE = re.compile(rb"\x1b\[[0-9;:]*[mK]")


class Match(NamedTuple):
    """The line with that number, which begins at `offset`: the found text, what stands before and after it in the
    line, and the lines around it.
    """

    number: int
    offset: int
    left: str
    found: str
    right: str
    before: list[str]
    after: list[str]


class LogSearch:
    """Takes the log piece by piece. It begins at `offset`, which is the start of line `number`."""

    def __init__(self, text: str, offset: int = 0, number: int = 1) -> None:
        self.offset = offset
        self.number = number
        self._wanted = text.encode().lower()
        self._before: list[bytes] = []
        self._held = b""

    def feed(self, data: bytes) -> Iterator[Match]:
        """The matches that are certain now. The last lines are held back, as they may belong around the next match."""
        self._held += data
        cut = len(self._held)
        for _ in range(AROUND + 1):
            cut = max(0, self._held.rfind(b"\n", 0, cut))
        if cut:
            yield from self._search(cut + 1)
        elif len(self._held) > MOST_HELD:
            yield from self._search(len(self._held) - len(self._wanted) + 1)

    def hole(self, count: int) -> Iterator[Match]:
        """Bytes that were dropped."""
        yield from self.finish()
        self.offset += count

    def finish(self) -> Iterator[Match]:
        yield from self._search(len(self._held))

    def _search(self, size: int) -> Iterator[Match]:
        block, self._held = self._held[:size], self._held[size:]
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        if self._wanted in _text(block):
            yield from self._matches(lines)
        self.offset += len(block)
        self.number += block.count(b"\n")
        self._before = [*self._before, *lines][-AROUND:]

    def _matches(self, lines: list[bytes]) -> Iterator[Match]:
        following = self._held.removesuffix(b"\n").split(b"\n") if self._held else []
        around = [*self._before, *lines, *following[:AROUND]]
        offset = self.offset
        for index, line in enumerate(lines):
            if self._wanted in _text(line):
                at = index + len(self._before)
                before, after = around[max(0, at - AROUND) : at], around[at + 1 : at + 1 + AROUND]
                yield self._match(line, (self.number + index, offset), before, after)
            offset += len(line) + 1

    def _match(self, line: bytes, place: tuple[int, int], before: list[bytes], after: list[bytes]) -> Match:
        text = _SEQUENCE.sub(b"", line)
        state = next((state for state in text.split(b"\r") if self._wanted in state.lower()), text)
        at = state.lower().find(self._wanted)
        end = at + len(self._wanted)
        shown = (state[max(0, at - MOST_SHOWN) : at], state[at:end], state[end : end + MOST_SHOWN])
        left, found, right = (render.visible(part.decode("utf-8", "replace"), keep="\t") for part in shown)
        return Match(*place, left, found, right, _shown(before), _shown(after))


def _text(data: bytes) -> bytes:
    return (_SEQUENCE.sub(b"", data) if b"\x1b" in data else data).lower()


def _shown(lines: list[bytes]) -> list[str]:
    return [plain(line[-2 * MOST_SHOWN :] if b"\r" in line else line[: 2 * MOST_SHOWN]) for line in lines]
