"""`stoker workflow submit` of a part: `--target`, `--from`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.flow_files import written

STEPS = {
    "get": flows.step("true"),
    "compile": flows.step("true", "get", each=["a", "b"]),
    "link": flows.step("true", "compile"),
    "docs": flows.step("true", "get"),
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    return written(tmp_path, json.dumps(flows.flow(STEPS)), "flow.json")


def test_submit_when_a_target_is_named_then_it_and_its_needs_run(shared: DaemonProcess, source: str) -> None:
    done = shared.cli("workflow", "submit", "--wait", "--target", "docs", source)

    with shared.client() as client:
        states = flows.step_states(client, int(done.stdout.split()[0]))
    assert (done.returncode, states) == (0, {"get": "succeeded", "docs": "succeeded"})


def test_submit_when_a_part_begins_in_the_middle_then_it_says_what_counts_as_met(
    shared: DaemonProcess, source: str
) -> None:
    done = shared.cli("workflow", "submit", "--wait", "--from", "compile", source)

    with shared.client() as client:
        states = flows.step_states(client, int(done.stdout.split()[0]))
    assert (done.returncode, set(states.values()), len(states)) == (0, {"succeeded"}, 3)
    assert "outside the part, so taken as met, without their outputs: get" in done.stderr


def test_dry_run_when_a_part_is_named_then_only_that_is_shown(shared: DaemonProcess, source: str) -> None:
    planned = shared.cli("workflow", "submit", "--dry-run", "--json", "--target", "link", "--from", "link", source)

    answer = json.loads(planned.stdout)
    assert (answer["layers"], len(answer["met"]), answer["id"]) == ([["link"]], 2, None)


def test_submit_when_a_named_step_is_unknown_then_a_hint_helps_and_nothing_is_stored(
    shared: DaemonProcess, source: str
) -> None:
    before = shared.cli("workflow", "ls", "--ids").stdout

    refused = shared.cli("workflow", "submit", "--target", "lnik", "--from", "gone", source)

    assert refused.returncode == 65
    assert f"{source}: target: there is no step 'lnik' (did you mean link?)" in refused.stderr
    assert f"{source}: from: there is no step 'gone'" in refused.stderr
    assert shared.cli("workflow", "ls", "--ids").stdout == before


def test_submit_when_a_key_is_used_for_another_part_then_it_is_refused(shared: DaemonProcess, source: str) -> None:
    shared.cli("workflow", "submit", "--idempotency-key", "part", "--target", "docs", source)

    again = shared.cli("workflow", "submit", "--idempotency-key", "part", "--target", "docs", source)
    other = shared.cli("workflow", "submit", "--idempotency-key", "part", "--target", "link", source)

    assert "was submitted before with this key" in again.stderr
    assert "with another spec" in other.stderr
