"""A log on a small terminal: progress bars rewrite their line, colours pass, the rest is text."""

from __future__ import annotations

import random
import re

import pytest

from stoker.cli.kit.render import visible
from stoker.cli.kit.terminal_text import TerminalText, cells

COLUMNS = 20
SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


class Screen:
    """As much of a terminal as the output may use: printing, wrapping, CR, LF, up, erase to the end, colours."""

    def __init__(self) -> None:
        self.rows = [""]
        self.row = self.column = 0

    def print(self, text: str) -> None:
        at = 0
        while at < len(text):
            sequence = SEQUENCE.match(text, at)
            if sequence:
                at = sequence.end()
                self._obey(sequence[1], sequence[2])
            else:
                self._char(text[at])
                at += 1

    def _obey(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row -= int(number)
        elif letter == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        else:
            assert letter == "m", f"nothing else may reach a terminal: {letter}"

    def _char(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self._down()
        else:
            assert char.isprintable(), f"{char!r} would steer a terminal"
            if self.column == COLUMNS:
                self._down()
            self.rows[self.row] = f"{self.rows[self.row][: self.column]:{self.column}}{char}"
            self.column += 1

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        self.rows += [""] * (self.row + 1 - len(self.rows))


def shown(*pieces: str, live: bool = True, coloured: bool = True) -> list[str]:
    """The rows of the screen once the log is over."""
    screen, text = Screen(), TerminalText(lambda: COLUMNS, visible, live=live, coloured=coloured)
    for piece in pieces:
        screen.print(text.feed(piece))
    screen.print(text.finish())
    return screen.rows


@pytest.mark.parametrize(
    ("pieces", "rows"),
    [
        (["a\nb"], ["a", "b"]),
        (["10%", "\r20%", "\r100%\n", "done\n"], ["100%", "done", ""]),
        (["10%\r", "20%\r", "100%\r", "\n"], ["100%", ""]),
        (["first\n10%\r20%\rlonger 30%\r4%"], ["first", "4%"]),
        (["10%\r\x1b[K", "\x1b[2K20%"], ["20%"]),
        (["dos\r", "\nlines\r\r\n"], ["dos", "lines", ""]),
        (["#" * 50, "\r" + "=" * 50, "\rok"], ["ok"]),
        (["above\n" + "#" * 50, "\r" + "=" * 45 + "\n"], ["above", "=" * 20, "=" * 20, "=" * 5, ""]),
        (["x\x1b", "[3", "2mgreen"], ["xgreen"]),
        (["\x1b[2J\x1b]0;t\x07\x1b[5A\x9b1m\x1bc\b"], ["^[[2J^[]0;t^G^[[5A\\x", "9b1m^[c^H"]),
        (["end\x1b["], ["end^[["]),
    ],
)
def test_text_when_a_log_is_shown_then_the_screen_has_the_last_state_of_each_line(
    pieces: list[str], rows: list[str]
) -> None:
    assert shown(*pieces) == rows


def test_text_when_a_bar_is_wider_than_the_screen_then_it_stays_on_one_row() -> None:
    screen, text = Screen(), TerminalText(lambda: COLUMNS, visible, live=True, coloured=True)

    for number in range(5):
        screen.print(text.feed("\r" + str(number) * 90))

    assert screen.rows == ["4" * 19]


def test_text_when_the_terminal_cannot_erase_then_only_the_last_state_is_printed() -> None:
    text = TerminalText(lambda: COLUMNS, visible, live=False, coloured=False)

    assert text.feed("\r10%") + text.feed("\r20%") + text.feed("\r30%\n") == "30%\n"


def test_text_when_it_is_coloured_then_colours_pass_and_are_reset_at_the_end() -> None:
    text = TerminalText(lambda: COLUMNS, visible, live=True, coloured=True)
    plain = TerminalText(lambda: COLUMNS, visible, live=True, coloured=False)

    assert text.feed("\x1b[1;31mred") + text.finish() == "\x1b[1;31mred\x1b[0m"
    assert plain.feed("\x1b[1;31mred") + plain.finish() == "red"
    assert not text.spelled_out


def test_text_when_a_line_is_endless_then_memory_of_it_is_bounded() -> None:
    text = TerminalText(lambda: COLUMNS, visible, live=True, coloured=True)

    out = [text.feed("\r" + "x" * 100_000), *(text.feed("y" * 100_000) for _ in range(5))]

    assert sum(piece.count("y") for piece in out) == 500_000
    assert len(text._line) < 10_000


def test_text_when_it_comes_in_any_pieces_then_the_screen_is_the_same() -> None:
    dice = random.Random(7)
    for _ in range(300):
        log = "".join(
            dice.choice(["a", "bc" * 15, "\r", "\n", "\x1b[31m", "\x1b[K", "\x1b[2J", "漢"]) for _ in range(30)
        )
        cuts = sorted(dice.sample(range(len(log)), 5))
        pieces = [log[start:end] for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True)]
        whole, parts = shown(log.replace("漢", "h")), shown(*(piece.replace("漢", "h") for piece in pieces))
        assert parts == whole, repr(pieces)


def test_cells_when_characters_are_wide_or_invisible_then_columns_are_counted() -> None:
    assert cells("漢字e\u0301\x1b[31m") == 5
    assert cells("\t") == 8


@pytest.mark.timeout(60)
def test_text_when_it_has_a_million_carriage_returns_in_a_row_then_it_is_read_once() -> None:
    text = TerminalText(lambda: COLUMNS, visible, live=True, coloured=True)

    assert text.feed("a" + "\r" * 1_000_000 + "b").endswith("b")
