"""`stoker top` in a real terminal (tmux, 80 columns and 24 lines): keys, a log, a cancel, and how it leaves it all."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import work
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Window:
    """A shell in a terminal of tmux, whose server is our own."""

    def __init__(self, daemon: DaemonProcess, home: Path) -> None:
        self._tmux = ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
        self._environ = {**daemon.client_environ, "PS1": "ready> ", "SHELL": "/bin/sh", "TERM": "xterm-256color"}
        self._call("new-session", "-d", "-x", "80", "-y", "24", "-s", "main", "/bin/sh")
        self.until("ready>")

    def _call(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=True).stdout

    def run(self, command: str) -> None:
        """A command of the shell; afterwards it prints the exit status, and the modes of the terminal."""
        self._call("send-keys", "-t", "main", "-l", f"clear; {command}; echo exit=$? modes=$(stty -g)")
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self._call("send-keys", "-t", "main", *keys)

    def type(self, text: str) -> None:
        self._call("send-keys", "-t", "main", "-l", text)

    @property
    def text(self) -> str:
        return self._call("capture-pane", "-p", "-J", "-t", "main")

    @property
    def is_alternate(self) -> bool:
        return self._call("display-message", "-p", "-t", "main", "#{alternate_on}").strip() == "1"

    @property
    def has_cursor(self) -> bool:
        return self._call("display-message", "-p", "-t", "main", "#{cursor_flag}").strip() == "1"

    def until(self, *words: str, without: tuple[str, ...] = ()) -> str:
        seen = ""

        def complete() -> bool:
            nonlocal seen
            seen = self.text
            return all(word in seen for word in words) and not any(word in seen for word in without)

        try:
            until(complete)
        except AssertionError as error:
            raise AssertionError(f"not shown: {words}, or still shown: {without}\n{seen}") from error
        return seen

    def modes(self) -> str:
        """The modes that `stty -g` printed last."""
        found: list[str] = until(lambda: re.findall(r"exit=\d+ modes=(\S+)", self.text))
        return found[-1]

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def window(shared: DaemonProcess, tmp_path: Path) -> Iterator[Window]:
    window = Window(shared, tmp_path)
    yield window
    window.close()


def test_a_terminal_when_the_screen_was_used_and_quit_then_it_is_as_before(
    shared: DaemonProcess, window: Window, gate: work.Gate
) -> None:
    with shared.client() as client:
        other = work.submit_running(client, gate.spec(name="other"))
        job = work.submit_running(client, work.shell(f"echo hello there; read _ < {gate.path}", name="talker"))
    window.run("true")
    before = window.modes()

    window.run("stoker top")
    window.until("talker", "other", "q Quit")
    assert window.is_alternate
    window.press("/")
    window.until("queue:NAME")
    window.type("talker")
    window.until("talker", "1 of 2", without=("other:",))
    window.press("Enter")
    window.until("Details")  # the table has the keys again
    window.press("Enter")
    window.until(f"job {job} running", "is running")
    window.press("l")
    window.until("hello there", "following")
    window.press("Escape")
    window.until("is running", without=("following",))
    window.press("c")
    window.until(f"Cancel job {job}?")
    window.type("seen enough")
    window.press("Enter")
    with shared.client() as client:
        assert work.end_of(client, job)[0] == "cancelled"
    window.until(without=("Cancel job",))
    window.press("q")
    window.until("live jobs")
    window.press("q")

    window.until("exit=0")
    assert (window.modes(), window.is_alternate, window.has_cursor) == (before, False, True)
    with shared.client() as client:
        assert "seen enough" in {change["note"] for change in client.history(job)["changes"]}
        assert client.get(other)["state"] == "running"


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminated", "hung up"])
def test_a_terminal_when_the_screen_is_ended_then_it_is_as_before(
    shared: DaemonProcess, window: Window, tmp_path: Path, number: signal.Signals | None
) -> None:
    window.run("true")
    before = window.modes()
    pid = tmp_path / "pid"
    window.run(f"sh -c 'echo $$ > {shlex.quote(str(pid))}; exec stoker top'")
    window.until("live jobs", "q Quit")

    if number is None:
        window.press("C-c")
    else:
        os.kill(int(pid.read_text()), number)

    window.until("exit=130")
    assert (window.modes(), window.is_alternate, window.has_cursor) == (before, False, True)


def test_a_daemon_when_it_is_not_there_then_the_screen_does_not_open(window: Window, tmp_path: Path) -> None:
    window.run(f"stoker --socket {shlex.quote(str(tmp_path / 'nobody'))} top")

    window.until("no daemon answers", "exit=69")
    assert not window.is_alternate
