"""The lines that a person sees who waits for a workflow, and where and how long they stand."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from stoker.cli.workflow_progress import WorkflowProgress, WorkflowStandings
from tests.cli.test_step_groups import a_step, fan_out
from tests.support import flows, work
from tests.support.daemon import BIN
from tests.support.facts import DEADLINE_S
from tests.support.flow_files import sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from stoker.core.views import WorkflowDetails
    from stoker.core.wire_types import ChangeShape
    from tests.support.daemon import DaemonProcess


def standings(*states: str, **fields: Any) -> WorkflowStandings:
    """Of a workflow of a list and a group, whose jobs are 1, 2 and so on."""
    steps = [a_step("list", "succeeded"), *fan_out("work", *states)]
    numbered = [{**step, "job": job} for job, step in enumerate(steps, 1)]
    workflow = {"id": 7, "name": "build", "created_at": 0, "earlier_runs": None, "steps": numbered, **fields}
    return WorkflowStandings(cast("WorkflowDetails", workflow))


def change(job: int, to: str, at: int = 0) -> ChangeShape:
    return cast("ChangeShape", {"kind": "job", "job": job, "to": to, "at": at})


def test_lines_when_steps_run_and_fail_then_they_are_named_with_their_times() -> None:
    shown = standings("running", "failed", "waiting", earlier_runs={"count": 1, "median_ms": 70_000})
    shown.take(change(4, "running", at=2_000))
    shown.take(change(9, "running"))  # of no step that was there

    assert shown.lines(10_000) == [
        "[##########··········]  50% build: 2 of 4 steps ended; about 1m00s left: the last run of this name took 1m10s",
        "  running: work[0]",
        "  running: work[2] 8s",
        "  failed: work[1]",
    ]
    assert shown.summary() == "workflow 7: 2 of 4 steps ended, 2 running, 1 failed"


def test_lines_when_very_many_steps_run_or_failed_then_the_first_are_named() -> None:
    lines = standings(*["running"] * 900, *["failed"] * 90).lines(0)

    assert len(lines) == 8
    assert lines[6] == "  running: 895 more"
    assert lines[7] == "  failed: work[900] work[901] work[902] work[903] … 86 more"


def test_plain_line_when_there_is_no_terminal_then_it_comes_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for given in ({}, {"quiet": True}):
        clock = iter([0.0, 1.0, 59.0, 61.0, 62.0, 119.0, 122.0])
        monkeypatch.setattr(time, "monotonic", lambda clock=clock: next(clock))
        with WorkflowProgress(given) as progress:
            for _ in range(6):
                progress.show(standings("running"))

    assert capfd.readouterr().err == "stoker: workflow 7: 1 of 2 steps ended, 1 running\n" * 2


class Terminal:
    """The terminal that a command has; `seen` is what it printed."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self._text = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        self.seen = ""

    def until(self, wanted: Callable[[str], object]) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while not wanted(self.seen):
            assert time.monotonic() < give_up, self.seen
            if select.select([self._master], [], [], 1)[0]:
                try:
                    self.seen += self._text.decode(os.read(self._master, 65_536))
                except OSError:  # the command has ended
                    break
        assert wanted(self.seen), self.seen


@contextmanager
def on_a_terminal(daemon: DaemonProcess, *arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    command = [str(BIN / "stoker"), *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=daemon.client_environ) as process:
        os.close(slave)
        try:
            yield Terminal(master, process)
        finally:
            process.kill()
            os.close(master)


def test_wait_when_the_daemon_restarts_then_it_is_drawn_again_until_ctrl_c(
    daemon: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    kept = {"command": command, "args": args, "survive": True}
    flow = sent(daemon, tmp_path, {"a": kept, "b": {**flows.step("true"), "needs": ["a"]}})

    with on_a_terminal(daemon, "workflow", "wait", flow) as terminal:
        terminal.until(lambda seen: "running: a" in seen)
        with daemon.client() as client:
            work.running(client, flows.job_of(client, int(flow), "a"))
        daemon.kill_and_start()
        terminal.until(lambda seen: "waiting for it to come back" in seen and seen.count("0 of 2 steps") > 1)
        terminal.until(lambda seen: "0 of 2 steps" in seen.rpartition("come back")[2])
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(lambda seen: f"stoker workflow cancel {flow} ends it" in seen)
        status = terminal.process.wait(DEADLINE_S)
    gate.open()

    assert status == 130
    assert re.search(rf"\x1b\[J\r?stoker: workflow {flow} goes on\r\n", terminal.seen), terminal.seen


def test_wait_when_it_is_quiet_or_ends_then_no_drawing_is_left(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"a": flows.step("true")})

    with on_a_terminal(shared, "workflow", "wait", flow, "--quiet") as quiet:
        status = quiet.process.wait(DEADLINE_S)

    assert status == 0
    assert quiet.seen == ""
