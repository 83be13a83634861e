"""Commands end to end: what is sent, what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli import main
from stoker.cli.jobs import quoted
from stoker.core.requests import RetryParams
from tests.cli.conftest import DeskService, view
from tests.support.facts import DEADLINE_S, until
from tests.support.rpc import ServerThread

if TYPE_CHECKING:
    from tests.cli.conftest import Desk
    from tests.support.daemon import DaemonProcess

HUGE_LINE_BYTES = 300_000_000


# --- submit -----------------------------------------------------------------------------------------------


def test_submit_when_a_command_is_stored_then_its_bare_id_is_all_that_is_printed(desk: Desk) -> None:
    assert desk.stoker("submit", "--", "sh", "-c", "true") == (0, "1\n", "")


def test_submit_when_options_are_given_then_they_are_fields_of_the_spec(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", "fast")
    options = (
        "--queue bulk --priority -5 --name film --label team=blue --env A=b=c --env MODE --working-dir /tmp/../usr "
        "--max-attempts 3 --base-delay 5s --backoff-factor 1.5 --max-delay 10m --success-exit-codes 0,3 "
        "--no-retry-exit-codes 64-66 --ttl 1d --timeout 20m --grace 500ms --warn-signal USR1 --warn-before 1m "
        "--checkpoint-exit-code 75 --notify --heartbeat 10s --unresponsive-warn 20s --unresponsive-kill 1m "
        "--after 7:any --after 8 --safe --survive --idempotency-key k --resource gpu=2 --resource disk "
        "--limit memory=64M --limit cpu=60s --nice 5 --max-log-bytes 1M"
    )

    desk.stoker("submit", *options.split(), "--", "sh", "-c", "true")

    (job,) = desk.service.jobs.values()
    assert str(job.command).endswith("/sh")
    assert str(job.command).startswith("/")
    assert (job.args, job.queue, job.priority, job.name) == (("-c", "true"), "bulk", -5, "film")
    assert (job.labels, job.env, job.working_dir) == ({"team": "blue"}, {"A": "b=c", "MODE": "fast"}, "/usr")
    assert (job.max_attempts, job.base_delay_ms, job.backoff_factor, job.max_delay_ms) == (3, 5_000, 1.5, 600_000)
    assert (job.success_exit_codes, job.no_retry_exit_codes) == ((0, 3), (64, 65, 66))
    assert (job.ttl_ms, job.timeout_ms, job.grace_ms) == (86_400_000, 1_200_000, 500)
    assert (job.warn_signal, job.warn_before_ms) == (10, 60_000)
    assert (job.checkpoint_exit_code, job.notify, job.heartbeat_ms) == (75, True, 10_000)
    assert (job.unresponsive_warn_ms, job.unresponsive_kill_ms) == (20_000, 60_000)
    assert isinstance(job.needs, tuple)
    assert [(need.job, str(need.on)) for need in job.needs if not isinstance(need, int)] == [(7, "any"), (8, "ok")]
    assert (str(job.on_orphan), job.survive, job.idempotency_key) == ("requeue", True, "k")
    assert (job.resources, job.nice, job.max_log_bytes) == ({"gpu": 2, "disk": 1}, 5, 1 << 20)
    assert job.limits.memory_bytes == 64 << 20  # type: ignore[union-attr]
    assert job.limits.cpu_seconds == 60  # type: ignore[union-attr]


def test_submit_when_no_option_is_given_then_only_the_callers_facts_are_sent(desk: Desk) -> None:
    desk.stoker("submit", "./here", "-x")

    (job,) = desk.service.jobs.values()
    sent = {key for key in job.__struct_fields__ if str(getattr(job, key)) != "UNSET"}
    assert sent == {"command", "args", "working_dir", "umask", "idempotency_key"}
    assert (job.command, job.args, job.working_dir) == ("./here", ("-x",), str(Path.cwd()))


def test_submit_when_the_command_is_on_the_callers_path_then_it_is_sent_absolute(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")

    desk.stoker("submit", "tool")
    desk.stoker("submit", "no-such-tool")
    desk.stoker("submit", "--env", "PATH=/nowhere", "tool")
    desk.stoker("submit", "--in-process", "tool")

    assert [job.command for job in desk.service.jobs.values()] == [str(tool), "no-such-tool", "tool", "tool"]


def test_submit_when_run_at_has_passed_then_the_job_is_taken_and_a_note_says_so(desk: Desk, tmp_path: Path) -> None:
    lines = tmp_path / "jobs"
    lines.write_text('{"command": "true"}\n{"command": "true", "run_at": 1700000000000}\n')

    one = desk.stoker("submit", "--run-at", "2020-01-01T00:00Z", "true")
    later = desk.stoker("submit", "--run-at", "+1h", "true")
    batch = desk.stoker("submit", "--batch", str(lines))

    assert (one.status, one.out) == (0, "1\n")
    assert one.err.startswith("stoker: the start time 20")
    assert one.err.endswith(" has passed: the job starts as soon as there is room\n")
    assert (later.err, batch.status) == ("", 0)
    assert batch.err.startswith("stoker: line 2: the start time ")


def test_submit_when_stdin_is_a_file_then_its_text_is_sent_and_a_large_one_refused(desk: Desk, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("grün\n")
    large = tmp_path / "large"
    large.write_bytes(b"x" * 65_537)

    stored = desk.stoker("submit", "--stdin", str(text), "cat")
    refused = desk.stoker("submit", "--stdin", str(large), "cat")

    assert (stored.status, desk.service.jobs[1].stdin) == (0, "grün\n")
    assert refused.status == 64
    assert "more than 64 KiB" in refused.err
    assert len(desk.service.jobs) == 1


def test_submit_when_the_key_is_known_then_the_same_id_comes_and_a_note_says_so(desk: Desk) -> None:
    first = desk.stoker("submit", "--idempotency-key", "k", "true")
    again = desk.stoker("submit", "--idempotency-key", "k", "--json", "true")

    assert first.out == "1\n"
    assert json.loads(again.out) == {"id": 1, "state": "queued", "existing": True}
    assert json.loads(again.err) == {"note": "job 1 was submitted before with this key (queued)"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit"], "missing the command"),
        (["submit", "--timeout", "30", "true"], "--timeout: 30 has no unit"),
        (["submit", "--env", "NO_SUCH_VARIABLE", "true"], "--env: NO_SUCH_VARIABLE is not set here"),
        (["submit", "--safe", "--on-orphan", "hold", "true"], "--safe and --on-orphan contradict"),
        (["submit", "--stdin", "/no/such/file", "true"], "--stdin: cannot read /no/such/file: No such file"),
        (["submit", "--batch", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["submit", "--batch", "-", "true"], "--batch and a command exclude each other"),
        (["submit", "--atomic", "true"], "--atomic needs --batch"),
        (["run"], "missing -- COMMAND"),
        (["sbmit"], "no command 'sbmit'"),
        (["queue", "puase"], "no command 'queue puase'"),
        (["show", "x"], "'x' is not a job id"),
        (["ls", "--state", "done"], "--state: 'done' is not one of"),
        (["workflow", "sbmit"], "no command 'workflow sbmit'"),
        (["submit", "--working-dir", "", "true"], "--working-dir: an empty path"),
        (["submit", "--env", "", "true"], "--env: an empty name"),
        (["submit", "--stdin", "", "true"], "--stdin: cannot read '': No such file"),
        (["submit", "--batch", ""], "cannot read '': No such file"),
        (["submit", "--after", "0", "true"], "--after: '0' is not a job id"),
        (["ls", "--socket", ""], "--socket: an empty path"),
        (["--socket=", "ls"], "--socket: an empty path"),
        (["ls", "--all", "--limit", "3"], "--all and --limit contradict each other"),
        (["ls", "--limit", "0"], "--limit: 0 is less than 1"),
        (["logs", "1", "--attempt", "0"], "--attempt: 0 is less than 1"),
        (["submit", "--priority", "9" * 20, "true"], "--priority: a number of 20 digits is out of range"),
    ],
)
def test_stoker_when_the_command_line_is_wrong_then_it_exits_64_and_nothing_is_sent(
    desk: Desk, arguments: list[str], message: str
) -> None:
    ended = desk.stoker(*arguments)

    assert ended.status == 64
    assert ended.out == ""
    assert ended.err.startswith(f"stoker: {message}")
    assert desk.service.jobs == {}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("stop 4", "stoker cancel ID"),
        ("delete 4", "stoker cancel ID; ended jobs: stoker purge --help"),
        ("list", "stoker ls"),
        ("audit", "the commands of audit are: verify"),
        ("queue --json ls", "stoker queue ls [OPTION…]"),
        ("config --debug check x", "stoker config check [OPTION…]"),
        ("submit --group g true", "did you mean --queue?"),
        ("logs 1 --tail 5", "did you mean --lines?"),
    ],
)
def test_stoker_when_a_habit_of_another_tool_is_typed_then_the_hint_names_ours(
    desk: Desk, line: str, hint: str
) -> None:
    ended = desk.stoker(*line.split())

    assert ended.status == 64
    assert hint in (ended.err if "--json" not in line else json.loads(ended.err)["error"]["data"]["hint"])


def test_hints_when_a_name_of_another_tool_is_known_then_the_command_exists() -> None:
    for hint in main.NAMES_ELSEWHERE.values():
        for line in hint.removesuffix(", or stoker COMMAND --help").split("; "):
            first, *_ = line.rpartition("stoker ")[2].split()
            assert first.startswith("--") or first in main._rows(), line
    assert not main.NAMES_ELSEWHERE.keys() & main._rows().keys()


def test_submit_when_the_daemon_refuses_then_message_hint_and_status_are_its_own(desk: Desk) -> None:
    ended = desk.stoker("submit", "--env", "LD_PRELOAD=x", "true")

    assert ended.status == 65
    assert ended.err.startswith("stoker: --env LD_PRELOAD=x: refused")
    assert "\nhint: " in ended.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["wait"], "missing ID…", "stoker wait --help"),
        (["workflow", "show"], "missing ID", "stoker workflow show --help"),
        (["ls", "--qqqqq"], "unknown option --qqqqq", "stoker ls --help"),
        (["--qqqqq"], "unknown option --qqqqq", "stoker --help"),
        (["submit", "--label", "x", "true"], "--label: 'x' is not KEY=VALUE", "stoker submit --help"),
        (["logs", "1", "2"], "unexpected argument '2'", "stoker logs --help"),
    ],
)
def test_usage_when_it_is_wrong_then_the_hint_is_the_command_that_explains_it(
    desk: Desk, arguments: list[str], message: str, hint: str
) -> None:
    assert desk.stoker(*arguments) == (64, "", f"stoker: {message}\nhint: {hint}\n")


def test_stoker_when_no_daemon_answers_then_it_exits_69_with_a_hint(desk: Desk, tmp_path: Path) -> None:
    ended = desk.stoker("--socket", str(tmp_path / "none"), "ls")

    assert ended.status == 69
    assert "stokerd" in ended.err


# --- batch ------------------------------------------------------------------------------------------------


def batch_file(folder: Path, *lines: Any) -> str:
    file = folder / "jobs.ndjson"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(file)


def test_batch_when_it_has_no_line_then_it_says_so(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("\n\n")

    assert desk.stoker("submit", "--batch", str(tmp_path / "jobs")) == (
        0,
        "",
        "stoker: the batch is empty: no job was stored\n",
    )


def test_batch_when_all_lines_are_good_then_each_id_is_printed_in_order(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "sh", "args": [str(n)]} for n in range(2_500)))

    ended = desk.stoker("submit", "--batch", file, "--queue", "bulk")

    assert ended == (0, "".join(f"{n}\n" for n in range(1, 2_501)), "")
    assert [job.args for job in desk.service.jobs.values()] == [(str(n),) for n in range(2_500)]
    assert {job.queue for job in desk.service.jobs.values()} == {"bulk"}
    assert {str(job.command)[-3:] for job in desk.service.jobs.values()} == {"/sh"}


def test_batch_when_lines_are_bad_then_each_is_numbered_and_the_others_are_stored(desk: Desk, tmp_path: Path) -> None:
    good = {"command": "true"}
    file = batch_file(tmp_path, good, "nope", "", "[1]", {"command": 1}, '{"command":"\\ud800"}', good)

    ended = desk.stoker("submit", "--batch", file)

    assert (ended.status, ended.out) == (65, "1\n2\n")
    errors = [line for line in ended.err.splitlines() if not line.startswith("hint: ")]
    assert [line.split(": ")[1] for line in errors] == ["line 2", "line 4", "line 6", "line 5"]
    assert "line 5: command: expected" in ended.err


def test_batch_when_many_lines_are_bad_then_a_few_and_their_number_are_shown(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *["[1]"] * 600, {"command": "true"})

    prose = desk.stoker("submit", "--batch", file)
    as_json = desk.stoker("submit", "--batch", file, "--json")

    lines = prose.err.splitlines()
    assert (prose.status, prose.out, len(lines)) == (65, "1\n", 12)
    assert [line for line in lines if line.startswith("hint: ")] == [lines[1]]
    assert lines[-1] == "stoker: 590 more lines refused, 600 in all; --json shows every error"
    assert as_json.err.count('"error"') == 600


def test_batch_when_atomic_and_one_line_is_bad_then_nothing_is_stored(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, {"command": "true"}, "nope")

    ended = desk.stoker("submit", "--atomic", "--batch", file)

    assert (ended.status, ended.out) == (65, "")
    assert "nothing was stored" in ended.err
    assert desk.service.jobs == {}


def test_submit_when_the_command_does_not_fit_a_frame_then_the_hint_is_about_one_job(desk: Desk) -> None:
    ended = desk.stoker("submit", "--", "echo", *(["x" * 1_000] * 1_500))

    assert ended.status == 65
    assert "the job takes 1.4M; at most 976.6K can be sent" in ended.err
    assert "into a script" in ended.err
    assert desk.service.jobs == {}


def test_batch_when_atomic_is_too_much_for_one_frame_then_it_is_refused(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "true", "stdin": "x" * 60_000} for _ in range(20)))

    ended = desk.stoker("submit", "--atomic", "--batch", file)

    assert ended.status == 64
    assert "at once" in ended.err
    assert desk.service.jobs == {}


def test_batch_when_a_line_is_huge_then_it_is_refused_by_number_in_bounded_memory(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "jobs.ndjson"
    with file.open("wb") as lines:
        lines.write(b'{"command":"true"}\n')
        lines.seek(HUGE_LINE_BYTES, os.SEEK_CUR)  # a hole reads as NUL, and takes no disk
        lines.write(b'\n{"command":"true"}\n')
    submitting = desk.process("submit", "--batch", str(file))
    resource.prlimit(submitting.pid, resource.RLIMIT_AS, (HUGE_LINE_BYTES, HUGE_LINE_BYTES))
    out, err = submitting.communicate(timeout=DEADLINE_S)

    assert (submitting.returncode, out) == (65, b"1\n2\n"), err
    assert err.startswith(b"stoker: line 2: longer than 4.0M; a job takes at most 976.6K\n")


def test_batch_when_options_are_large_then_each_request_fits_a_frame(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "true"} for _ in range(100)))
    text = tmp_path / "text"
    text.write_text("x" * 60_000)

    ended = desk.stoker("submit", "--stdin", str(text), "--batch", file)

    assert (ended.status, len(desk.service.jobs)) == (0, 100)


# --- run, wait, logs --------------------------------------------------------------------------------------


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
    assert b"job 1 goes on without this command" in err
    assert b"stoker logs -f 1" in err


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


def test_logs_when_the_command_could_not_be_executed_then_a_remark_says_so(
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


def test_logs_when_the_job_has_not_started_then_it_says_so(desk: Desk) -> None:
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


@pytest.mark.parametrize("word", ["plain", "a b", "it's", """it's "so" `$HOME`""", "it's \\ !", "", "''"])
def test_quoted_when_a_shell_reads_it_then_it_is_the_same_word(word: str) -> None:
    shown = quoted(word)

    read = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, text=True, check=True).stdout
    assert read == word
    assert """'"'"'""" not in shown


