"""The effects that a log may have on a terminal: colours, and a rewritten line, as of a progress bar. Pure.

Owns carriage returns and two escape sequences: colours (SGR) pass, and "erase in line" is dropped, as a rewrite erases
anyway. All other control characters become text (`^[`).

Invariant: lines before the current one never change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from unicodedata import combining, east_asian_width

_PASSED = re.compile(r"\x1b\[([0-9;:]*)([mK])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;:]{0,40})?\Z")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_LINE_END = re.compile(r"(?<!\r)\r++\n")  # tried once for each run of carriage returns, however long that is
MOST_REMEMBERED = 8_192  # characters of a line: a longer line is not a progress bar
TAB = 8


class TerminalText:
    """Turns decoded pieces of a log into the text to print. `columns` is called each time, as windows are resized.

    `spell` makes control characters visible, except those in its argument `keep`.

    A line that is rewritten shows its newest state, cut to the width until the line is complete. If the terminal cannot
    erase (`live` is false), only the last state is printed.
    """

    def __init__(self, columns: Callable[[], int], spell: Callable[..., str], *, live: bool, coloured: bool) -> None:
        self._columns = columns
        self._spell = spell
        self._live = live
        self._coloured = coloured
        self._held = ""  # the start of an unfinished escape sequence
        self._line = ""  # the newest state of the current line
        self._shown = ""  # the part of it that is on the terminal
        self._returned = False  # a carriage return came last: the next piece decides its meaning
        self._rewritten = False
        self._tinted = False
        self.spelled_out = False

    def feed(self, text: str) -> str:
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        self._held = unfinished[0] if unfinished else ""
        text = ("\r" if self._returned else "") + self._harmless(text.removesuffix(self._held))
        body = text.rstrip("\r")
        self._returned = len(body) < len(text)
        *complete, current = _LINE_END.sub("\n", body).split("\n")
        out = [self._part(line, ended=True) for line in complete]
        return "".join([*out, self._part(current, ended=False)])

    def finish(self) -> str:
        """The text to print at the end of the log: the rest, and a reset of the colours."""
        held, self._held = self._held, ""
        text = self._spell(held)
        self.spelled_out |= bool(text)
        if self._rewritten and self._shown != self._line:
            text = self._redrawn(self._line) + text
        return text + ("\x1b[0m" if self._tinted else "")

    def _harmless(self, text: str) -> str:
        if text.isascii() and text.isprintable():
            return text
        pieces, start = [], 0
        for sequence in _PASSED.finditer(text):
            pieces += [self._spelled(text[start : sequence.start()]), self._colour(sequence)]
            start = sequence.end()
        return "".join([*pieces, self._spelled(text[start:])])

    def _spelled(self, text: str) -> str:
        shown = self._spell(text, keep="\n\r\t")
        self.spelled_out |= shown != text
        return shown

    def _colour(self, sequence: re.Match[str]) -> str:
        if sequence[2] == "K" or not self._coloured:
            return ""
        self._tinted = sequence[1] not in ("", "0")
        return sequence[0]

    def _part(self, text: str, *, ended: bool) -> str:
        """Print a piece of the current line; `ended`: it completes the line."""
        _, returned, newest = text.rpartition("\r")
        self._rewritten |= bool(returned)
        self._line = newest if returned else self._line + text
        out = text
        if self._rewritten:
            whole = ended or len(self._line) > MOST_REMEMBERED
            out = self._redrawn(self._line if whole else self._cut()) if whole or self._live else ""
            self._rewritten = not whole
        self._line = self._line[-MOST_REMEMBERED:]
        if not self._rewritten:
            self._shown = self._line
        if ended:
            self._line = self._shown = ""
            return out + "\n"
        return out

    def _redrawn(self, text: str) -> str:
        """The output that replaces the shown state of the line, which may take several rows, by `text`."""
        shown, self._shown = self._shown, text
        if text.startswith(shown):
            return text[len(shown) :]
        if not self._live:
            return f"\r{text}"
        rows = max(0, cells(shown) - 1) // max(1, self._columns())
        up = f"\x1b[{rows}A" if rows else ""
        return f"\r{up}\x1b[J{text}"

    def _cut(self) -> str:
        """The part of the newest state that fits a row, with all its colours, which take no room."""
        room, out, start = self._columns() - 1, [], 0
        for sequence in [*_COLOUR.finditer(self._line), None]:
            end = len(self._line) if sequence is None else sequence.start()
            for char in self._line[start:end]:
                room -= _width(char)
                out += [char] if room >= 0 else []
            if sequence is not None:
                out.append(sequence[0])
                start = sequence.end()
        return "".join(out)


def cells(text: str) -> int:
    """The columns that `text` takes; a tab counts as its largest width."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(_width, _COLOUR.sub("", text)))


def _width(char: str) -> int:
    if char == "\t":
        return TAB
    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
