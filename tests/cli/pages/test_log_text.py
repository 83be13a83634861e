"""The bytes of a log as markup: never more than colours, never another text than on a terminal."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.kit import render
from stoker.cli.kit.terminal_text import TerminalText
from stoker.cli.pages.log_style import BRIGHT, HUES, MARKS, ON, PLAIN, Style, restyled
from stoker.cli.pages.log_text import MOST_LINE_BYTES, MOST_LINES, LogLines, ShownLine, coloured, plain

MIB = 1024 * 1024
OURS = re.compile(r'<div class="(line|line cut|remark)">|</div>|<span class="([a-z -]+)">|</span>')
CLASSES = {*HUES, *BRIGHT, *(ON + name for name in (*HUES, *BRIGHT)), *MARKS.values()}
# Pieces of escapes and of markup in any order find more faults than random bytes.
PIECES = [
    b"\x1b", b"[", b"31", b";", b":", b"38;5;", b"48;2;1;200;3", b"m", b"K", b"\r", b"\n", b"\t", b"\0", b"\x7f",
    b"<script>", b"</div>", b"&lt;", b'"', b"\xff", b"\xe2\x82", b"\xac", b"\xe2\x80\xae", b"\x9b", b"text", b" ",
]  # fmt: skip
WORDS = ["a", "é", "漢", "<b>", "&amp;", "\t", "\r", "\n", "\r\n", "\0", "\x07", "\u200f"]
logs = st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=60)
texts = st.lists(st.sampled_from(WORDS), max_size=60)


def lines_of(*pieces: bytes) -> list[ShownLine]:
    log = LogLines(0)
    return [line for piece in pieces for line in log.feed(piece)] + log.end()


def text_of(line: ShownLine) -> str:
    return unescape(OURS.sub("", str(line.markup)))


@given(logs)
def test_markup_when_a_log_has_any_bytes_then_only_ours_is_in_it(pieces: list[bytes]) -> None:
    for line in lines_of(*pieces):
        shown = str(line.markup)
        for tag in OURS.finditer(shown):
            assert set((tag[2] or "").split()) <= CLASSES
        rest = OURS.sub("", shown)
        assert "<" not in rest
        assert ">" not in rest
        assert render.visible(unescape(rest), keep="\t") == unescape(rest)


@given(logs)
def test_lines_when_they_come_in_other_pieces_then_they_are_the_same(pieces: list[bytes]) -> None:
    at_once, one_by_one = lines_of(b"".join(pieces)), lines_of(*(bytes([byte]) for byte in b"".join(pieces)))

    assert [line.markup for line in one_by_one] == [line.markup for line in at_once]


@given(logs, st.integers(0, 60))
def test_lines_when_reading_goes_on_at_the_open_line_then_nothing_changes(pieces: list[bytes], stop: int) -> None:
    log, whole = LogLines(0), b"".join(pieces)
    before = log.feed(b"".join(pieces[:stop]))
    again = LogLines(log.offset, Style.named(log.style.names))

    after = again.feed(whole[log.offset :]) + again.end()

    assert [line.markup for line in (*before, *after)] == [line.markup for line in lines_of(whole)]


@given(texts)
def test_text_when_a_log_is_plain_then_it_is_that_of_a_terminal(pieces: list[str]) -> None:
    text = "".join(pieces) + "\n"
    terminal = TerminalText(lambda: 1 << 16, render.visible, live=False, coloured=False)
    printed = (terminal.feed(text) + terminal.finish()).split("\n")

    shown = [text_of(line) for line in lines_of(text.encode())]

    assert shown == [line.rpartition("\r")[2] for line in printed[:-1]]
    assert shown == [plain(line.raw) for line in lines_of(text.encode())]


@pytest.mark.parametrize(
    ("codes", "names"),
    [
        ("31", ["red"]),
        ("1;4;31;42", ["red", "on-green", "bold", "underline"]),
        ("91;100", ["red", "on-grey"]),
        ("38;5;208", ["yellow"]),
        ("38;5;244;1", ["grey", "bold"]),
        ("38;2;250;10;10", ["red"]),
        ("48:2::10:10:250", ["on-blue"]),
        ("38:5:2", ["green"]),
        ("4:3", ["underline"]),
        ("", []),
        ("38", []),
        ("38;5", ["black"]),
        ("38;9;31", ["red"]),
        ("38;2;1", ["black"]),
        ("48;5;999999999999", []),
        ("99999", []),
        ("31;0;1", ["bold"]),
    ],
)
def test_style_when_a_sequence_names_colours_then_it_has_classes_for_them(codes: str, names: list[str]) -> None:
    assert restyled(PLAIN, codes).names == names


def test_style_when_a_sequence_takes_back_then_the_rest_stays() -> None:
    style = restyled(PLAIN, "1;2;3;4;7;9;31;42")

    assert restyled(style, "22;24").names == ["red", "on-green", "inverse", "italic", "strike"]
    assert restyled(style, "39;49;23;27;29;22").names == ["underline"]


def test_colours_when_a_line_is_rewritten_then_those_of_its_earlier_states_count() -> None:
    assert coloured(b"\x1b[32m10 %\r20 %\x1b[0m!") == '<span class="green">20 %</span>!'


def test_progress_when_a_line_is_rewritten_without_end_then_its_newest_state_is_kept() -> None:
    log = LogLines(0)

    for percent in range(100_000):
        assert log.feed(b"\r%d of many" % percent) == []

    assert log.open.markup == '<div class="line">99999 of many</div>'


def test_hole_when_bytes_were_dropped_then_a_remark_stands_there_and_offsets_go_on() -> None:
    log = LogLines(0)
    log.feed(b"begin")

    shown = [text_of(line) for line in log.hole(3 * MIB)]

    assert shown == ["begin", "[3.0M of this log were dropped here]"]
    assert log.offset == 5 + 3 * MIB


@pytest.mark.parametrize("piece", [b"\x1b[31m", b"\n", b"x", b"\xe2\x82\xac", b"\x1b[2J", b"\r", b"\0"])
def test_log_when_it_is_long_and_of_one_kind_then_what_is_kept_is_bounded(piece: bytes) -> None:
    log, chunk = LogLines(0), piece * (256 * 1024 // len(piece))

    for _ in range(16 * MIB // len(chunk)):
        lines = log.feed(chunk)
        assert len(lines) <= MOST_LINES + len(chunk) // MOST_LINE_BYTES + 2
        assert all(len(line.raw) <= MOST_LINE_BYTES for line in (*lines, log.open))

    assert log.offset + len(log.open.raw) == 16 * MIB // len(chunk) * len(chunk)


def test_cut_when_a_long_line_has_characters_and_colours_then_it_splits_none() -> None:
    text = "".join(f"\x1b[{31 + number % 6}m€{number}" for number in range(5_000))

    lines = lines_of(text.encode())

    assert len(lines) > 1
    assert all(line.cut for line in lines[:-1])
    assert "".join(text_of(line) for line in lines) == re.sub(r"\x1b\[\d+m", "", text)