# --- looking ----------------------------------------------------------------------------------------------


def test_ls_when_there_are_all_sorts_then_what_runs_comes_first_and_what_ended_last(desk: Desk) -> None:
    for job, state in enumerate(("succeeded", "queued", "held", "running", "failed"), 1):
        desk.has(job, state)

    ids = desk.stoker("ls", "--ids")
    shown = desk.stoker("ls")

    assert ids == (0, "4\n3\n2\n5\n1\n", "")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["ID", "4", "3", "2", "5", "1"]


def test_ls_when_jobs_are_left_out_then_a_remark_says_so_unless_limit_was_given(desk: Desk) -> None:
    for job in range(1, 32):
        desk.has(job)

    cut = desk.stoker("ls", "--limit", "4", "--json")

    assert desk.stoker("ls").err == "stoker: only the first 30 jobs are shown; --all or --limit N shows more\n"
    assert [desk.stoker("ls", *words).err for words in (["--limit", "4"], ["--all"], ["--ids"])] == ["", "", ""]
    assert [job["id"] for job in json.loads(cut.out)["jobs"]] == [1, 2, 3, 4]
    assert json.loads(cut.out)["more"] is True


def test_ls_when_ids_is_given_then_all_are_printed_unless_a_limit_is_given(desk: Desk) -> None:
    for job in range(1, 1_203):
        desk.has(job)

    ids = desk.stoker("ls", "--ids").out.split()
    some = desk.stoker("ls", "--ids", "--limit", "1100").out.split()

    assert ids == [str(job) for job in range(1, 1_203)]
    assert some == ids[:1_100]


