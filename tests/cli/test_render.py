"""Printing: widths, units, and that no name of a job can move the cursor."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stoker.cli.kit import render, table
from stoker.core.errors import CannotCreate, ConfigInvalid

if TYPE_CHECKING:
    from pathlib import Path


class Terminal(io.TextIOWrapper):
    """A stdout that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Takes the place of stdout; not a fixture, because pytest puts its own capture there after set-up."""
    stdout = Terminal(io.BytesIO(), encoding="utf-8", newline="\n")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße 漢字", "Grüße 漢字"),
        ("\x1b[2J\x07", "^[[2J^G"),
        ("a\nb\tc\x7f", "a^Jb^Ic^?"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_visible_when_text_could_steer_a_terminal_then_it_is_spelled_out(text: str, shown: str) -> None:
    assert render.visible(text) == shown


def test_visible_when_some_are_kept_then_only_these_pass() -> None:
    assert render.visible("a\tb\r\n\x1b", keep="\n\t") == "a\tb^M\n^["


def test_table_when_stdout_is_a_terminal_then_states_are_coloured_unless_no_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal(monkeypatch)
    coloured = table.lines(("STATE", "JOB"), [("failed", "failed")], 80)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = table.lines(("STATE", "JOB"), [("failed", "failed")], 80)[1]

    assert coloured == "\x1b[31mfailed\x1b[0m  failed"
    assert plain == "failed  failed"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(250, "0.25s"), (None, "-")],
)
def test_span_when_there_is_no_time_then_a_dash_stands_for_it(milliseconds: int | None, text: str) -> None:
    assert render.span(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (812, "812B"), (64 << 20, "64.0M"), (5 << 40, "5.0T"), (9 << 50, "9216.0T"), (None, "-")],
)
def test_size_when_it_grows_then_its_unit_does(count: int | None, text: str) -> None:
    assert render.size(count) == text


def test_log_text_when_stdout_is_a_pipe_then_bytes_pass_untouched(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    render.LogText(raw=False).write(b"\x1b[31m\xff\x00\r\n")

    assert capfdbinary.readouterr().out == b"\x1b[31m\xff\x00\r\n"


def test_log_text_when_stdout_is_a_terminal_then_escapes_are_harmless_across_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = terminal(monkeypatch)
    text = render.LogText(raw=False)

    for piece in (b"gr\xc3", b"\xbcn\x1b[2J\n", b"\xff\ttab\r\n"):
        text.write(piece)

    assert stdout.text() == "grün^[[2J\n\\xff\ttab\n"


def test_log_text_when_escapes_were_spelled_out_then_a_remark_names_raw(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stdout = terminal(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    with render.LogText(raw=False) as text:
        text.write(b"\x1b[31mred\x1b]0;title\x07\n")

    assert stdout.text() == "\x1b[31mred^[]0;title^G\n\x1b[0m"
    expected = "stoker: control characters in this log are shown as text; --raw passes them on\n"
    assert capfd.readouterr().err == expected


def test_log_text_when_raw_is_given_then_a_terminal_gets_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = terminal(monkeypatch)

    render.LogText(raw=True).write(b"\x1b[31mred")

    assert stdout.text() == "\x1b[31mred"


def test_log_text_when_a_pipe_meets_a_hole_then_the_marker_goes_to_stderr(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    text = render.LogText(raw=False)
    text.write(b"head\n")
    text.hole(3 << 20)
    text.write(b"tail\n")

    out, err = capfdbinary.readouterr()
    assert out == b"head\ntail\n"
    assert err.startswith(b"stoker: the output is incomplete: 3.0M of this log were dropped here")


def test_log_text_when_a_terminal_meets_a_hole_then_the_marker_stands_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = terminal(monkeypatch)

    render.LogText(raw=False).hole(3 << 20)

    assert stdout.text() == "\n[stoker: 3.0M of this log were dropped here]\n"


@pytest.mark.parametrize("place", ["no/such/directory", "."])
def test_sink_when_the_file_cannot_be_made_then_it_is_named_and_no_file_is_left(tmp_path: Path, place: str) -> None:
    path = f"{tmp_path}/{place}"

    with pytest.raises(CannotCreate, match=f"cannot write {path}: ") as refused, render.Sink(path) as write:
        write(b"lost")

    assert refused.value.exit_status == 73
    assert list(tmp_path.iterdir()) == []


def test_sink_when_the_file_is_complete_then_and_only_then_it_replaces_the_old_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    with render.Sink(str(path)) as write:
        write(b"old")

    with pytest.raises(TypeError), render.Sink(str(path)) as write:
        write("torn, as this is no bytes")  # type: ignore[arg-type]

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_sink_when_it_is_no_file_then_it_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    with render.Sink(str(pipe)) as write:
        write(b"through")

    assert os.read(reader, 100) == b"through"
    assert pipe.is_fifo()
    os.close(reader)


def test_wrapped_when_a_text_is_too_long_then_it_breaks_between_words() -> None:
    path = "/a/very/long/path/that/has-hyphens/in/it"

    assert render.wrapped("short", 60) == ["short"]
    assert render.wrapped(f"state dir {path} is gone", 20) == ["state dir", path, "is gone"]
    assert render.wrapped("", 3) == [""]


def test_error_when_there_are_several_mistakes_then_each_has_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    render.error(ConfigInvalid("2 mistakes", errors=["a\x1b", "b"], hint="stoker config check"))

    captured = capfd.readouterr()
    assert captured.err == "stoker: 2 mistakes\n  a^[\n  b\nhint: stoker config check\n"
    assert captured.out == ""


def test_error_when_the_only_mistake_is_the_message_then_it_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    render.error(ConfigInvalid("stoker.toml: a is wrong", errors=["a is wrong"]))
    render.error(ConfigInvalid("stoker.toml has 1 mistake", errors=["a is wrong"]))

    assert (
        capfd.readouterr().err == "stoker: stoker.toml: a is wrong\nstoker: stoker.toml has 1 mistake\n  a is wrong\n"
    )


def test_progress_when_stderr_is_no_terminal_then_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    render.progress("10 stored")
    render.aside("job 1")

    assert capfd.readouterr().err == ""


def test_json_document_when_it_holds_escapes_then_it_is_ascii_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    render.json_document({"name": "\x9b\u202eü"})

    assert capfd.readouterr().out == '{"name":"\\u009b\\u202e\\u00fc"}\n'


def test_when_when_a_zone_is_set_then_the_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert render.when(1_796_112_000_000) == "2026-12-01 11:00:00"
        assert render.when(None) == "-"
    finally:
        monkeypatch.undo()
        time.tzset()
