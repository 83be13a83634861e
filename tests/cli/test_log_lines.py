"""Log text for the screen: what it may do, and that it stays bounded, whatever a job prints."""

from __future__ import annotations

import re

import pytest

from stoker.cli.screen import log_lines
from stoker.cli.screen.log_lines import LoadedLines

COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


def lines_of(*pieces: bytes) -> list[str]:
    lines = LoadedLines()
    for piece in pieces:
        lines.feed(piece)
    return [lines[index] for index in range(len(lines))]


def test_lines_when_colours_reach_over_an_end_then_the_next_line_has_them() -> None:
    assert lines_of(b"\x1b[31mred\nstill\x1b[0m\nplain") == ["\x1b[31mred", "\x1b[31mstill\x1b[0m", "plain"]


def test_a_progress_line_when_it_is_rewritten_then_only_its_newest_state_is_kept() -> None:
    assert lines_of(b"10%\r", b"20%\r3", b"0%") == ["30%"]
    assert lines_of(b"10%\r20%\r", b"done\nnext\n") == ["done", "next"]


@pytest.mark.parametrize(
    "evil",
    [
        b"\x1b[2J\x1b[H", b"\x1b]0;title\x07", b"\x1bP+q544e\x1b\\", b"\xc2\x9b31m", b"\x9b2J", b"\x1b[", b"\x1b",
        b"\x1b[" + b"9" * 5_000 + b"m", "\u202e\u2066".encode(), b"\x00\x07\x08\x0b\x0c\x7f",
    ],
)  # fmt: skip
def test_a_log_when_it_holds_control_characters_then_only_colours_and_tabs_are_left(evil: bytes) -> None:
    for log in (evil, evil + b"\n", b"a" + evil + b"b\n", evil * 3_000):
        for line in lines_of(log, b"end\n"):
            rest = COLOURS.sub("", line)
            assert [char for char in rest if not char.isprintable() and char != "\t"] == []
            assert max(map(len, COLOURS.findall(line)), default=0) <= log_lines.LONGEST_COLOUR


def test_a_sequence_when_a_long_line_is_cut_through_it_then_no_other_one_comes_of_it() -> None:
    for length in range(log_lines.LONGEST_LINE - 12, log_lines.LONGEST_LINE + 2):
        (line,) = lines_of(b"x" * length + b"\x1b[31m" + b"J2K" * 5)
        assert "\x1b" not in COLOURS.sub("", line)


def test_a_log_when_it_is_a_mebibyte_of_escapes_then_what_is_kept_is_bounded() -> None:
    lines = LoadedLines()
    for _ in range(16):
        lines.feed(b"\x1b[31;1m\x1b[2J\x07" * 4_681)
    assert len(lines) == 1
    assert len(lines[0]) <= 5 * log_lines.LONGEST_LINE


def test_a_log_when_it_has_too_many_lines_then_the_first_ones_go_and_are_counted() -> None:
    lines = LoadedLines()
    lines.feed(b"".join(b"%d\n" % number for number in range(log_lines.MOST_LINES + 5)))
    assert (len(lines), lines.dropped, lines[0]) == (log_lines.MOST_LINES, 5, "5")


def test_a_hole_when_bytes_were_dropped_then_a_line_of_its_own_names_their_number() -> None:
    lines = LoadedLines()
    lines.feed(b"head")
    lines.hole("1.0M")
    lines.feed(b"tail\n")
    assert [lines[index] for index in range(len(lines))] == [
        "head",
        "[stoker: 1.0M of this log were dropped here]",
        "tail",
    ]