def test_ls_when_many_jobs_are_held_then_newer_ones_are_shown_with_a_remark(desk: Desk) -> None:
    for job in range(1, 61):
        desk.has(job, "held" if job <= 40 else "succeeded")

    shown = desk.stoker("ls")
    all_held = desk.stoker("ls", "--state", "held", "--all").out.splitlines()

    states = [line.split()[1] for line in shown.out.splitlines()[1:]]
    assert (states.count("held"), states.count("succeeded")) == (10, 20)
    assert shown.err == "stoker: not all held jobs are shown: stoker ls --state held\n"
    assert len(all_held) == 41


def test_ls_when_held_jobs_leave_no_room_unused_then_more_of_them_are_shown(desk: Desk) -> None:
    for job in range(1, 26):
        desk.has(job, "held" if job <= 20 else "queued")

    shown = desk.stoker("ls")

    assert len(shown.out.splitlines()) == 26
    assert shown.err == ""


def test_ls_when_a_job_reports_then_its_words_stand_before_the_command(desk: Desk) -> None:
    desk.has(1, "running", started_at=0, progress=40, status_text="encoding", command="/bin/echo", args=["x" * 200])
    desk.has(2, "running", started_at=0)

    lines = desk.stoker("ls").out.splitlines()
    desk.has(1, "running", started_at=0)

    assert lines[0].split()[-2:] == ["SAYS", "JOB"]
    assert lines[2].index("40%, encoding") < lines[2].index("echo xxx")
    assert "SAYS" not in desk.stoker("ls").out


