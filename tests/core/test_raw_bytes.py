"""Strings of any bytes: which are refused, and their forms for the system and for people."""

from __future__ import annotations

import pytest

from stoker.core.command_limits import MAX_PATH
from stoker.core.errors import InvalidParams
from stoker.core.job.model import ExecutionMode
from stoker.core.raw_bytes import RawBytes, encoded, native, printable, sendable
from stoker.core.requests import JobParams

CAFE = RawBytes.of(b"caf\xe9")


def test_raw_bytes_when_read_then_the_bytes_are_those_that_were_given() -> None:
    assert (CAFE.data, len(CAFE), encoded(CAFE), encoded("x")) == (b"caf\xe9", 4, b"caf\xe9", b"x")
    assert (native(CAFE), native("x"), printable(native(CAFE))) == ("caf\udce9", "x", "caf\\xe9")


@pytest.mark.parametrize(("text", "problem"), [("AA==", "NUL"), ("?", "not base64")])
def test_raw_bytes_when_they_cannot_stand_then_they_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RawBytes(text)


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"command": RawBytes.of(b"")}, "command", "1 to"),
        ({"command": CAFE, "execution_mode": ExecutionMode.IN_PROCESS}, "command", "is text"),
        ({"command": "x", "working_dir": RawBytes.of(b"/" * (MAX_PATH + 1))}, "working_dir", "at most"),
        ({"command": "x", "working_dir": CAFE}, "working_dir", "not an absolute path"),
    ],
)
def test_params_when_bytes_break_a_limit_then_the_field_is_named(
    fields: dict[str, object], path: str, problem: str
) -> None:
    with pytest.raises(InvalidParams, match=problem) as refused:
        JobParams(**fields)  # type: ignore[arg-type]
    assert refused.value.details["path"] == path


def test_params_when_bytes_are_within_the_limits_then_they_are_taken() -> None:
    sent = JobParams(command=CAFE, working_dir=RawBytes.of(b"/caf\xe9"))

    assert sent.command == CAFE


@pytest.mark.parametrize("text", ["a name", "na\udcffme", "é"])
def test_text_of_the_system_when_it_is_sent_then_it_comes_back_as_it_was(text: str) -> None:
    assert native(sendable(text)) == text
