"""`stoker schedule` against a real daemon: typed, shown, imported, declared in the settings file."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until

if TYPE_CHECKING:
    from pathlib import Path

USER = pwd.getpwuid(os.geteuid()).pw_name
CRONTAB = f"""\
MAILTO=ops@example.org
CRON_TZ=Asia/Tokyo
17 *\t* * *\t{USER}\tcd / && run-parts --report /etc/cron.hourly
0 3 * * 1 www-data tidy
@reboot {USER} begin
0 4 * * * {USER} cat%100\\% of it
"""
DECLARED = """
[schedules.tick]
timing = "every 1s"
[schedules.tick.job]
command = "/bin/true"
[schedules.flowing]
timing = "@yearly"
zone = "Europe/Berlin"
flow = { name = "f", steps = { a = { command = "/bin/true" }, b = { command = "/bin/true" } } }
target = ["b"]
reuse = "latest"
"""


def stoker(daemon: DaemonProcess, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return daemon.cli("schedule", *words, input=stdin)


def test_schedule_when_it_is_added_then_it_is_shown_run_paused_and_removed(shared: DaemonProcess) -> None:
    added = stoker(shared, "add", "tour", "30 2 * * *", "--zone", "Asia/Tokyo", "--name", "n", "--", "echo", "-x")
    assert added.stdout.startswith("schedule tour: next run ")

    listed = stoker(shared, "ls").stdout.splitlines()
    assert next(line for line in listed if line.startswith("tour")).split()[:4] == ["tour", "on", "30", "2"]
    assert len(stoker(shared, "next", "tour", "--count", "3").stdout.splitlines()) == 3

    job = stoker(shared, "run", "tour").stdout.strip()
    until(lambda: "succeeded" in stoker(shared, "show", "tour").stdout)
    assert shared.cli("logs", job).stdout == "-x\n"
    assert "schedule     tour, for " in shared.cli("show", job).stdout
    assert "“schedule tour”" in shared.cli("history", job).stdout

    assert stoker(shared, "pause", "tour", "--reason", "why").stdout == "schedule tour: paused\n"
    assert "paused" in stoker(shared, "show", "tour").stdout
    assert stoker(shared, "resume", "tour").stdout.startswith("schedule tour: next run ")
    assert stoker(shared, "rm", "tour").stdout == "schedule tour: removed\n"
    assert stoker(shared, "show", "tour").returncode == 65


def test_schedule_when_it_submits_a_flow_then_a_mistake_names_its_place(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = tmp_path / "flow.toml"
    flow.write_text('name = "f"\n[steps.a]\ncommand = "true"\nneeds = ["b"]\n')
    wrong = stoker(shared, "add", "flow", "@daily", "--flow", str(flow))
    assert (wrong.returncode, "steps.a" in wrong.stderr) == (65, True)

    flow.write_text('name = "f"\n[steps.a]\ncommand = "true"\n')
    assert stoker(shared, "add", "flow", "@daily", "--flow", str(flow)).returncode == 0
    assert "workflow f: a" in stoker(shared, "show", "flow").stdout
    assert stoker(shared, "run", "flow").stdout.strip().isdigit()


def test_schedule_when_it_submits_a_part_then_ls_and_show_name_its_options(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = tmp_path / "flow.toml"
    flow.write_text('name = "f"\n[steps.a]\ncommand = "true"\n[steps.b]\ncommand = "true"\nneeds = ["a"]\n')
    part = ("--target", "b", "--from", "b", "--reuse", "latest")
    added = stoker(shared, "add", "part", "@daily", "--flow", str(flow), *part)
    assert added.returncode == 0, added.stderr

    words = " ".join(part)
    assert words in stoker(shared, "show", "part").stdout
    assert f"f {words}" in stoker(shared, "ls").stdout
    shown = json.loads(stoker(shared, "show", "part", "--json").stdout)
    assert shown["part"] == {"target": ["b"], "from": ["b"], "reuse": "latest"}
    wrong = stoker(shared, "add", "wrong", "@daily", "--flow", str(flow), "--target", "bb")
    assert (wrong.returncode, "there is no step 'bb'" in wrong.stderr) == (65, True), wrong.stderr
    assert stoker(shared, "show", "wrong").returncode == 65


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["add", "x", "@daily"], 64, "a command or --flow"),
        (["add", "x", "0 0 31 2 *", "--", "true"], 65, "never comes"),
        (["add", "x", "@daily", "--zone", "Nowhere", "--", "true"], 65, "no time zone 'Nowhere'"),
        (["add", "x", "@daily", "--overlap", "never", "--", "true"], 64, "--overlap"),
        (["add", "x", "@daily", "--target", "a", "--", "true"], 65, "--target"),
        (["add", "x", "@daily", "--reuse", "none", "--", "true"], 64, "--reuse"),
        (["add", "a b", "@daily", "--", "true"], 65, 'NAME: not allowed: "a b"'),
        (["add", "x", "@daily", "--timeout", "0s", "--", "true"], 65, "stoker: --timeout 0s: 0ms is less than 1ms"),
        (["add", "x", "@daily", "--queue", "nope", "--", "true"], 65, "stoker: --queue nope: there is no queue"),
        (["show", "x"], 65, "there is no schedule 'x'"),
        (["run", "x"], 65, "there is no schedule 'x'"),
        (["import", "/nowhere"], 64, "cannot read /nowhere"),
    ],
)
def test_schedule_when_it_is_typed_wrongly_then_the_error_says_why(
    shared: DaemonProcess, words: list[str], status: int, expected: str
) -> None:
    done = stoker(shared, *words)
    assert (done.returncode, expected in done.stderr) == (status, True), done.stderr


def test_import_when_a_crontab_has_all_kinds_of_lines_then_the_others_are_named(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    file = tmp_path / "tab"
    file.write_text(CRONTAB)

    looked = stoker(shared, "import", "--form", "system", "--dry-run", str(file))
    assert "tab-3" not in stoker(shared, "ls").stdout
    done = stoker(shared, "import", "--form", "system", str(file))

    for shown in (looked, done):
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == ["tab-3", "tab-6"]
        assert ":1: MAILTO is not mapped" in shown.stderr
        assert ":4: not imported: it is for the user www-data" in shown.stderr
        assert ":5: @reboot is not mapped" in shown.stderr
    details = json.loads(stoker(shared, "show", "--json", "tab-6").stdout)
    assert (details["zone"], details["misfire"], details["overlap"]) == ("Asia/Tokyo", "skip", "allow")
    job = stoker(shared, "run", "tab-6").stdout.strip()
    assert shared.cli("wait", job).returncode == 0
    assert shared.cli("logs", job).stdout == "100% of it\n"


def test_import_when_a_line_is_wrong_then_nothing_is_imported(shared: DaemonProcess) -> None:
    done = stoker(shared, "import", "-", stdin="0 1 * * * true\n99 1 * * * true\nnonsense\n")

    assert done.returncode == 65
    assert "line 2: " in done.stderr
    assert "line 3: " in done.stderr
    assert "hint: crontab(5)" in done.stderr
    assert "crontab-1" not in stoker(shared, "ls").stdout


@pytest.mark.parametrize("place", ["etc/cron.d/tab", "etc/crontab"])
def test_import_when_a_crontab_of_the_system_was_unpacked_then_its_lines_have_users(
    shared: DaemonProcess, tmp_path: Path, place: str
) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text("0 1 * * * root\techo 1\n0 1 * * * www-data echo 2\n")

    done = stoker(shared, "import", "--dry-run", "--json", str(file))

    user = pwd.getpwuid(os.geteuid())
    expected = [("echo 1", user.pw_dir)] if user.pw_name == "root" else []
    assert [
        (job["args"][1], job["working_dir"]) for job in (each["job"] for each in json.loads(done.stdout))
    ] == expected
    assert "it is for the user www-data" in done.stderr


def test_import_when_each_line_begins_with_a_user_then_the_form_is_asked(shared: DaemonProcess) -> None:
    tab = "SHELL=/bin/sh\n0 1 * * * root true\n0 2 * * * nobody true\n"

    asked = stoker(shared, "import", "--dry-run", "-", stdin=tab)
    told = stoker(shared, "import", "--dry-run", "--form", "user", "-", stdin=tab)
    mixed = stoker(shared, "import", "--dry-run", "-", stdin=f"{tab}0 3 * * * true\n")

    assert (asked.returncode, asked.stdout) == (64, "")
    assert "-:2: 'root' is a user, and no program: do the lines name users?" in asked.stderr
    assert "hint: --form system if they do" in asked.stderr
    assert (told.returncode, mixed.returncode) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may talk to the daemon of another user")
def test_import_when_the_daemon_is_of_another_user_then_lines_of_that_user_count(tmp_path: Path) -> None:
    tab = tmp_path / "tab"
    tab.write_text("0 1 * * * root true\n0 2 * * * nobody true\n")
    with DaemonProcess() as daemon:
        os.chown(daemon.state_dir, pwd.getpwnam("nobody").pw_uid, -1)
        done = stoker(daemon, "import", "--dry-run", "--form", "system", str(tab))

    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["tab-2"]
    assert "user root, and jobs run as the user of the daemon (nobody)" in done.stderr


def test_next_when_runs_are_delayed_by_jitter_then_the_delay_is_readable(shared: DaemonProcess) -> None:
    stoker(shared, "add", "late", "@yearly", "--jitter", "300d", "--", "true")

    coming = stoker(shared, "next", "--count", "3", "late").stdout.splitlines()

    assert [re.fullmatch(r"\S+ \S+ \+\d+d\d\dh", line) is not None for line in coming] == [True] * 3


def test_import_when_a_crontab_is_endless_or_all_wrong_then_the_error_is_short(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nonsense\n" * 1_000)

    endless, mistaken = stoker(shared, "import", "/dev/zero"), stoker(shared, "import", str(wrong))

    assert (endless.returncode, mistaken.returncode) == (65, 65)
    assert "/dev/zero: longer than 1000000 characters" in endless.stderr
    assert "line 10: not a line of a crontab: 'nonsense'; 990 more lines; nothing was imported" in mistaken.stderr


def test_settings_when_they_declare_schedules_then_only_the_file_changes_them(daemon: DaemonProcess) -> None:
    daemon.config.write_text(DECLARED)
    assert daemon.cli("config", "reload").stdout == "changed: schedules.flowing, schedules.tick\n"
    until(lambda: json.loads(stoker(daemon, "show", "--json", "tick").stdout)["runs"])
    assert stoker(daemon, "run", "flowing").returncode == 0
    assert "part      --target b --reuse latest" in stoker(daemon, "show", "flowing").stdout

    refused = stoker(daemon, "rm", "tick")
    assert (refused.returncode, "settings file" in refused.stderr) == (65, True)
    assert stoker(daemon, "add", "--replace", "tick", "@daily", "--", "true").returncode == 65
    assert stoker(daemon, "pause", "tick").returncode == 0

    daemon.stop()
    daemon.start()
    assert {each["name"]: each["paused"] for each in json.loads(stoker(daemon, "ls", "--json").stdout)} == {
        "flowing": False,
        "tick": True,
    }
    daemon.config.write_text("")
    assert daemon.cli("config", "reload").stdout == "changed: schedules.flowing, schedules.tick\n"
    assert json.loads(stoker(daemon, "ls", "--json").stdout) == []