def test_show_when_names_have_escapes_then_they_are_spelled_out(desk: Desk) -> None:
    desk.has(1, "failed", name="\x1b[2Jevil", exit_code=7, command="/bin/sh", args=["-c", "exit 7"])

    ended = desk.stoker("show", "1")

    assert "^[[2Jevil" in ended.out
    assert "\x1b" not in ended.out
    assert "failed: exit code 7" in ended.out
    assert "/bin/sh -c 'exit 7'" in ended.out


def test_ls_when_attempts_were_not_charged_then_only_their_number_is_shown(desk: Desk) -> None:
    desk.has(1, "failed", attempts=2, max_attempts=3)
    desk.has(2, "failed", attempts=3, max_attempts=1)

    tries = [line.split()[5] for line in desk.stoker("ls").out.splitlines()]

    assert tries == ["TRY", "3", "2/3"]


@pytest.mark.parametrize("option", ["--queue", "--name", "--label"])
def test_ls_when_a_filter_is_empty_then_it_is_refused_and_not_left_out(desk: Desk, option: str) -> None:
    desk.has(1)

    ended = desk.stoker("ls", option, "", "--ids")

    assert (ended.status, ended.out) == (65, "")
    assert ended.err.startswith(f"stoker: {option} '': ")


def test_queue_when_it_has_defaults_then_they_are_shown_as_they_are_typed(daemon: DaemonProcess) -> None:
    plain = daemon.cli("queue")
    defaults = ("timeout=20m", "survive=yes", "success-exit-codes=0,3", "backoff-factor=1.5", "on-orphan=hold")
    daemon.cli("queue", "set", "bulk", *(word for default in defaults for word in ("--default", default)))

    shown = daemon.cli("queue")
    torn = daemon.cli("queue", "set", "bulk", "--default", "base-delay=5h")
    unknown = daemon.cli("queue", "set", "bulk", "--default", "queue=x")

    assert "defaults of" not in plain.stdout
    assert shown.stdout.splitlines()[-1].split()[:3] == ["defaults", "of", "bulk"]
    assert set(shown.stdout.splitlines()[-1].split()[3:]) == set(defaults)
    assert torn.stderr.startswith("stoker: --default base-delay=5h: 5h is more than max-delay, 1h\n")
    assert "known: priority, max-attempts, base-delay" in unknown.stderr


