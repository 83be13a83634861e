"""The program as a whole: bugs, older daemons, closed streams, help, and commands that have no module of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.requests import RetryParams
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from tests.cli.conftest import Desk


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


def test_stoker_when_it_has_a_bug_then_one_line_reports_it_and_debug_shows_more(
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


def test_config_check_when_modules_are_wrong_then_each_is_named_and_none_runs(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("def broken(:\n")
    package = tmp_path / "whole_package"
    package.mkdir()
    for name in ("__init__", "handlers"):
        (package / f"{name}.py").write_text("raise AssertionError('a check runs no code of others')\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["broken_module", "broken_module.x", "no_module", "whole_package.none", "whole_package.handlers"]
    file = tmp_path / "stoker.toml"
    file.write_text(f"[daemon]\nhandlers = {json.dumps(names)}\n")

    refused = desk.stoker("config", "check", str(file))

    where = "here; is the PYTHONPATH that of the daemon?"
    assert refused.status == 78
    syntax, *others = (line.strip() for line in refused.err.splitlines()[1:-1])
    assert syntax.startswith("[daemon] handlers: broken_module: SyntaxError: ")
    assert others == [
        "[daemon] handlers: broken_module.x: broken_module is no package",
        f"[daemon] handlers: no_module: there is no module no_module {where}",
        f"[daemon] handlers: whole_package.none: there is no module whole_package.none {where}",
    ]


def test_config_check_when_json_is_given_then_it_names_the_file(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "stoker.toml"
    file.write_text("")

    done = desk.stoker("config", "check", "--json", str(file))

    assert (done.status, json.loads(done.out)) == (0, {"config": str(file), "ok": True})


def test_help_when_given_anywhere_then_it_wins_and_exits_0(desk: Desk) -> None:
    assert desk.stoker("queue", "--help").out.endswith("subcommands: ls, drain-to, pause, resume, set\n")
    assert desk.stoker("submit", "--timeout", "5s", "-h").out.startswith("usage: stoker submit")
    assert desk.stoker("--help").status == 0
    assert desk.stoker().status == 64
    assert desk.stoker("--version").out.startswith("stoker ")
