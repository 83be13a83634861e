"""The bytes of a log as lines of markup. Pure.

Owns what a log may do to a page: colour its text, by a class of a small palette, and rewrite its line with carriage
returns, of which the newest state is shown. All other control characters become text, as on a terminal
(kit/terminal_text.py). Bytes that are not UTF-8 are spelled out.

Invariants: what the log printed is escaped, so no markup is its own; a line has at most MOST_LINE_BYTES, a longer one
is cut into several; a line and the style in which it begins do not depend on anything before it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from markupsafe import Markup, escape

from stoker.cli.kit import render
from stoker.cli.pages.log_style import PLAIN, Style, restyled

MOST_LINES: Final = 1000
MOST_LINE_BYTES: Final = 2048
LONGEST_SEQUENCE: Final = 42  # bytes of a colour that a cut keeps whole

_PASSED = re.compile(r"\x1b\[([0-9;:]*)([mK])")
_COLOUR = re.compile(rb"\x1b\[([0-9;:]*)m")
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-9;:]*)?")


class ShownLine(NamedTuple):
    """A line that begins at `offset`. `remark`: it is about the log, not of it; `cut`: it goes on in the next."""

    offset: int
    raw: bytes
    style: Style = PLAIN
    remark: bool = False
    cut: bool = False

    @property
    def markup(self) -> Markup:
        kind = "remark" if self.remark else "line cut" if self.cut else "line"
        return Markup('<div class="{}">{}</div>').format(kind, coloured(self.raw, self.style))

    @property
    def open_markup(self) -> Markup:
        """Of a line that is not complete yet."""
        return Markup('<div class="line open">{}</div>').format(coloured(self.raw, self.style))


def coloured(raw: bytes, style: Style = PLAIN) -> Markup:
    """A line, or its newest state if it was rewritten."""
    text = raw.decode("utf-8", "backslashreplace").rstrip("\r")
    at, begin = 0, text.rfind("\r") + 1
    pieces: list[tuple[Style, str]] = []
    for sequence in _PASSED.finditer(text):
        pieces.append((style, text[max(at, begin) : sequence.start()]))
        at = sequence.end()
        if sequence[2] == "m":
            style = restyled(style, sequence[1])
    pieces.append((style, text[max(at, begin) :]))
    return Markup("").join(_span(style, piece) for style, piece in _joined(pieces))


def _joined(pieces: list[tuple[Style, str]]) -> list[tuple[Style, str]]:
    """Neighbours of the same style as one, without the empty ones."""
    joined: list[tuple[Style, str]] = []
    for style, text in pieces:
        if text and joined and joined[-1][0] == style:
            joined[-1] = (style, joined[-1][1] + text)
        elif text:
            joined.append((style, text))
    return joined


def _span(style: Style, text: str) -> Markup:
    shown = escape(render.visible(text, keep="\t"))
    return Markup('<span class="{}">{}</span>').format(style.classes, shown) if style.classes else shown


def plain(raw: bytes) -> str:
    """The same text without colours and markup."""
    text = raw.decode("utf-8", "backslashreplace").rstrip("\r")
    return render.visible(_PASSED.sub("", text[text.rfind("\r") + 1 :]), keep="\t")


class LogLines:
    """Cuts the pieces of one log into lines. The open line begins at `offset`, in `style`: a reader can go on there."""

    def __init__(self, offset: int, style: Style = PLAIN) -> None:
        self.offset = offset
        self.style = style
        self._open = b""

    @property
    def open(self) -> ShownLine:
        return ShownLine(self.offset, self._open, self.style)

    @property
    def end_offset(self) -> int:
        """The offset of the byte that comes next."""
        return self.offset + len(self._open)

    def feed(self, data: bytes) -> list[ShownLine]:
        """The lines that `data` completes: the last ones, if there are very many."""
        *complete, rest = (self._open + data).split(b"\n")
        lines: list[ShownLine] = []
        if len(complete) > MOST_LINES:
            left_out, complete = complete[:-MOST_LINES], complete[-MOST_LINES:]
            lines.append(self.remark(f"{len(left_out)} lines are left out here: the download has them"))
            self._pass(b"\n".join(left_out) + b"\n")
        for raw in complete:
            last = self._shortened(raw, lines)
            lines.append(ShownLine(self.offset, last, self.style))
            self._pass(last + b"\n")
        self._open = self._shortened(rest, lines)
        return lines

    def end(self) -> list[ShownLine]:
        """The open line, if there is one: nothing that follows belongs to it."""
        lines = [self.open] if self._open else []
        self._pass(self._open)
        self._open = b""
        return lines

    def hole(self, count: int) -> list[ShownLine]:
        """Bytes that were dropped to bound the log."""
        lines = [*self.end(), self.remark(f"{render.size(count)} of this log were dropped here")]
        self.offset += count
        return lines

    def remark(self, text: str) -> ShownLine:
        return ShownLine(self.offset, f"[{text}]".encode(), remark=True)

    def _shortened(self, raw: bytes, lines: list[ShownLine]) -> bytes:
        """The rest of a line: without its earlier states, and cut into `lines` if it is long."""
        erased = raw.rstrip(b"\r").rfind(b"\r") + 1
        self._pass(raw[:erased])
        raw = raw[erased:]
        while len(raw) > MOST_LINE_BYTES:
            end = _cut_at(raw)
            lines.append(ShownLine(self.offset, raw[:end], self.style, cut=True))
            self._pass(raw[:end])
            raw = raw[end:]
        return raw

    def _pass(self, raw: bytes) -> None:
        self.offset += len(raw)
        if b"\x1b" in raw:
            for codes in _COLOUR.findall(raw):
                self.style = restyled(self.style, codes.decode())


def _cut_at(raw: bytes) -> int:
    """Where to cut a long line: in no character and no colour."""
    end = MOST_LINE_BYTES
    begin = raw.rfind(b"\x1b", end - LONGEST_SEQUENCE, end)
    if begin > 0 and _UNFINISHED.fullmatch(raw, begin, end):
        return begin
    return next((at for at in range(end, end - 4, -1) if raw[at] & 0xC0 != 0x80), end)  # noqa: PLR2004 - of UTF-8