def test_queue_when_it_does_not_exist_then_its_name_needs_no_field(daemon: DaemonProcess) -> None:
    paused = daemon.cli("queue", "pause", "nowhere")

    assert paused.stderr.startswith("stoker: there is no queue 'nowhere' (there are: default)\n")


def test_queue_when_it_does_not_exist_then_the_hint_is_what_helps(daemon: DaemonProcess) -> None:
    hints = {
        "ls --queue nowhere": "stoker queue ls",
        "cancel --queue nowhere --yes": "stoker queue ls",
        "purge --before 1d --queue nowhere --yes": "stoker queue ls",
        "queue pause defualt": "did you mean default?",
        "submit --queue defaul -- true": "did you mean default?",
        "submit --queue nowhere -- true": "stoker queue set nowhere",
    }

    refused = {line: daemon.cli(*line.split()) for line in hints}

    assert {line: done.stderr.splitlines()[-1] for line, done in refused.items()} == {
        line: f"hint: {hint}" for line, hint in hints.items()
    }
    assert {done.returncode for done in refused.values()} == {65}


def test_show_when_there_is_no_such_job_then_it_exits_65(desk: Desk) -> None:
    assert desk.stoker("show", "9") == (65, "", "stoker: there is no job 9\nhint: stoker ls\n")


