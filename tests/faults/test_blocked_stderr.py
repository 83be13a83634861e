"""A stderr without a reader, as after Ctrl-S in the daemon's terminal, and one that was closed before the start.

The daemon logs into a FIFO whose buffer is a page. Limits, answers and the drain must not notice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stoker.telemetry.log_writer import MAX_WAITING_BYTES
from tests.support.daemon import BIN
from tests.support.facts import until
from tests.support.work import end_of, shell, submit, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

LINE_BYTES = 100  # of the shortest line of a submit


class UnreadLog(NamedTuple):
    daemon: DaemonProcess
    reader: int

    @property
    def full(self) -> bool:
        """Whether the next line of the daemon must wait. If not, this takes the place of one: a pipe takes it whole."""
        writer = os.open(self.daemon.stderr, os.O_WRONLY | os.O_NONBLOCK)
        try:
            return os.write(writer, b"\n" * LINE_BYTES) == 0
        except BlockingIOError:
            return True
        finally:
            os.close(writer)

    def read(self) -> bytes:
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def unread(stopped_daemon: DaemonProcess) -> Iterator[UnreadLog]:
    daemon = stopped_daemon
    daemon.config.write_text('[log]\nlevel = "debug"\n')
    os.mkfifo(daemon.stderr)
    reader = os.open(daemon.stderr, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4_096)
    daemon.start()
    yield UnreadLog(daemon, reader)
    daemon.end()
    os.close(reader)


def test_limit_when_stderr_has_no_reader_then_it_is_kept_and_the_drain_ends(unread: UnreadLog) -> None:
    with unread.daemon.client() as client:
        until(lambda: submit(client, shell(":")) and unread.full, why="stderr is full")

        job = submit(client, shell("sleep 60", timeout_ms=100, grace_ms=1_000))

        assert end_of(client, job) == ("failed", "timeout")
    assert unread.daemon.stop() == 0


def test_log_when_lines_are_lost_then_status_and_log_show_the_loss(unread: UnreadLog) -> None:
    with unread.daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        while not client.call("system.status")["log_lines_lost"]:
            submit_many(client, [shell(":")] * (MAX_WAITING_BYTES // LINE_BYTES // 8))

        log = bytearray()
        while b'"log_lines_lost"' not in log.rpartition(b"\n")[0]:  # the last line may still be incomplete
            log += until(unread.read)
            submit(client, shell(":"))

        lost = client.call("system.status")["log_lines_lost"]
    events = [json.loads(line) for line in log.split(b"\n")[:-1] if b'"log_lines_lost"' in line]
    assert events[0]["level"] == "warning"
    assert 0 < events[0]["lines"] <= lost


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_start_when_standard_streams_are_closed_then_no_file_takes_their_place(
    stopped_daemon: DaemonProcess, closed: str
) -> None:
    home = stopped_daemon
    arguments = ["--config", str(home.config), "--state-dir", str(home.state_dir), "--socket", str(home.socket)]
    command = f"exec {shlex.join([f'{BIN}/stokerd', *arguments])} {closed}"

    home.process = subprocess.Popen(["sh", "-c", command], env=home.environ)

    until(lambda: home.cli("status").returncode == 0, why="the first answer")
    with home.client() as client:
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
    assert Path(f"/proc/{home.pid}/fd/2").readlink() == Path(os.devnull)
    assert home.stop() == 0
