"""`stoker run`, `wait` and `logs`: the output and the exit status of a job.

The status of a single job is passed on.
"""

from __future__ import annotations

import json
import signal
import subprocess
from _thread import _count as count_threads
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.jobs import quoted
from tests.cli.conftest import DeskService, view
from tests.support.facts import DEADLINE_S, until
from tests.support.rpc import ServerThread

if TYPE_CHECKING:
    from tests.cli.conftest import Desk
    from tests.support.daemon import DaemonProcess


@pytest.mark.parametrize(
    ("end", "status", "expected"),
    [
        ({"state": "succeeded", "exit_code": 0}, 0, ""),
        ({"state": "failed", "exit_code": 7}, 7, "stoker: job 1 failed: exit code 7\n"),
        ({"state": "failed", "reason": "signal", "signal": 9}, 137, "stoker: job 1 failed: signal 9 (SIGKILL)\n"),
        ({"state": "failed", "reason": "timeout"}, 124, "stoker: job 1 failed: stopped at its time limit (timeout)\n"),
        ({"state": "held", "reason": "poison"}, 1, "stoker: job 1 held: too many attempts ended unseen\n"),
    ],
)
def test_run_when_the_job_has_ended_then_its_log_is_copied_and_its_code_passed_on(
    desk: Desk, end: dict[str, Any], status: int, expected: str
) -> None:
    desk.has(1, **{"state": "failed", "attempts": 1, **end})
    desk.service.log = desk.service.log[:1]

    ended = desk.stoker("run", "--", "true")

    assert (ended.status, ended.out) == (status, "hello\n")
    assert ended.err.startswith(expected)
    assert bool(ended.err) == bool(expected)


def test_run_when_the_job_is_tried_twice_then_both_logs_are_shown(desk: Desk) -> None:
    desk.has(1, "succeeded", attempts=2, exit_code=0)
    desk.service.log = desk.service.log[:1]

    assert desk.stoker("run", "true") == (0, "hello\nhello\n", "")


def test_run_when_interrupted_then_the_job_is_cancelled_and_its_end_printed(desk: Desk) -> None:
    desk.has(1, "running", attempts=1)
    running = desk.process("run", "--", "sleep", "60")
    until(lambda: desk.service.feeds_open)

    running.send_signal(signal.SIGINT)

    out, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130
    assert out.startswith(b"hello\n")
    assert b"cancelling job 1" in err
    assert b"job 1 cancelled" in err
    assert [(str(verb), sent.id) for verb, sent in desk.service.commands] == [("cancel", 1)]


