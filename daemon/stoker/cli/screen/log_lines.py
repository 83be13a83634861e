"""The text of a log as lines for the screen, of which the last ones are kept. Pure.

Owns what a log may do to the screen: colours, and a line that is rewritten shows its newest state (terminal_text.py);
every other control character is spelled out. Bounded in lines and in the length of a line, whatever a job prints.
"""

from __future__ import annotations

import codecs
import re
from collections import deque

from stoker.cli.kit.render import visible
from stoker.cli.kit.terminal_text import TerminalText

MOST_LINES = 20_000
LONGEST_LINE = 4_096  # characters
WIDEST = 1 << 16  # a line is cut where it is shown, not where it is rewritten
LONGEST_COLOUR = 40  # characters of a sequence: longer ones are no colour, and rich would read their numbers
_REDRAWN = "\r\x1b[J"  # what TerminalText prints before a newer state of the same line
_COLOUR = re.compile(r"\x1b\[([0-9;:]*)m")
RESET = "\x1b[0m"


class LoadedLines:
    """Lines with their colours; each begins with those that the line before left in force."""

    def __init__(self) -> None:
        self._text = TerminalText(lambda: WIDEST, visible, live=True, coloured=True)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._complete: deque[str] = deque(maxlen=MOST_LINES)
        self._current = ""
        self._colour = ""
        self.dropped = 0

    def feed(self, data: bytes) -> None:
        *ended, rest = self._text.feed(self._decoder.decode(data)).split("\n")
        for line in ended:
            self._extend(line)
            self._end_line()
        self._extend(rest)

    def hole(self, size: str) -> None:
        """Bytes of the log are missing here."""
        self._end_line()
        self._extend(f"[stoker: {size} of this log were dropped here]")
        self._end_line()

    def __len__(self) -> int:
        return len(self._complete) + bool(self._current)

    def __getitem__(self, index: int) -> str:
        """A line in which the only control characters are those of its colours, and tabs."""
        line = self._complete[index] if index < len(self._complete) else self._current
        return _only_colours(line[:LONGEST_LINE] + ("…" if len(line) > LONGEST_LINE else ""))

    def plain(self, index: int) -> str:
        return _COLOUR.sub("", self[index])

    def _extend(self, text: str) -> None:
        if _REDRAWN in text:
            text, self._current = text.rpartition(_REDRAWN)[2], ""
        room = LONGEST_LINE + 1 - len(self._current)
        self._current += _COLOUR.sub(_harmless, text[: 2 * room] if room > 0 else "")

    def _end_line(self) -> None:
        line = self._colour + self._current
        self.dropped += len(self._complete) == MOST_LINES
        self._complete.append(line)
        self._colour, self._current = _left_in_force(line), ""


def _only_colours(line: str) -> str:
    """The line, in which a sequence that was cut through is spelled out."""
    pieces, start = [], 0
    for colour in _COLOUR.finditer(line):
        pieces += [visible(line[start : colour.start()], keep="\t"), colour[0]]
        start = colour.end()
    return "".join([*pieces, visible(line[start:], keep="\t")])


def _harmless(colour: re.Match[str]) -> str:
    return colour[0] if len(colour[0]) <= LONGEST_COLOUR else ""


def _left_in_force(line: str) -> str:
    """The colours that the next line begins with: the sequences since the last reset."""
    colours = [colour[0] for colour in _COLOUR.finditer(line)]
    resets = [index for index, colour in enumerate(colours) if colour in ("\x1b[m", RESET)]
    left = "".join(colours[resets[-1] + 1 if resets else 0 :])
    return left if len(left) <= 2 * LONGEST_COLOUR else ""
