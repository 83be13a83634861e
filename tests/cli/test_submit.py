"""`stoker submit`: the spec that is sent, and what a wrong command line prints.

A mistake exits 64, sends nothing, and names the command to type.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.cli import main
from stoker.cli.kit.parser import UNKNOWN_HERE

if TYPE_CHECKING:
    from tests.cli.conftest import Desk


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


def test_submit_when_run_at_has_passed_then_the_job_is_accepted_with_a_remark(desk: Desk, tmp_path: Path) -> None:
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


def test_submit_when_the_key_is_known_then_the_same_id_is_printed_with_a_remark(desk: Desk) -> None:
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
        (
            ["schedule", "add", "n", "@daily", "--secret", "A=-", "--", "true"],
            "unknown option --secret",
            UNKNOWN_HERE["--secret"],
        ),
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