def test_why_when_a_job_waits_then_one_sentence_is_printed(desk: Desk) -> None:
    assert desk.stoker("why", "1") == (0, "no room\n", "")


# --- stepping in ------------------------------------------------------------------------------------------


def test_cancel_when_one_of_several_is_unknown_then_the_others_are_cancelled(desk: Desk) -> None:
    desk.has(1, "running")
    desk.has(3, "running")

    ended = desk.stoker("cancel", "1", "2", "3", "--reason", "wrong input")

    assert (ended.status, ended.out) == (65, "job 1 cancelled\njob 3 cancelled\n")
    assert "stoker: there is no job 2" in ended.err
    assert {sent.reason for _, sent in desk.service.commands} == {"wrong input"}


def test_retry_when_options_are_given_then_they_are_sent(desk: Desk) -> None:
    desk.has(1, "failed")

    desk.stoker("retry", "1", "--timeout", "20m", "--deadline", "2026-12-01T08:00Z")
    refused = desk.stoker("retry", "1", "--timeout", "0s")

    ((_, sent),) = desk.service.commands
    assert isinstance(sent, RetryParams)
    assert (sent.timeout_ms, sent.deadline) == (1_200_000, 1_796_112_000_000)
    assert (refused.status, refused.err.partition(",")[0]) == (65, "stoker: --timeout 0s: 0ms is less than 1ms")


