"""The protocols of systemd, with real datagram sockets and real inherited descriptors."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from stoker.core.errors import ConfigInvalid
from stoker.sdnotify import Notifier, is_private, listeners, strip
from tests.support.facts import DEADLINE_S


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(DEADLINE_S)
        yield listening


def test_notifier_when_a_manager_listens_then_each_message_arrives(manager: socket.socket) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.getsockname()})
    sent = [
        (notifier.ready("3 jobs"), b"READY=1\nSTATUS=3 jobs"),
        (notifier.status("busy"), b"STATUS=busy"),
        (notifier.watchdog(), b"WATCHDOG=1"),
        (notifier.extend_timeout(90_000), b"EXTEND_TIMEOUT_USEC=90000000"),
        (notifier.stopping(), b"STOPPING=1"),
    ]
    assert notifier.listened_to
    for delivered, message in sent:
        assert delivered
        assert manager.recv(1024) == message
    notifier.close()
    assert not notifier.watchdog()


def test_notifier_when_the_address_is_abstract_then_it_is_reached() -> None:
    name = f"stoker-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(DEADLINE_S)
        notifier = Notifier("@" + name)
        assert notifier.watchdog()
        assert listening.recv(64) == b"WATCHDOG=1"
        notifier.close()


def test_status_when_it_has_lines_then_no_second_assignment_gets_through(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.status("fine\nMAINPID=1\r\nREADY=1")
    assert manager.recv(1024) == b"STATUS=fine MAINPID=1 READY=1"
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative", "/nowhere/at/all"])
def test_notifier_when_no_manager_listens_then_messages_are_dropped(address: str | None) -> None:
    notifier = Notifier(address)
    assert not notifier.ready()
    assert not notifier.watchdog()
    notifier.close()
    notifier.close()


def test_notifier_when_the_managers_queue_is_full_then_it_does_not_wait(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    delivered = [notifier.watchdog() for _ in range(10_000)]
    assert not delivered[-1]
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_watchdog_when_the_manager_asks_for_it_then_its_time_is_known(
    environ: dict[str, str], expected: int | None
) -> None:
    assert Notifier.of(environ).watchdog_ms == expected


def test_watchdog_when_its_time_is_no_number_then_it_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigInvalid, match="WATCHDOG_USEC = '-3'"):
        Notifier.of({"WATCHDOG_USEC": "-3"})


LISTENING = """
import os, socket, sys
sys.path[:0] = {path!r}
from stoker.sdnotify import listeners
environ = {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": {count!r}, "LISTEN_FDNAMES": "api"}}
try:
    for fd, name in listeners(environ, os.getpid()):
        print(fd, name, os.get_inheritable(fd), socket.socket(fileno=os.dup(fd)).getsockname())
except Exception as error:
    print(error)
"""


def activated(count: str, *files: socket.socket | TextIO) -> str:
    """The output of a process that has `files` as its descriptors 3 and up."""
    script = LISTENING.format(path=sys.path, count=count)
    moves = [(os.POSIX_SPAWN_DUP2, opened.fileno(), 3 + i) for i, opened in enumerate(files)]
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1), *moves]
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-W", "ignore", "-c", script], os.environ, file_actions=actions
    )
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    os.waitpid(pid, 0)
    return text


def test_listeners_when_sockets_are_passed_then_they_have_names_and_close_on_exec(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        for opened, name in ((one, "a"), (two, "b")):
            opened.bind(str(tmp_path / name))
            opened.listen()
        printed = activated("2", one, two)
    assert printed.splitlines() == [f"3 api False {tmp_path / 'a'}", f"4 unknown False {tmp_path / 'b'}"]


def test_listeners_when_a_descriptor_is_not_a_listening_socket_then_it_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        assert "descriptor 3 does not listen" in activated("1", opened)
    with (tmp_path / "file").open("w") as file:
        assert "descriptor 3 is not a socket" in activated("1", file)
    assert "descriptor 3: Bad file descriptor" in activated("1")


@pytest.mark.parametrize("count", ["", "-1", "two", "²", "9" * 30])
def test_listeners_when_the_count_is_no_number_then_it_is_refused(count: str) -> None:
    with pytest.raises(ConfigInvalid, match="LISTEN_FDS"):
        listeners({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)


def test_listeners_when_meant_for_another_process_then_they_are_not_taken() -> None:
    assert listeners({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 7) == ()
    assert listeners({}, 7) == ()


def test_strip_when_called_then_only_what_may_be_handed_on_stays() -> None:
    private = {
        "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "STOKER_JOB_ID", "STOKER_ATTEMPT", "STOKER_RUN_ID", "STOKER_INSTANCE", "STOKER_SOCKET", "STOKER_TOKEN",
        "STOKER_CHECKPOINT", "STOKER_OUTPUT", "STOKER_INPUTS", "STOKER_LAUNCHER", "TRACEPARENT", "TRACESTATE",
    }  # fmt: skip
    environ = dict.fromkeys([*private, "PATH", "HOME", "LISTENER"], "x")
    strip(environ)
    assert environ == {"PATH": "x", "HOME": "x", "LISTENER": "x"}
    assert all(map(is_private, private))
