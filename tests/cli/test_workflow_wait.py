"""`stoker workflow wait`: it ends with the workflow, or when only a person can move it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker import Client
from stoker.cli import workflow_wait
from tests.support import flows, work
from tests.support.daemon import DaemonProcess
from tests.support.flow_files import job_of, sent, sent_to

if TYPE_CHECKING:
    from collections.abc import Iterator


class Opening(Client):
    """Opens a gate once changes are listened to."""

    def __init__(self, socket: str, gate: work.Gate) -> None:
        super().__init__(socket)
        self._gate = gate

    def stream(self, method: str, params: object = None) -> Iterator[dict[str, Any]]:
        listening = super().stream(method, params)
        self._gate.open()
        return listening


def test_wait_when_a_workflow_fails_then_it_names_the_step_and_a_retry_succeeds(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {"a": flows.step("true"), "b": flows.step(f"test -e {tmp_path}/fixed", "a"), "c": flows.step("true", "b")}
    flow = sent(shared, tmp_path, steps)

    failed = shared.cli("workflow", "wait", flow)
    (tmp_path / "fixed").touch()
    limits = ("--timeout", "30s", "--max-attempts", "2")
    retried = shared.cli("workflow", "retry", flow, "--failed", "--wait", "--reason", "mended", *limits)
    of_step = shared.cli("workflow", "retry", flow, "--step", "c")
    shared.cli("workflow", "wait", flow)

    assert (failed.returncode, failed.stderr.splitlines()[0]) == (1, f"stoker: workflow {flow} failed: b (failed)")
    assert (retried.returncode, retried.stdout) == (0, f"workflow {flow} running\n")
    assert retried.stderr == "stoker: queued again: b c\n"
    assert of_step.stderr == "stoker: queued again: c\n"
    assert "timeout      30.0s an attempt" in shared.cli("show", job_of(shared, flow, "b")).stdout


def test_wait_when_only_a_person_can_move_it_on_then_it_names_the_step(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, shared, tmp_path)
    shared.cli("hold", job_of(shared, flow, "b"))

    with Opening(str(shared.socket), gate) as client:
        counts = workflow_wait.wait_until_still(client, int(flow))["counts"]
    waited = shared.cli("workflow", "wait", flow)

    assert counts == {"succeeded": 1, "held": 1}
    assert waited.returncode == 1
    assert f"workflow {flow} waits for a person: b (held)" in waited.stderr


def test_wait_when_its_timeout_ends_first_then_it_fails_and_the_workflow_goes_on(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    flow = sent(shared, tmp_path, {"a": {"command": command, "args": args}})

    late = shared.cli("workflow", "wait", flow, "--timeout", "200ms")
    now = shared.cli("workflow", "wait", flow, "--timeout", "0s", "--json")
    gate.open()
    done = shared.cli("workflow", "wait", flow, "--timeout", "1h")
    over = shared.cli("workflow", "wait", flow, "--timeout", "0s", "--json")

    assert (late.returncode, late.stdout) == (75, "")
    assert late.stderr == f"stoker: workflow {flow} has not ended within 200ms\nhint: stoker workflow show {flow}\n"
    assert (now.returncode, now.stdout) == (75, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (over.returncode, json.loads(over.stdout)["state"]) == (0, "succeeded")


@pytest.mark.parametrize(
    ("states", "still"),
    [
        (["held", "waiting"], True),  # the second needs the first
        (["held", "succeeded"], True),
        (["succeeded", "held"], True),
        (["succeeded", "waiting"], False),
        (["waiting", "held"], False),  # between two attempts
        (["running", "held"], False),
        (["held", "queued"], False),
    ],
)
def test_wait_when_a_step_is_held_then_it_goes_on_while_another_will_move(states: list[str], still: bool) -> None:  # noqa: FBT001
    needs: list[list[dict[str, str]]] = [[], [{"step": "a", "on": "ok"}]]
    steps = [{"name": name, "state": state, "needs": own} for name, state, own in zip("ab", states, needs, strict=True)]

    assert workflow_wait._is_still({"state": "running", "steps": steps}) is still


@pytest.mark.parametrize(("second", "still"), [("queued", True), ("waiting", True), ("running", False)])
def test_wait_when_a_workflow_is_paused_then_it_goes_on_while_something_runs(second: str, still: bool) -> None:  # noqa: FBT001
    steps = [{"name": name, "state": state, "needs": []} for name, state in (("a", "succeeded"), ("b", second))]

    assert workflow_wait._is_still({"state": "paused", "steps": steps}) is still


def test_wait_when_a_workflow_is_paused_and_still_then_the_hint_is_to_resume_it(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    flow = sent_to(gate, shared, tmp_path)
    with shared.client() as client:
        work.running(client, flows.job_of(client, int(flow), "a"))
    shared.cli("workflow", "pause", flow)

    with Opening(str(shared.socket), gate) as client:
        state = workflow_wait.wait_until_still(client, int(flow))["state"]
    waited = shared.cli("workflow", "wait", flow)

    assert state == "paused"
    assert waited.returncode == 1
    assert waited.stderr == f"stoker: workflow {flow} is paused\nhint: stoker workflow resume {flow}\n"


def test_wait_when_it_is_interrupted_then_it_says_that_the_workflow_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow_wait, "patiently", interrupted)

    with pytest.raises(KeyboardInterrupt):
        workflow_wait.until_ended({}, 7)

    assert capfd.readouterr().err == "stoker: workflow 7 goes on\nhint: stoker workflow cancel 7 ends it\n"
