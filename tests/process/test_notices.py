"""The notification socket of a worker: its senders, its messages, and that no descriptor stays open."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.notice import MAX_NOTICE_BYTES
from stoker.process.notices import Datagram, listen, may_notify, receive
from tests.support.descriptors import count_fds
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = os.geteuid()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "7.notify") if request.param == "path" else f"@stoker-test-{os.getpid()}"


@pytest.fixture
def heard(address: str) -> Iterator[socket.socket]:
    with listen(address) as sock:
        yield sock


def send(address: str, data: bytes, fds: tuple[int, ...] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendmsg([data], rights, 0, f"\0{address[1:]}" if address[0] == "@" else address)


def test_receive_when_a_message_was_sent_then_it_comes_with_its_sender(heard: socket.socket, address: str) -> None:
    send(address, b"READY=1")

    assert receive(heard) == Datagram(b"READY=1", os.getpid(), OWN)
    assert receive(heard) is None


def test_receive_when_descriptors_come_along_then_they_are_closed_at_once(heard: socket.socket, address: str) -> None:
    """`systemd-notify` waits for the end of its pipe; and a worker must not fill our table of files."""
    ends, kept = os.pipe()
    before = count_fds()
    for number in (1, 16, 200):
        send(address, b"BARRIER=1", (kept,) * number)
        assert receive(heard) is not None
    assert count_fds() == before

    os.close(kept)
    assert os.read(ends, 1) == b""
    os.close(ends)


def test_receive_when_it_is_too_long_then_one_byte_too_much_is_left_of_it(heard: socket.socket, address: str) -> None:
    send(address, b"x" * 100_000)

    notice = receive(heard)

    assert notice is not None
    assert len(notice.data) == MAX_NOTICE_BYTES + 1


def test_listen_when_a_daemon_that_died_left_the_name_then_it_is_bound_again(tmp_path: Path) -> None:
    address = str(tmp_path / "7.notify")
    listen(address).close()

    with listen(address) as again:
        assert Path(address).stat().st_mode & 0o777 == 0o600
        send(address, b"WATCHDOG=1")
        assert receive(again) is not None


def test_listen_when_a_directory_has_the_name_then_it_fails_and_leaves_nothing(tmp_path: Path) -> None:
    before = count_fds()

    with pytest.raises(OSError, match=r"directory|permitted"):
        listen(str(tmp_path))

    assert count_fds() == before


# --- who may speak ------------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A waiting process in a session of its own."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "cat & echo $!; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        yield running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, 9)


def test_may_speak_when_it_is_of_the_tree_then_it_may_and_its_parents_may_not(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    spoken = {pid: Datagram(b"", pid, OWN) for pid in (child.pid, grandchild, os.getpid(), 1)}

    assert may_notify(spoken[child.pid], child.pid, None)
    assert may_notify(spoken[grandchild], child.pid, None)
    assert not may_notify(spoken[os.getpid()], child.pid, None)
    assert not may_notify(spoken[1], child.pid, None)


def test_may_speak_when_the_launcher_adopted_the_sender_then_it_may(child: subprocess.Popen[str]) -> None:
    """The sender is not of the worker's tree, but its parent is the process that adopts orphans: this one."""
    spoken = Datagram(b"", child.pid, OWN)

    assert may_notify(spoken, 1 << 22, os.getpid())
    assert not may_notify(spoken, 1 << 22, None)


@pytest.mark.parametrize("main", [None, 1])
def test_may_speak_when_the_sender_is_gone_or_cannot_be_seen_then_its_user_decides(main: int | None) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    until(lambda: not Path(f"/proc/{gone.pid}").exists(), why="its end")

    for pid in (gone.pid, 0):
        assert may_notify(Datagram(b"", pid, OWN), main, None)
        assert may_notify(Datagram(b"", pid, 0), main, None)
        assert not may_notify(Datagram(b"", pid, 54_321), main, None)
        assert not may_notify(Datagram(b"", pid, None), main, None)
