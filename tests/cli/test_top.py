"""`stoker top --plain` on a terminal of 60 columns and 14 lines: what it shows, its keys, and what it restores.

The screen that opens without --plain has tests of its own: tests/cli/test_screen.py and its neighbours.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.kit.render import GIVE_SCREEN_BACK, TAKE_SCREEN
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

COLUMNS, LINES = 60, 14
LOCAL_MODES = 3  # in the list of tcgetattr
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Window:
    """A terminal with `stoker top` in it."""

    def __init__(self, daemon: DaemonProcess, *options: str, **environ: str) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        stoker = [str(daemon.programs / "stoker"), "--socket", str(daemon.socket), "top", "--every", "100ms", *options]
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *stoker], stdin=self._slave, stdout=self._slave, stderr=self._slave,
            env={**daemon.environ, "TERM": "xterm", **environ},
        )  # fmt: skip
        self._text = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        self.seen = ""

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def read_until(self, text: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while text not in self.seen and time.monotonic() < until:
            ready, _, _ = select.select([self._master], [], [], 1)
            if ready:
                self.seen += self._text.decode(os.read(self._master, 65536))
        assert text in self.seen

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def window(daemon: DaemonProcess) -> Iterator[Window]:
    daemon.cli("queue", "set", "a-queue-with-quite-a-long-name", "--class", "low")
    for queue in range(6):
        daemon.cli("queue", "set", f"queue-{queue}")
    for _ in range(20):
        daemon.cli(
            "submit", "--run-at", "+1h", "--", "echo", "a command that is longer than sixty columns are wide 漢字" * 2
        )
    window = Window(daemon, "--plain")
    yield window
    window.close()


def test_top_when_the_terminal_is_small_then_all_parts_are_there_and_no_line_wraps(
    window: Window,
) -> None:
    window.read_until("q quit")

    screen = ESCAPE.sub("", window.seen.partition(TAKE_SCREEN)[2].partition("q quit")[0] + "q quit")
    lines = screen.replace("\r", "").split("\n")
    assert len(lines) == LINES
    assert max(map(len, lines)) <= COLUMNS
    words = [line.split()[0] for line in lines if line]
    assert [word for word in ("stokerd", "jobs", "pressure", "QUEUE", "ID", "q") if word not in words] == []
    assert "more queues" in screen


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("\x03", 130)], ids=["q", "ctrl-c"])
def test_top_when_it_is_left_then_screen_cursor_and_keys_are_as_before(window: Window, key: str, status: int) -> None:
    window.read_until("q quit")
    assert window.modes[LOCAL_MODES] & termios.NOFLSH, "Ctrl-C may discard what gives the screen back"

    window.press(key)
    window.read_until(GIVE_SCREEN_BACK)

    assert window.process.wait(DEADLINE_S) == status
    assert window.modes == window.before
    assert window.seen.endswith(GIVE_SCREEN_BACK)


def test_top_when_it_is_terminated_then_the_screen_is_given_back(window: Window) -> None:
    window.read_until("q quit")

    window.process.terminate()
    window.read_until(GIVE_SCREEN_BACK)

    assert window.process.wait(DEADLINE_S) == 130
    assert window.modes == window.before


def test_top_when_the_extra_is_missing_then_the_plain_text_names_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['textual'] = None\n")
    window = Window(daemon, PYTHONPATH=str(tmp_path))
    try:
        window.read_until("q quit")
        assert window.seen.count("pip install 'stoker[tui]'") == 1
    finally:
        window.close()
