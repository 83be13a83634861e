"""Files that are removed under a living daemon: its socket, the directory of that, its state directory."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StateRefused
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.work import Gate


@pytest.fixture
def runtime() -> Iterator[DaemonProcess]:
    """A daemon whose socket has a directory of its own, as below /run/user."""
    daemon = DaemonProcess()
    daemon.socket = daemon.home / "run" / "stoker" / "sock"
    daemon.socket.parent.parent.mkdir(mode=0o700)
    with daemon:
        yield daemon


def restored(daemon: DaemonProcess, times: int = 1) -> bool:
    return len(daemon.events("socket_restored")) == times


def test_socket_when_its_file_is_removed_then_it_is_made_again_and_jobs_go_on(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as connected:
        job = submit_running(connected, gate.spec())

        daemon.socket.unlink()
        until(lambda: restored(daemon))

        assert oct(daemon.socket.stat().st_mode & 0o777) == "0o600"
        with daemon.client() as another:
            gate.open()
            assert end_of(another, job) == ("succeeded", "exit")
        assert connected.call("system.health")["ok"]
    assert daemon.stop() == 0
    assert not daemon.socket.exists()


def test_socket_when_its_directory_is_removed_then_both_are_made_again_with_a_lock(runtime: DaemonProcess) -> None:
    shutil.rmtree(runtime.socket.parent)

    until(lambda: restored(runtime))

    with runtime.client() as client:
        assert client.call("system.health")["ok"]
    assert oct(runtime.socket.parent.stat().st_mode & 0o777) == "0o700"
    second = DaemonProcess()
    second.socket = runtime.socket
    second.spawn()
    assert second.wait() == 75
    second.end()


def test_socket_when_it_cannot_be_made_then_it_is_reported_once_and_made_later(runtime: DaemonProcess) -> None:
    shutil.rmtree(runtime.socket.parent)
    runtime.socket.parent.write_text("in the way")
    until(lambda: runtime.events("socket_lost"))

    runtime.socket.parent.unlink()

    until(lambda: restored(runtime))
    assert len(runtime.events("socket_lost")) == 1


def test_socket_when_its_path_cannot_be_followed_then_the_daemon_goes_on() -> None:
    daemon = DaemonProcess()
    link, fresh = daemon.home / "link", daemon.home / "fresh"
    link.symlink_to(".")
    daemon.socket = link / "sock"
    with daemon, daemon.client() as connected:
        fresh.symlink_to("link")
        fresh.replace(link)  # a loop, at once
        until(lambda: daemon.events("socket_lost"))

        fresh.symlink_to(".")
        fresh.replace(link)

        until(lambda: restored(daemon))
        assert connected.call("system.health")["ok"]
        assert daemon.stop() == 0


def test_socket_when_a_stranger_serves_its_path_then_it_is_left_to_him(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        daemon.socket.unlink()
        stranger.bind(str(daemon.socket))
        stranger.listen()
        inode = daemon.socket.stat().st_ino
        until(lambda: daemon.events("socket_lost"))

        assert daemon.stop() == 0

        assert daemon.socket.stat().st_ino == inode


def test_state_when_its_directory_is_moved_then_nothing_is_accepted_until_it_is_back(
    daemon: DaemonProcess, gate: Gate
) -> None:
    away = daemon.home / "away"
    with daemon.client() as client:
        job = submit_running(client, gate.spec())

        daemon.state_dir.rename(away)
        until(lambda: daemon.events("state_lost"))
        with pytest.raises(StateRefused, match="removed or replaced"):
            submit(client, shell(":"))
        with pytest.raises(StateRefused, match="removed or replaced"):
            client.cancel(job)
        health = client.call("system.health")
        away.rename(daemon.state_dir)
        until(lambda: daemon.events("state_back"))

        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
    assert not health["ok"]
    assert "removed or replaced" in health["checks"]["state"]


def test_start_when_the_directory_is_in_use_then_the_hint_asks_its_holder(daemon: DaemonProcess) -> None:
    second = DaemonProcess()
    second.state_dir = daemon.state_dir
    second.spawn()

    assert second.wait() == 75

    assert f"hint: stoker --socket {daemon.socket} status, or choose another" in second.stderr.read_text()
    second.end()
