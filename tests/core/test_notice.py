"""Notices of workers: those that count, those that are ignored, and what follows a silence."""

from __future__ import annotations

import pytest

from stoker.core.job.notice import MAX_NOTICE_BYTES, MAX_STATUS, Notice, Silence, judge_silence, read_notice
from tests.support.jobs import spec


@pytest.mark.parametrize(
    ("datagram", "notice"),
    [
        (b"WATCHDOG=1", Notice(alive=True)),
        (b"WATCHDOG=trigger", Notice(trigger=True)),
        (b"WATCHDOG=2", Notice()),
        (b"READY=1\nSTATUS=up and = well\nMAINPID=7\n", Notice(ready=True, status="up and = well")),
        (b"STATUS=", Notice(status="")),
        (b"STATUS=" + b"x" * 4_000, Notice(status="x" * MAX_STATUS)),
        (b"STATUS=old\nSTATUS=new", Notice(status="new")),
        (b"X_STOKER_PROGRESS=0", Notice(progress=0)),
        (b"X_STOKER_PROGRESS=99.9", Notice(progress=99)),
        (b"X_STOKER_PROGRESS=100\nWATCHDOG=1", Notice(alive=True, progress=100)),
        (b"FDSTORE=1\nERRNO=2", Notice()),
    ],
)
def test_read_when_a_program_sends_sd_notify_then_the_known_fields_are_taken(datagram: bytes, notice: Notice) -> None:
    assert read_notice(datagram) == notice


@pytest.mark.parametrize(
    "datagram",
    [
        b"", b"\n\n", b"WATCHDOG", b"=1", b"\xff\xfe=1", b"STATUS=a\0b", b"X_STOKER_PROGRESS=", b"X_STOKER_PROGRESS=-1",
        b"X_STOKER_PROGRESS=101", b"X_STOKER_PROGRESS=100.1", b"X_STOKER_PROGRESS=1e1", b"X_STOKER_PROGRESS=nan",
        "X_STOKER_PROGRESS=\u0664".encode(), b"WATCHDOG=1\nX_STOKER_PROGRESS=" + b"9" * 4_000,
        b"STATUS=" + b"x" * MAX_NOTICE_BYTES,
    ],
)  # fmt: skip
def test_read_when_the_datagram_is_no_notice_then_nothing_of_it_counts(datagram: bytes) -> None:
    assert read_notice(datagram) is None


@pytest.mark.parametrize(
    ("silent_ms", "silence"),
    [
        (0, Silence(30)),
        (29, Silence(1)),
        (30, Silence(150, warn=True)),
        (179, Silence(1, warn=True)),
        (180, Silence(None, warn=True, stop=True)),
        (10**9, Silence(None, warn=True, stop=True)),
    ],
)
def test_silence_when_it_lasts_then_it_warns_and_then_stops(silent_ms: int, silence: Silence) -> None:
    asked = spec(heartbeat_ms=10, unresponsive_warn_ms=30, unresponsive_kill_ms=180)

    assert judge_silence(asked, silent_ms) == silence


def test_silence_when_the_warning_is_due_after_the_stop_then_the_stop_comes_first() -> None:
    asked = spec(heartbeat_ms=10, unresponsive_warn_ms=500, unresponsive_kill_ms=180)

    assert judge_silence(asked, 80) == Silence(100)
