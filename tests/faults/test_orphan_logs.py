"""The output of workers without a reader: their launcher was killed, alone or with the daemon."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.torture import launchers
from tests.support.work import Gate, end_of, kill9, shell, submit

if TYPE_CHECKING:
    import stoker


def read(client: stoker.Client, job: int) -> str:
    pieces = client.stream("job.logs", {"id": job})
    return b"".join(base64.b64decode(piece["data"]) for piece in pieces if "data" in piece).decode()


def kill_launcher(daemon: DaemonProcess) -> None:
    (pid,) = launchers(daemon.state_dir).values()
    kill9(pid)


@pytest.mark.parametrize("daemon_dies", [True, False], ids=["with its daemon", "alone"])
def test_log_when_a_survivors_launcher_was_killed_then_its_output_still_comes(
    daemon: DaemonProcess, *, daemon_dies: bool
) -> None:
    gate = Gate(daemon.home / "gate")
    with daemon.client() as client:
        # Far more than a pipe holds, so that it ends only if the pipe is read.
        many = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
        job = submit(
            client, shell(f"echo before; read _ < {gate.path}; {many}; touch {daemon.home}/done"), survive=True
        )
        until(lambda: read(client, job) == "before\n", why="the first line")
    if daemon_dies:
        daemon.kill9()
    kill_launcher(daemon)
    if daemon_dies:
        daemon.start()
    until(lambda: daemon.events("recovery_planned")[1:], why="the adoption of its worker")

    gate.open()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "lost")  # its exit code is unknown
        assert (daemon.home / "done").exists()
        assert read(client, job) == "before\n" + "".join(f"line {number}\n" for number in range(20_000))


@pytest.mark.parametrize("daemon_dies", [True, False], ids=["with its daemon", "alone"])
def test_log_when_an_orphan_is_stopped_then_its_last_words_are_in_it(
    daemon: DaemonProcess, *, daemon_dies: bool
) -> None:
    with daemon.client() as client:
        job = submit(client, shell("trap 'echo last words >/dev/stderr; exit' TERM; echo up; sleep 600 & wait"))
        until(lambda: read(client, job) == "up\n", why="the first line")
    if daemon_dies:
        daemon.kill9()
    kill_launcher(daemon)
    if daemon_dies:
        daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")
        assert read(client, job) == "up\nlast words\n"
