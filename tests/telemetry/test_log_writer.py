"""Lines on their way to stderr: written in order, dropped without a reader, counted, and reported afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stoker.telemetry.log_writer import MAX_WAITING_BYTES, LogWriter
from tests.support.facts import until

LINE = b"x" * 1_023 + b"\n"


class Pipe(NamedTuple):
    reader: int
    writer: int

    def fill(self) -> None:
        """Until the next write would block."""
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, LINE)
        os.set_blocking(self.writer, True)

    def drain(self) -> None:
        """Read as long as more comes."""
        while select.select([self.reader], [], [], 0.01)[0]:
            self.read()

    def read(self) -> bytes:
        """The bytes that can be read now."""
        try:
            return os.read(self.reader, 65_536)
        except BlockingIOError:
            return b""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4_096)
    os.set_blocking(pipe.reader, False)
    yield pipe
    os.close(pipe.reader)


def test_write_when_the_reader_reads_then_lines_arrive_in_order(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writer, lambda _lost: None)
    expected = b"".join(b"line %d\n" % number for number in range(2_000))

    for number in range(2_000):
        writer.write(b"line %d\n" % number)

    received = bytearray()
    while len(received) < len(expected):
        received += until(pipe.read)
    assert received == expected
    assert writer.flush(10)


def test_write_when_there_is_no_reader_then_it_returns_and_counts_lost_lines(pipe: Pipe) -> None:
    reported: list[int] = []
    writer = LogWriter(pipe.writer, reported.append)
    pipe.fill()

    for _ in range(2 * MAX_WAITING_BYTES // len(LINE)):
        writer.write(LINE)

    assert not writer.flush(0.01)
    assert writer.lost_lines >= MAX_WAITING_BYTES // len(LINE) - 1
    assert reported == []
    until(lambda: (pipe.drain(), sum(reported) == writer.lost_lines)[1], why="the loss is reported")


@pytest.mark.parametrize("blocking", [True, False])
def test_write_when_the_descriptor_would_block_then_the_line_waits(pipe: Pipe, *, blocking: bool) -> None:
    writer = LogWriter(pipe.writer, lambda _lost: None)
    pipe.fill()
    os.set_blocking(pipe.writer, blocking)

    writer.write(b"last words\n")

    assert not writer.flush(0.01)
    received = bytearray()
    while not received.endswith(b"last words\n"):
        received += until(pipe.read)
    assert writer.lost_lines == 0


def test_write_when_the_disk_is_full_then_the_line_is_lost_and_nothing_raised() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LogWriter(full.fileno(), lambda _lost: None)
        writer.write(LINE)
        assert writer.flush(10)
    assert writer.lost_lines == 1


def test_write_when_no_thread_can_be_started_then_the_line_waits_for_one(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(pipe.writer, lambda _lost: None)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as host:
        host.setattr(threading.Thread, "start", refuse)
        writer.write(b"first\n")
    writer.write(b"second\n")

    assert writer.flush(10)
    assert pipe.read() == b"first\nsecond\n"