def test_run_when_interrupted_twice_then_the_job_is_left_to_the_daemon(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.has(1, "running", attempts=1)
    monkeypatch.setattr(desk.service, "change", lambda _job, **_fields: None)
    running = desk.process("run", "--", "sleep", "60")
    until(lambda: desk.service.feeds_open)

    running.send_signal(signal.SIGINT)
    until(lambda: desk.service.commands)
    running.send_signal(signal.SIGINT)

    _, err = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130
    assert b"left before job 1 had stopped" in err
    assert b"stoker wait 1" in err
    assert b"goes on" not in err


def test_wait_when_there_is_one_job_then_its_code_is_passed_on(desk: Desk) -> None:
    desk.has(1, "failed", exit_code=7)

    assert desk.stoker("wait", "1") == (7, "", "stoker: job 1 failed: exit code 7\n")


def test_wait_when_there_are_several_then_one_failure_is_1(desk: Desk) -> None:
    desk.has(1, "failed", exit_code=7)
    desk.has(2, "succeeded", exit_code=0)

    desk.has(3, "skipped", reason="user", exit_code=1)

    assert desk.stoker("wait", "1", "2").status == 1
    assert desk.stoker("wait", "2", "2") == (0, "", "")
    assert desk.stoker("wait", "2", "3") == (0, "", "stoker: job 3 skipped: by a person\n")


def test_wait_when_nothing_ends_in_time_then_the_message_has_the_typed_time(daemon: DaemonProcess) -> None:
    daemon.cli("queue", "pause", "default")
    job = daemon.cli("submit", "true").stdout.strip()

    waited = daemon.cli("wait", job, "--timeout", "0.01s")

    message = f"stoker: job {job} has not ended within 0.01s\nhint: stoker why {job}\n"
    assert (waited.returncode, waited.stdout, waited.stderr) == (75, "", message)


def test_wait_when_the_daemon_is_restarted_then_it_goes_on_waiting(desk: Desk) -> None:
    desk.has(1, "running")
    waiting = desk.process("wait", "1")
    until(lambda: desk.service.waits_open)
    successor = ServerThread()
    successor.path = desk.server.path
    successor.service = DeskService()
    successor.service.views[1] = view(1, "failed", exit_code=7)

    desk.server.stop()
    with successor:
        _, err = waiting.communicate(timeout=DEADLINE_S)

    assert waiting.returncode == 7
    assert b"waiting for it to come back" in err


def test_logs_when_there_is_a_hole_then_a_marker_stands_for_it(desk: Desk) -> None:
    desk.has(1, "succeeded", exit_code=0)

    ended = desk.stoker("logs", "1", "--json")

    pieces = [json.loads(line) for line in ended.out.splitlines()]
    assert pieces == [
        {"attempt": 1, "offset": 0, "text": "hello\n"},
        {"attempt": 1, "offset": 6, "hole": 100},
        {"attempt": 1, "offset": 106, "text": "\\xffend\n"},
    ]


def test_logs_when_the_command_could_not_be_executed_then_a_remark_is_printed(
    desk: Desk,
) -> None:
    attempts = [{"ordinal": 1, "outcome": "spawn_error", "stopped": None, "error": "/x: No such file or directory"}]
    desk.has(1, "failed", reason="spawn_error", attempts_list=attempts)
    desk.service.log = []

    message = "attempt 1 wrote nothing: the command could not be executed: /x: No such file or directory"
    for options in ((), ("-f",), ("--attempt", "1")):
        assert desk.stoker("logs", "1", *options) == (0, "", f"stoker: {message}\n")
    as_json = desk.stoker("logs", "1", "--json")
    assert (as_json.out, json.loads(as_json.err)) == ("", {"note": message})


def test_logs_when_an_attempt_wrote_nothing_then_nothing_is_printed(desk: Desk) -> None:
    desk.has(1, "succeeded", attempts_list=[{"ordinal": 1, "outcome": "exit", "error": None}])
    desk.service.log = []

    assert desk.stoker("logs", "1") == (0, "", "")


def test_logs_when_the_job_has_not_started_then_a_remark_is_printed(desk: Desk) -> None:
    desk.has(1)

    desk.has(2, "cancelled", attempts=0)

    assert desk.stoker("logs", "1") == (0, "", "stoker: job 1 has not started\nhint: stoker why 1\n")
    assert desk.stoker("logs", "2") == (0, "", "stoker: job 2 never started\nhint: stoker why 2\n")


def test_show_when_a_job_printed_nothing_then_it_names_no_log(desk: Desk) -> None:
    desk.has(1, "succeeded", attempts_list=[], log=None)
    desk.has(2, "succeeded", attempts_list=[], log="/logs/0/2/1.log")
    desk.has(3)

    shown = [" ".join(desk.stoker("show", job).out.splitlines()[-1].split()) for job in ("1", "2", "3")]

    assert shown[:2] == ["log none: it printed nothing", "log /logs/0/2/1.log"]
    assert not shown[2].startswith("log")


@pytest.mark.parametrize("command", [["run", "true"], ["logs", "-f", "1"]], ids=lambda command: command[0])
def test_following_when_it_is_over_then_no_thread_waits_for_its_reader(desk: Desk, command: list[str]) -> None:
    """The thread would end the process once the reader of that stdout is gone, whatever the process does then."""
    desk.has(1, "succeeded", attempts=1, exit_code=0)
    threads = count_threads()

    assert desk.stoker(*command).status == 0

    until(lambda: count_threads() == threads)


@pytest.mark.parametrize("word", ["plain", "a b", "it's", """it's "so" `$HOME`""", "it's \\ !", "", "''"])
def test_quoted_when_a_shell_reads_it_then_it_is_the_same_word(word: str) -> None:
    shown = quoted(word)

    read = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, text=True, check=True).stdout
    assert read == word
    assert """'"'"'""" not in shown
