"""Entries of the journal: what a datagram of the daemon holds, and where a line goes that cannot be one.

Owns the form of a datagram; `tests/faults/test_real_systemd.py` asks a real journald for the fields.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.telemetry.events import LogEvent
from stoker.telemetry.journald import JournalSocket, is_journal, message_id
from stoker.telemetry.log_writer import LogWriter
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = b'{"event":"task_failed","level":"warning","ts":"2026-12-01T00:00:00.000Z","job":7,"queue":"a","why":"x"}\n'


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that journald listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(30)
        yield listener


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalSocket]:
    """A journal without a journald, unless the test has one."""
    with closing(JournalSocket(str(tmp_path / "socket"))) as made:
        yield made


def test_entry_when_a_line_is_sent_then_its_fields_can_be_asked_for(
    journald: socket.socket, journal: JournalSocket
) -> None:
    assert journal.send(LINE)

    assert journald.recv(65_536).splitlines() == [
        b"MESSAGE=" + LINE.strip(),
        b"PRIORITY=4",
        b"SYSLOG_IDENTIFIER=stokerd",
        b"MESSAGE_ID=" + message_id("task_failed").encode(),
        b"STOKER_EVENT=task_failed",
        b"STOKER_JOB=7",
        b"STOKER_QUEUE=a",
    ]


def test_entry_when_a_value_has_lines_then_they_cannot_be_taken_for_fields(
    journald: socket.socket, journal: JournalSocket
) -> None:
    assert journal.send(b'{"event":"job_held","level":"warning","queue":"a\\nPRIORITY=0"}\n')

    assert b"STOKER_QUEUE\n" + (12).to_bytes(8, "little") + b"a\nPRIORITY=0\n" in journald.recv(65_536)


def test_message_id_when_releases_change_then_it_stays() -> None:
    assert message_id("task_failed") == "948356fdfd1c27b9eb056de5d52cc6df"
    assert len({message_id(event) for event in LogEvent}) == len(LogEvent)


@pytest.mark.parametrize(
    "line", [b"Traceback (most recent call last):\n", b"[1]\n", b"\n", b'{"a":"' + b"x" * 300_000 + b'"}\n']
)
def test_line_when_it_cannot_be_an_entry_then_the_descriptor_gets_it(
    journald: socket.socket, journal: JournalSocket, line: bytes
) -> None:
    reader, writer = os.pipe()
    log_writer = LogWriter(writer, lambda _lost: None)
    log_writer.send_by(journal.send)

    log_writer.write(LINE + line + LINE)

    received = bytearray()
    while len(received) < len(line):
        received += os.read(reader, 65_536)
    assert received == line
    assert [journald.recv(65_536)[8 : 8 + len(LINE) - 1] for _ in range(2)] == [LINE.strip()] * 2
    os.close(reader)
    os.close(writer)


def test_line_when_no_journald_listens_then_the_descriptor_gets_it(journal: JournalSocket) -> None:
    reader, writer = os.pipe()
    log_writer = LogWriter(writer, lambda _lost: None)
    log_writer.send_by(journal.send)

    log_writer.write(LINE)

    assert until(lambda: os.read(reader, 65_536)) == LINE
    os.close(reader)
    os.close(writer)


def test_lost_lines_when_others_became_entries_then_only_the_refused_are_counted(
    journald: socket.socket, journal: JournalSocket
) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        log_writer = LogWriter(full.fileno(), lambda _lost: None)
        log_writer.send_by(journal.send)

        log_writer.write(LINE + b"a line for people\n" + LINE)

        assert log_writer.flush(30)
    assert log_writer.lost_lines == 1
    assert journald.recv(65_536) == journald.recv(65_536)


def test_stderr_when_systemd_connected_it_to_the_journal_then_it_is_known(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as stream:
        status = os.fstat(stream.fileno())
        named = f"{status.st_dev}:{status.st_ino}"

        assert is_journal(stream.fileno(), {"JOURNAL_STREAM": named})
        assert not is_journal(stream.fileno(), {"JOURNAL_STREAM": f"{named}1"})
        assert not is_journal(stream.fileno(), {})
    assert not is_journal(1 << 20, {"JOURNAL_STREAM": named})
