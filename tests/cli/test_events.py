"""`stoker event` and `--wait-for` against a real daemon: typed, shown, refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess


def test_event_when_it_is_emitted_then_its_job_runs_with_the_data(shared: DaemonProcess, tmp_path: Path) -> None:
    script = "cat $STOKER_EVENT_FILE"
    job = shared.cli("submit", "--wait-for", "event:tour", "--", "sh", "-c", script).stdout.strip()
    assert "event:tour" in next(line for line in shared.cli("ls").stdout.splitlines() if line.split()[0] == job)
    assert re.search(r"^waits for +event:tour$", shared.cli("show", job).stdout, re.MULTILINE)
    why = shared.cli("why", job).stdout
    assert "for event:tour" in why
    assert "next: stoker event emit tour" in why
    (tmp_path / "data").write_text('{"n": [1, 2]}')

    emitted = shared.cli("event", "emit", "tour", "--data", f"@{tmp_path}/data")

    assert emitted.stdout == "event tour reached 1 job\n"
    assert shared.cli("wait", job).returncode == 0
    assert json.loads(shared.cli("logs", job).stdout)["tour"]["data"] == {"n": [1, 2]}
    assert "which is met" in shared.cli("show", job).stdout
    assert "event:tour, event" in shared.cli("history", job).stdout


def test_submit_when_conditions_are_given_then_they_become_one_tree(shared: DaemonProcess) -> None:
    words = ("--wait-for", "event:a", "--wait-any", "event:b", "--wait-any", "event:c")
    job = shared.cli("submit", *words, "--", "true").stdout.strip()

    view = json.loads(shared.cli("show", job, "--json").stdout)

    assert view["wait_for"] == {"all": ["event:a", {"any": ["event:b", "event:c"]}]}
    assert view["conditions_open"] == ["event:a", "event:b", "event:c"]
    shared.cli("cancel", job)


def test_workflow_when_a_step_waits_for_an_event_then_show_names_it(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = tmp_path / "flow.toml"
    flow.write_text('name = "f"\n[steps.a]\ncommand = "true"\nwait_for = "event:approved"\n')
    workflow = shared.cli("workflow", "submit", str(flow)).stdout.strip()

    assert "event:approved" in shared.cli("workflow", "show", workflow).stdout
    assert shared.cli("workflow", "graph", workflow).stdout.splitlines()[1].endswith("a  waiting for event:approved")
    shared.cli("workflow", "cancel", workflow)
    assert "event" not in shared.cli("workflow", "graph", workflow).stdout


def test_events_when_they_are_listed_then_kept_ones_say_until_when(shared: DaemonProcess) -> None:
    shared.cli("event", "emit", "stays", "--keep", "1h", "--one")
    shared.cli("event", "emit", "stays", "--data", "-", input="[1]")

    shown = shared.cli("event", "ls", "stays").stdout.splitlines()
    assert shown[1].endswith("0 jobs")
    assert "0 jobs, for one job, kept until " in shown[2]
    events = json.loads(shared.cli("event", "ls", "stays", "--json").stdout)["events"]
    assert [(event["kept"], event["one"]) for event in events] == [(False, False), (True, True)]


def test_event_when_it_is_sent_again_with_its_key_then_it_is_reported_as_existing(shared: DaemonProcess) -> None:
    first = json.loads(shared.cli("event", "emit", "once", "--idempotency-key", "k", "--json").stdout)

    again = shared.cli("event", "emit", "once", "--idempotency-key", "k")

    assert (first["existing"], again.stdout) == (False, "event once was emitted before and reached 0 jobs\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("event", "emit", "a b"), 'NAME: not allowed: "a b"'),
        (("event", "emit", "a", "--idempotency-key", ""), "--idempotency-key '': expected a string that is not empty"),
        (("event", "emit", "a", "--data", "{"), "--data: not JSON"),
        (("event", "emit", "a", "--data", '{"a": 1, "b": 2, "b": 3}'), "--data: not JSON: the key 'b' occurs twice"),
        (("event", "emit", "a", "--data", "@/nowhere"), "--data: cannot read /nowhere"),
        (("event", "emit", "a", "--data", f'"{"x" * 66_000}"'), "the limit is 65536"),
        (("event", "emit", "a", "--keep", "1"), "--keep: 1 has no unit"),
        (("event", "emit"), "NAME"),
        (("submit", "--wait-for", "deploy", "--", "true"), "'deploy' is not a condition"),
        (("submit", "--wait-for", "", "--", "true"), "'' is not a condition"),
        (("submit", "--wait-for", "job:x", "--", "true"), "'x' is not the id of a job"),
        (("submit", "--wait-for", "job:99999", "--", "true"), "there is no job 99999 of yours"),
    ],
)
def test_command_when_it_is_wrong_then_the_problem_is_named(
    shared: DaemonProcess, words: tuple[str, ...], problem: str
) -> None:
    refused = shared.cli(*words)

    assert refused.returncode in (64, 65)
    assert problem in refused.stderr
    assert "hint: " in refused.stderr
