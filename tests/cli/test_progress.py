"""Progress of what takes long: the line itself, and where it is shown."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from stoker.cli.kit import progress, render
from tests.support.daemon import BIN
from tests.support.journals import journaled
from tests.support.work import shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

LINES = [
    (("checks", 0, 0, 9.0), "checks"),
    (("removed", 7, 0, 9.0), "removed 7"),
    (("steps", 0, 4, 9.0), "[····················]   0% steps 0 of 4"),
    (("steps", 1, 4, 1.0), "[#####···············]  25% steps 1 of 4"),
    (("steps", 1, 4, 3.0), "[#####···············]  25% steps 1 of 4, 9s left"),
    (("steps", 4, 4, 3.0), "[####################] 100% steps 4 of 4"),
    (("steps", 9, 4, 3.0), "[####################] 100% steps 9 of 4"),
]


@pytest.mark.parametrize(("given", "expected"), LINES, ids=[expected for _, expected in LINES])
def test_line_when_work_goes_on_then_it_has_bar_count_and_estimate(
    given: tuple[str, float, float, float], expected: str
) -> None:
    assert progress.line(*given) == expected


def test_line_when_bytes_are_counted_then_they_are_written_as_sizes() -> None:
    assert progress.line("copied", 1 << 20, 4 << 20, 0.0, render.size).endswith("copied 1.0M of 4.0M")


def on_a_terminal(daemon: DaemonProcess, *arguments: str) -> tuple[int, str]:
    """The exit status of a command whose stderr is a terminal, and what was printed there."""
    master, slave = pty.openpty()
    command: list[str | os.PathLike[str]] = [BIN / "stoker", "--socket", daemon.socket, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=daemon.client_environ) as process:
        os.close(slave)
        printed = b""
        while piece := _read(master):
            printed += piece
    os.close(master)
    return process.returncode, printed.decode()


def _read(terminal: int) -> bytes:
    """Nothing once the program at the other end has ended."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


COMMANDS = [("doctor",), ("audit", "verify"), ("backup",)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_progress_when_stderr_is_a_terminal_then_it_is_drawn_and_cleared(
    shared: DaemonProcess, command: tuple[str, ...]
) -> None:
    with shared.client() as client:
        submit(client, shell("exit 0"))

    status, printed = on_a_terminal(shared, *command)
    _, quiet = on_a_terminal(shared, *command, "--quiet")

    assert status in (0, 1)
    assert printed.count(render.CLEAR_LINE) >= 2
    assert printed.endswith(render.CLEAR_LINE) or "\n" in printed.rpartition(render.CLEAR_LINE)[2]
    assert render.CLEAR_LINE not in quiet


def test_progress_when_many_are_imported_then_a_bar_counts_them(shared: DaemonProcess, tmp_path: Path) -> None:
    crontab, batch = tmp_path / "crontab.txt", tmp_path / "jobs.ndjson"
    crontab.write_text("0 3 * * * true\n5 3 * * * true\n")
    batch.write_text('{"command": "true"}\n' * 3)
    imports = ("schedule", "import", "--form", "user", "--replace", str(crontab)), ("submit", "--batch", str(batch))

    for command, words in zip(imports, ("imported 2 of 2", "3 stored, 0 refused, read 60B of 60B"), strict=True):
        status, printed = on_a_terminal(shared, *command)
        _, quiet = on_a_terminal(shared, *command, "--quiet")

        assert status == 0
        assert f"100% {words}" in printed
        assert printed.endswith(render.CLEAR_LINE)
        assert render.CLEAR_LINE not in quiet


@pytest.mark.parametrize(
    ("source", "words"),
    [(("--from-backup", "latest"), "100% copied"), (("--from-journal",), "replayed")],
    ids=["backup", "journal"],
)
def test_progress_when_a_state_is_restored_then_a_bar_counts_bytes(
    daemon: DaemonProcess, source: tuple[str, ...], words: str
) -> None:
    with daemon.client() as client:
        submit(client, shell("exit 0"))
    assert daemon.cli("backup").returncode == 0
    journaled(daemon)
    daemon.kill9()
    command = ("restore", *source, "--state-dir", str(daemon.state_dir), "--yes")

    status, printed = on_a_terminal(daemon, *command)
    _, quiet = on_a_terminal(daemon, *command, "--quiet")

    assert status == 0
    assert words in printed
    assert render.CLEAR_LINE not in quiet


def test_progress_when_stderr_is_no_terminal_then_it_has_no_bar(shared: DaemonProcess) -> None:
    assert render.CLEAR_LINE not in shared.cli("doctor").stderr
