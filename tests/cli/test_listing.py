"""`stoker ls`, `show`, `queue` and `why`: the answers of a daemon as a person reads them.

A remark says what is left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Desk
    from tests.support.daemon import DaemonProcess


def test_ls_when_jobs_are_in_all_states_then_running_come_first_and_ended_last(desk: Desk) -> None:
    for job, state in enumerate(("succeeded", "queued", "held", "running", "failed"), 1):
        desk.has(job, state)

    ids = desk.stoker("ls", "--ids")
    shown = desk.stoker("ls")

    assert ids == (0, "4\n3\n2\n5\n1\n", "")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["ID", "4", "3", "2", "5", "1"]


def test_ls_when_jobs_are_left_out_then_a_remark_is_printed_unless_limit_is_given(desk: Desk) -> None:
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


@pytest.mark.parametrize("option", ["--queue", "--name"])
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


def test_queue_when_it_does_not_exist_then_the_hint_names_the_command(daemon: DaemonProcess) -> None:
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


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--since", "1h", "--until", "2h"), "--until 2h: "),
        (("--ended-since", "1h", "--ended-until", "2h"), "--ended-until 2h: "),
        (("--label", "a"), "--label: 'a' is not KEY=VALUE\n"),
        (("--label", ""), "--label: '' is not KEY=VALUE\n"),
        (("--workflow", "x/99"), "--workflow: 'x/99' names no step\n"),
        (("--workflow", "x99"), "--workflow: 'x99' is not the id of a workflow\n"),
    ],
)
def test_filter_when_it_is_wrong_then_the_option_is_named_as_it_was_typed(
    desk: Desk, options: tuple[str, ...], problem: str
) -> None:
    refused = desk.stoker("ls", *options)

    assert (refused.status in (64, 65), refused.out) == (True, "")
    assert refused.err.startswith(f"stoker: {problem}")
    assert "created_" not in refused.err
