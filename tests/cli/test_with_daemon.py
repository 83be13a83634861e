"""Commands against a real daemon, through the whole life of a job. All tests share one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import work
from tests.support.facts import DEADLINE_S, line_with

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess


@pytest.mark.parametrize(
    ("arguments", "status", "out", "expected"),
    [
        (["sh", "-c", "echo hi; echo there >&2"], 0, "hi\nthere\n", ""),
        (["sh", "-c", "exit 7"], 7, "", "failed: exit code 7"),
        (["sh", "-c", "kill -9 $$"], 137, "", "failed: signal 9 (SIGKILL)"),
        (["--timeout", "200ms", "sleep", "60"], 124, "", "failed: stopped at its time limit (timeout)"),
        (["--success-exit-codes", "3", "sh", "-c", "exit 3"], 3, "", "succeeded: exit code 3"),
        (["--max-attempts", "2", "--base-delay", "1ms", "sh", "-c", "echo try; exit 1"], 1, "try\ntry\n", "code 1"),
    ],
)  # fmt: skip
def test_run_when_a_job_ends_in_any_way_then_log_and_code_are_passed_on(
    shared: DaemonProcess, arguments: list[str], status: int, out: str, expected: str
) -> None:
    done = shared.cli("run", *arguments)

    assert (done.returncode, done.stdout) == (status, out)
    assert expected in done.stderr
    assert bool(expected) == bool(done.stderr)


@pytest.mark.parametrize(("options", "noted"), [([], True), (["--stdin", "-"], False)])
def test_run_when_stdin_has_data_then_it_says_that_the_job_did_not_get_it(
    shared: DaemonProcess, tmp_path: Path, options: list[str], *, noted: bool
) -> None:
    command = [str(shared.programs / "stoker"), "--socket", str(shared.socket), "run", *options, "--", "cat"]
    (tmp_path / "data").write_text("data\n")
    ended = []
    with (tmp_path / "data").open() as file:
        ended.append(
            subprocess.run(command, env=shared.environ, stdin=file, capture_output=True, text=True, check=True)
        )
    ended.append(
        subprocess.run(command, env=shared.environ, input="data\n", capture_output=True, text=True, check=True)
    )

    assert ["did not get the data on stdin" in one.stderr for one in ended] == [noted] * 2
    assert [one.stdout for one in ended] == ["" if noted else "data\n"] * 2


def test_run_when_a_loop_has_read_a_part_of_stdin_then_it_says_nothing(shared: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("one\ntwo\n")
    stoker = f"{shared.programs / 'stoker'} --socket {shared.socket}"
    loop = f'while read -r word; do {stoker} run -- echo "$word"; done < list'
    ended = subprocess.run(
        ["bash", "-c", loop], env=shared.environ, cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert (ended.stdout, ended.stderr) == ("one\ntwo\n", "")


def newest(shared: DaemonProcess) -> str:
    """The id of the newest job."""
    with shared.client() as client:
        return str(work.newest(client))


def test_run_when_the_last_line_has_no_newline_then_the_remark_starts_a_new_line(
    shared: DaemonProcess,
) -> None:
    job = ["run", "--", "sh", "-c", "printf half; exit 3"]
    command = [str(shared.programs / "stoker"), "--socket", str(shared.socket), *job]

    one_place = subprocess.run(
        command,
        env=shared.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    first = newest(shared)
    two_places = subprocess.run(
        command, env=shared.environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )

    assert one_place.stdout == f"half\nstoker: job {first} failed: exit code 3\n"
    assert (two_places.stdout, two_places.stderr) == ("half", f"stoker: job {newest(shared)} failed: exit code 3\n")


def test_run_when_its_job_cannot_start_then_stderr_says_why_until_it_can(shared: DaemonProcess) -> None:
    shared.cli("queue", "pause", "default")
    command = [str(shared.programs / "stoker"), "--socket", str(shared.socket), "run", "--", "echo", "hi"]
    with subprocess.Popen(
        command, env=shared.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        lines = [line_with(running, running.stderr, words) for words in ("stoker:", "hint:")]
        shared.cli("queue", "resume", "default")
        out, err = running.communicate(timeout=DEADLINE_S)

    waits = f"stoker: job {newest(shared)} waits: queue 'default' is paused\n"
    assert lines == [waits, f"hint: stoker --socket {shared.socket} queue resume default\n"]
    assert (running.returncode, out, err) == (0, "hi\n", "")


def test_run_when_the_log_exceeds_its_bound_then_stdout_has_only_output_of_the_job(shared: DaemonProcess) -> None:
    lines = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    job = shared.cli("submit", "--max-log-bytes", "64K", "--", "sh", "-c", lines).stdout.strip()
    shared.cli("wait", job)

    logs = shared.cli("logs", job)

    assert "stoker: the output is incomplete: " in logs.stderr
    assert "stoker" not in logs.stdout
    assert logs.stdout.startswith("line 0\n")
    assert logs.stdout.endswith("line 19999\n")


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["id", "json"])
def test_submit_when_the_id_cannot_be_printed_then_the_error_names_the_stored_job(
    shared: DaemonProcess, json: list[str]
) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [shared.programs / "stoker", "--socket", shared.socket, "submit", *json, "--", "true"],
            stdout=full, stderr=subprocess.PIPE, env=shared.environ, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    with shared.client() as client:
        (job,) = client.list(limit=1)["jobs"]
    assert done.returncode == 74
    assert f"job {job['id']} is stored, but its id cannot be printed: No space left on device" in done.stderr


def test_commands_when_a_job_runs_and_ends_then_each_shows_its_part(shared: DaemonProcess) -> None:
    shared.cli("queue", "set", "films", "--class", "high", "--max-running", "1")
    shared.cli("queue", "pause", "films", "--reason", "later")
    job = shared.cli(
        "submit", "--queue", "films", "--name", "film", "--", "sh", "-c", "echo frame; exit 3"
    ).stdout.strip()

    why = shared.cli("why", job)
    listed = shared.cli("ls")
    shared.cli("queue", "resume", "films")
    waited = shared.cli("wait", job)
    logs = shared.cli("logs", job)
    shown = shared.cli("show", job)
    history = shared.cli("history", job)
    status = shared.cli("status")

    assert "paused" in why.stdout
    assert "film: sh -c 'echo frame; exit 3'\n" in listed.stdout
    assert waited.returncode == 3
    assert logs.stdout == "frame\n"
    assert "failed: exit code 3" in shown.stdout
    assert [word for word in ("queued", "running", "failed") if word not in history.stdout] == []
    assert "{" not in history.stdout
    assert "films" in status.stdout
    assert {done.stderr for done in (why, listed, logs, shown, history, status)} == {""}


def test_settings_when_they_are_changed_then_the_new_values_are_printed(shared: DaemonProcess) -> None:
    commands = [
        ("queue", "set", "bulk", "--class", "high", "--max-running", "1", "--default", "timeout=20m"),
        ("queue", "pause", "bulk"),
        ("queue", "resume", "bulk", "default"),
        ("resource", "set", "gpu=2"),
        ("queue", "pause", "bulk", "--json"),
        ("resource", "set", "gpu", "3", "--json"),
    ]

    *lines, queue, resource = [shared.cli(*command).stdout for command in commands]

    bulk = "class high, at most 1 running; defaults: timeout=20m"
    assert lines == [
        f"queue bulk open, {bulk}\n",
        f"queue bulk paused, {bulk}\n",
        f"queue bulk open, {bulk}\nqueue default open, class normal\n",
        "resource gpu: capacity 2, 0 used\n",
    ]
    assert json.loads(queue)["paused"] is True
    assert json.loads(resource) == {"name": "gpu", "capacity": 3, "used": 0, "holders": []}


def test_limits_when_one_is_exceeded_then_show_lists_all_and_names_the_likely_one(
    shared: DaemonProcess,
) -> None:
    limits = ["--limit", "cpu=1s", "--limit", "open_files=64", "--limit", "memory=1G", "--nice", "3"]
    ran = shared.cli("run", *limits, "--", "sh", "-c", "while :; do :; done", timeout_s=4 * DEADLINE_S)
    job = newest(shared)
    shown, why = shared.cli("show", job), shared.cli("why", job)
    listed = [
        json.loads(shared.cli("show", "--json", job).stdout)["attempts_list"],
        json.loads(shared.cli("history", "--json", job).stdout)["attempts"],
    ]

    failure = f"stoker: job {job} failed: signal 24 (SIGXCPU, CPU time limit exceeded)\n"
    assert (ran.returncode, ran.stderr) == (152, failure)
    assert "limits       memory=1.0G cpu=1s open-files=64\n" in shown.stdout
    assert "memory=1.0G:rlimit cpu=1s:rlimit open-files=64:rlimit" in shown.stdout
    assert "CPU time is the likely cause" in shown.stdout
    assert "CPU time is the likely cause" in why.stdout
    for (attempt,) in listed:
        assert attempt["limits"]["open_files"] == {"by": "rlimit", "value": 64, "wanted": 64}
        assert "likely" in attempt["suspicion"]


def test_cancel_when_a_job_runs_then_it_is_stopped_and_another_time_is_an_error(shared: DaemonProcess) -> None:
    job = shared.cli("submit", "sleep", "60").stdout.strip()
    shared.cli("cancel", job)
    waited = shared.cli("wait", job)
    again = shared.cli("cancel", job)

    assert (waited.returncode, waited.stderr) == (1, f"stoker: job {job} cancelled: by a person\n")
    assert again.returncode == 65


@pytest.mark.parametrize(
    "command",
    [["ls"], ["show", "JOB"], ["why", "JOB"], ["history", "JOB"], ["queue"], ["resource"], ["status"], ["wait", "JOB"]],
)
def test_reads_when_json_is_given_then_one_document_is_printed(shared: DaemonProcess, command: list[str]) -> None:
    shared.cli("run", "true")
    job = newest(shared)

    done = shared.cli(*(word.replace("JOB", job) for word in command), "--json")

    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict | list)


def test_watch_when_it_begins_at_the_first_change_then_every_change_has_its_line(shared: DaemonProcess) -> None:
    shared.cli("run", "true")
    with shared.client() as client:
        last_seq = client.status()["last_seq"]
    command = [
        sys.executable,
        "-m",
        "stoker.cli.main",
        "--socket",
        str(shared.socket),
        "watch",
        "--after",
        "0",
        "--json",
    ]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline())["seq"] for _ in range(last_seq)]
        watching.terminate()

    assert seen == list(range(1, last_seq + 1))


def test_watch_when_a_person_gave_a_reason_then_it_is_shown_live_and_later(shared: DaemonProcess) -> None:
    shared.cli("run", "true")
    with shared.client() as client:
        before = client.status()["last_seq"] - 1
        live = client.watch(before)
        next(live)  # from now on it follows
        shared.cli("queue", "set", "watched", "--class", "low")
        shared.cli("queue", "pause", "watched", "--reason", "make room")
        seen = next(change for change in live if change["cause"] == "paused")
        stored = next(change for change in client.watch(before) if change["cause"] == "paused")
    command = [sys.executable, "-m", "stoker.cli.main", "--socket", str(shared.socket), "watch", "--since", str(before)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        line = next(line for line in watching.stdout if "paused" in line)
        watching.terminate()

    assert (seen["note"], seen) == ("make room", stored)
    assert line.endswith(f"paused by uid {os.getuid()}: make room\n")


def test_show_when_logs_is_given_then_the_end_of_the_newest_log_is_shown(shared: DaemonProcess) -> None:
    shared.cli("run", "--", "sh", "-c", "seq 1 100; printf half")
    job = newest(shared)
    later = shared.cli("submit", "--run-at", "+1h", "true").stdout.strip()

    shown = shared.cli("show", job, "--logs")
    as_json = json.loads(shared.cli("show", job, "--logs", "--json").stdout)
    unstarted = shared.cli("show", later, "--logs")

    expected = "\n".join(map(str, range(82, 101))) + "\nhalf"
    assert shown.stdout.endswith(f"\n\nthe last lines of its log (stoker logs {job}):\n{expected}\n")
    assert as_json["log_tail"] == expected
    assert unstarted.stdout.endswith(f"the last lines of its log (stoker logs {later}): nothing\n")
    assert "log_tail" not in json.loads(shared.cli("show", job, "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "x" * 70_000], "stoker: args[0]: 70000 characters; the limit is 65536\n"),
        (["x" * 5_000], "stoker: COMMAND: 5000 characters; the limit is 4096\n"),
        (["--name", "x" * 300, "true"], f"stoker: --name {'x' * 80}…: 300 characters; the limit is 200\n"),
        (["--queue", "x" * 300, "true"], f"stoker: --queue {'x' * 80}…: not allowed: "),
    ],
)
def test_submit_when_a_text_is_too_long_then_the_message_is_short_and_has_the_limit(
    shared: DaemonProcess, arguments: list[str], message: str
) -> None:
    refused = shared.cli("submit", *arguments)

    assert refused.returncode == 65
    assert refused.stderr.startswith(message)
    assert max(map(len, refused.stderr.splitlines())) < 300


def test_submit_when_a_command_line_is_one_word_then_the_hint_names_a_shell(
    shared: DaemonProcess,
) -> None:
    refused = shared.cli("run", "--", "echo 'hi' there")

    assert refused.returncode == 65
    assert "hint: for a shell's command line: sh -c 'echo '\"'\"'hi'\"'\"' there'\n" in refused.stderr


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["cd", "/tmp"], "hint: a shell carries this out: sh -c 'cd …'\n"),
        (["MODE=fast", "make"], "hint: a variable is an option of submit and run: --env MODE=fast\n"),
        (["/etc/passwd"], "hint: chmod +x /etc/passwd\n"),
        (["./nope"], "hint: give its full path\n"),
        (["/nope"], "/nope does not exist\n"),
    ],
)
def test_submit_when_the_command_is_no_program_then_the_hint_says_what_to_type(
    shared: DaemonProcess, command: list[str], hint: str
) -> None:
    refused = shared.cli("submit", "--", *command)

    assert refused.returncode == 65
    assert refused.stderr.endswith(hint)


def test_top_when_there_is_no_terminal_then_it_prints_once(shared: DaemonProcess) -> None:
    job = shared.cli("submit", "sleep", "60").stdout.strip()

    done = shared.cli("top")
    shared.cli("cancel", job)

    assert (done.returncode, done.stderr) == (0, "")
    assert "sleep 60" in done.stdout


def test_submit_when_it_supersedes_a_job_then_stderr_and_show_name_both(shared: DaemonProcess) -> None:
    shared.cli("queue", "set", "newest", "--max-running", "0")
    submit = ["submit", "--queue", "newest", "--supersede-key", "site", "--debounce", "1h", "--", "true"]
    older = shared.cli(*submit).stdout.strip()

    done = shared.cli(*submit)

    newer = done.stdout.strip()
    assert done.stderr == f"stoker: job {newer} supersedes job {older}\n"
    shown = shared.cli("show", older).stdout
    assert f"superseded by  job {newer}" in shown
    assert "supersede key  site, debounced by 1h" in shown


def test_run_and_wait_when_the_job_was_superseded_then_they_name_the_newer_one(shared: DaemonProcess) -> None:
    shared.cli("queue", "set", "newer", "--max-running", "0")
    words = ["--queue", "newer", "--supersede-key", "page", "--", "true"]
    command = [str(shared.programs / "stoker"), "--socket", str(shared.socket), "run", *words]
    with subprocess.Popen(command, env=shared.environ, stderr=subprocess.PIPE, text=True) as running:
        line_with(running, running.stderr, "queue 'newer'")
        older = shared.cli("ls", "--queue", "newer", "--ids").stdout.strip()
        newer = shared.cli("submit", *words).stdout.strip()
        _, err = running.communicate(timeout=DEADLINE_S)

    done, as_json = shared.cli("wait", older), shared.cli("wait", older, "--json")

    sentence = f"stoker: job {older} superseded: job {newer} took its place\n"
    assert (running.returncode, err.endswith(sentence)) == (1, True)
    assert (done.returncode, done.stderr) == (1, sentence)
    assert [one["superseded_by"] for one in json.loads(as_json.stdout)] == [int(newer)]


def test_queue_set_when_the_floor_is_above_the_limit_then_the_typed_option_is_named(shared: DaemonProcess) -> None:
    shared.cli("queue", "set", "elastic", "--max-running", "4", "--min-running", "3")

    done = shared.cli("queue", "set", "elastic", "--max-running", "2")

    assert done.returncode == 65
    assert "--max-running 2: 2 is below --min-running, which is 3" in done.stderr
    assert "hint: set both in one command, or --min-running to none" in done.stderr


def test_hint_when_a_socket_was_typed_then_each_next_command_names_it(shared: DaemonProcess) -> None:
    shared.cli("queue", "set", "elsewhere", "--max-queued", "1")
    shared.cli("queue", "pause", "elsewhere")
    job = shared.cli("submit", "--queue", "elsewhere", "--", "true").stdout.strip()
    typed = ["--socket", str(shared.socket)]
    resume = f"stoker --socket {shared.socket} queue resume elsewhere"

    full = shared.cli(*typed, "submit", "--queue", "elsewhere", "--", "true").stderr
    as_json = shared.cli("submit", *typed, "--json", "--queue", "elsewhere", "--", "true").stderr
    why = shared.cli("why", *typed, job).stdout

    assert full.endswith(f"\nhint: {resume}\n")
    assert json.loads(as_json)["error"]["data"]["hint"] == resume
    assert why.endswith(f"next: {resume}\n")
    assert "next: stoker queue resume elsewhere\n" in shared.cli("why", job).stdout