# --- the program ------------------------------------------------------------------------------------------


def test_stoker_when_it_has_a_bug_then_one_line_says_so_and_debug_shows_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cli.jobs.Overview", None)

    plain = desk.stoker("ls")
    debug = desk.stoker("ls", "--debug")

    assert plain.status == debug.status == 70
    assert "Traceback" not in plain.err
    assert plain.err.startswith("stoker: internal error, a bug in stoker: TypeError: ")
    assert debug.err.startswith("Traceback")


def test_stoker_when_the_daemon_is_older_then_the_hint_names_a_restart(desk: Desk) -> None:
    ended = desk.stoker("status")  # the answer of this server lacks most fields

    assert ended.status == 70
    assert "hint: a stokerd that runs since before an upgrade needs a restart; otherwise report it" in ended.err


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_stoker_when_a_standard_stream_is_closed_then_it_works_and_writes_nowhere(desk: Desk, closed: str) -> None:
    stoker = f"{sys.executable} -m stoker.cli.main --socket {desk.socket}"
    desk.has(1)

    results = [
        subprocess.run(["sh", "-c", f"{stoker} {arguments} {closed}"], capture_output=True, text=True, check=False)
        for arguments in ("ls", "show 9")
    ]

    assert [done.returncode for done in results] == [0, 65]
    assert bool(results[0].stdout) == ("1>" not in closed)
    assert results[1].stdout == ""
    assert [bool(done.stderr) for done in results] == [False, "2>" not in closed]


def test_stoker_when_the_reader_of_its_output_left_then_it_ends_quietly(desk: Desk) -> None:
    for job in range(1, 900):
        desk.has(job)
    listing = desk.process("ls", "--all")
    assert listing.stdout is not None
    listing.stdout.close()
    listing.stdout = None

    _, err = listing.communicate(timeout=DEADLINE_S)

    assert (listing.returncode, err) == (141, b"")


@pytest.mark.parametrize("command", [("watch",), ("logs", "-f", "1")])
def test_stoker_when_the_reader_left_a_silent_stream_then_it_ends_without_output(
    desk: Desk, command: tuple[str, ...]
) -> None:
    desk.has(1, "running", attempts=1)
    desk.service.log = []
    following = desk.process(*command)
    assert following.stdout is not None
    following.stdout.close()
    following.stdout = None

    _, err = following.communicate(timeout=DEADLINE_S)

    assert (following.returncode, err) == (141, b"")


def test_config_check_when_the_file_name_is_empty_then_no_other_file_is_used(desk: Desk) -> None:
    for arguments in (("",), ("--config", "")):
        assert desk.stoker("config", "check", *arguments).status == 78


def test_config_check_when_there_are_two_mistakes_then_each_is_printed_once(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text('[daemon]\nmax_running = "a"\n[nowhere]\n')

    refused = desk.stoker("config", "check", str(file))

    assert refused.status == 78
    first, *mistakes, hint = refused.err.splitlines()
    assert first == f"stoker: {file}: 2 mistakes"
    assert mistakes == [
        "  [daemon] max_running = 'a': expected a whole number from 0 to 100_000",
        "  [nowhere]: unknown section",
    ]
    assert hint.startswith("hint: stoker config show --config /dev/null")
    assert desk.stoker("config", "show", "--config", "/dev/null").status == 0


def test_config_check_when_json_is_given_then_it_names_the_file(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text("")

    done = desk.stoker("config", "check", "--json", str(file))

    assert (done.status, json.loads(done.out)) == (0, {"config": str(file), "ok": True})


def test_help_when_given_anywhere_then_it_wins_and_exits_0(desk: Desk) -> None:
    assert desk.stoker("queue", "--help").out.endswith("subcommands: ls, pause, resume, set\n")
    assert desk.stoker("submit", "--timeout", "5s", "-h").out.startswith("usage: stoker submit")
    assert desk.stoker("--help").status == 0
    assert desk.stoker().status == 64
    assert desk.stoker("--version").out.startswith("stoker ")
