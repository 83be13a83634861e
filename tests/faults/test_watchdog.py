"""Messages to the service manager: a watchdog that means health, and the stages of a start and of an end.

Owns the manager's end of the protocol, a real datagram socket. Each of the three things behind a sign of life is made
to hang alone, by real means, and the daemon must fall silent for just that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import strace
from tests.support.facts import until
from tests.support.strace import Attached
from tests.support.work import Gate, running, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.daemon import DaemonProcess

WATCHDOG_S = 4
# The bytes of the -shm file on which SQLite takes read locks: an exclusive lock on them stops every reader.
READ_LOCKS = (123, 5)
UNTRACED = strace.why_not()


class Manager:
    """Receives the messages of a daemon to its service manager."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003 - positional only
        self._socket.bind(str(daemon.home / "manager"))
        self.said: list[str] = []

    def start(self) -> None:
        self._daemon.spawn(
            environ={"NOTIFY_SOCKET": str(self._daemon.home / "manager"), "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000)}
        )
        until(lambda: "READY=1" in self.listen(), why="READY=1")

    def listen(self) -> list[str]:
        """All assignments so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said += self._socket.recv(4096).decode().splitlines()
        return self.said

    def beats(self) -> int:
        return self.listen().count("WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(stopped_daemon: DaemonProcess) -> Iterator[Manager]:
    listening = Manager(stopped_daemon)
    yield listening
    listening.close()


@contextlib.contextmanager
def locked_readers(daemon: DaemonProcess) -> Iterator[None]:
    """Keep all reads of the database from beginning."""
    start, length = READ_LOCKS
    with (daemon.state_dir / "stoker.db-shm").open("r+b") as shm:
        fcntl.lockf(shm, fcntl.LOCK_EX, length, start)
        yield


@contextlib.contextmanager
def endless_commit(daemon: DaemonProcess) -> Iterator[None]:
    """A commit that hangs, because the disk does not answer."""
    if UNTRACED is not None:
        pytest.skip(UNTRACED)
    attached = Attached(daemon.pid, daemon.home / "trace", "inject=fdatasync:delay_enter=600s")
    request = b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"/bin/true"}}\n'
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(request)
            yield
    finally:
        attached.detach()


@contextlib.contextmanager
def stopped_launcher(daemon: DaemonProcess) -> Iterator[None]:
    """Stop the newest launcher for good."""
    with daemon.client() as client:
        (launcher,) = client.call("system.status")["launchers"]
    os.kill(launcher["pid"], signal.SIGSTOP)
    yield


def silences(daemon: DaemonProcess) -> list[list[str]]:
    """For each silence of the daemon: the parts that had not answered."""
    return [
        [part for part, answer in unwell["checks"].items() if answer != "ok"]
        for unwell in daemon.events("daemon_unwell")
    ]


HANGS: dict[str, Callable[[DaemonProcess], AbstractContextManager[None]]] = {
    "database": locked_readers,
    "loop": endless_commit,
    "launcher": stopped_launcher,
}


@pytest.mark.parametrize("part", HANGS)
def test_watchdog_when_one_part_hangs_then_it_is_silent_until_that_part_is_well(
    stopped_daemon: DaemonProcess, manager: Manager, part: str
) -> None:
    manager.start()
    until(lambda: manager.beats() > 1, why="signs of life")

    with HANGS[part](stopped_daemon):
        until(lambda: [part] in silences(stopped_daemon), why=f"silence for the {part} alone")
        beats = manager.beats()
        if part != "launcher":  # that one is replaced, and the daemon is healthy again
            with stopped_daemon.client() as client:
                assert client.call("system.health")["checks"][part] != "ok"
            assert manager.beats() == beats

        if part == "launcher":
            stopped_daemon.logged("daemon_well")
    until(lambda: manager.beats() > beats, why="a sign of life")
    launchers = 2 if part == "launcher" else 1
    assert len(stopped_daemon.logged("launcher_started", launchers)) == launchers


def test_manager_when_a_daemon_starts_runs_and_drains_then_it_gets_every_stage(
    stopped_daemon: DaemonProcess, manager: Manager
) -> None:
    gate = Gate(stopped_daemon.home / "gate")
    manager.start()
    with stopped_daemon.client() as client:
        running(client, submit(client, gate.spec()))
    until(lambda: "STATUS=1 running, 0 queued" in manager.listen(), why="the status")

    stopped_daemon.signal(signal.SIGTERM)
    until(lambda: "STATUS=draining: 1 running" in manager.listen(), why="the drain")
    gate.open()
    assert stopped_daemon.wait() == 0

    stages = ["STATUS=opening the state", "STATUS=recovering 0 attempts", "READY=1", "STOPPING=1"]
    messages = manager.listen()
    assert [word for word in messages if word in stages] == stages
    asked = [place for place, word in enumerate(messages) if word.startswith("EXTEND_TIMEOUT_USEC=")]
    assert asked[0] < messages.index("READY=1") < messages.index("STOPPING=1") < asked[-1]


def test_watchdog_when_the_daemon_is_in_safe_mode_then_it_beats_and_is_left_alone(
    stopped_daemon: DaemonProcess, manager: Manager
) -> None:
    stopped_daemon.start()
    stopped_daemon.stop()
    (stopped_daemon.state_dir / "outcomes" / "1-00000000.log").write_text("damage\n")

    manager.start()

    until(lambda: manager.beats() > 1, why="signs of life")
    assert any(word.startswith("STATUS=safe mode: ") for word in manager.said)
