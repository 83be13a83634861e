"""`stoker hook` against a real daemon: listed, tested, shown, refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

SETTINGS = """
[hooks.mail]
on = ["job.failed", "job.held"]
queue = "release"
labels = { team = "web" }
command = "/bin/echo"
args = ["told"]
[hooks.gone]
on = ["disk.low"]
command = "/nonexistent/program"
"""


def test_hook_when_it_is_tested_then_its_run_is_listed_and_shown(shared: DaemonProcess) -> None:
    job = shared.cli("hook", "test", "mail", "--on", "job.held").stdout.strip()
    assert shared.cli("wait", job).returncode == 0

    gone, mail = shared.cli("hook").stdout.splitlines()[1:]
    shown = shared.cli("hook", "show", "mail").stdout
    (first, *_) = json.loads(shared.cli("hook", "ls", "--json").stdout)["hooks"]

    assert shared.cli("logs", job).stdout == "told\n"
    assert mail.split()[:7] == ["mail", "job.failed,job.held", "queue=release", "team=web", "job", job, "succeeded"]
    assert "command: /nonexistent/program does not exist" in gone
    assert "queue: there is no queue 'release'" in mail
    assert "unmatched  queue: there is no queue 'release'" in shown
    assert shown.splitlines()[-1].split()[:2] == [job, "test"]
    assert "hook         mail, for change (test)" in shared.cli("show", job).stdout
    assert (first["name"], first["on"], first["last"]) == ("gone", ["disk.low"], None)


def test_hook_when_it_is_wrong_then_the_next_step_is_named(shared: DaemonProcess) -> None:
    unknown = shared.cli("hook", "test", "chat")
    wrong = shared.cli("hook", "test", "mail", "--on", "job.lost")
    missing = shared.cli("hook", "test", "gone")

    assert (unknown.returncode, "there is no hook 'chat' (there are: gone, mail)" in unknown.stderr) == (65, True)
    assert "declare [hooks.chat] in the settings file" in unknown.stderr
    assert (wrong.returncode, "job.failed" in wrong.stderr) == (65, True)
    assert (missing.returncode, "/nonexistent/program does not exist" in missing.stderr) == (65, True)
