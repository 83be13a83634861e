"""Secrets in flow files: the client reads them, and each step gets those that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.facts import until
from tests.support.work import state

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

ENVIRON = {"FLOW_KEY": "CANARY-env"}
FLOW = """
name = "deploy"
[secrets]
TOKEN = "token"
KEY = "env:FLOW_KEY"
[steps.both]
command = "sh"
args = ["-c", 'cat "$STOKER_SECRETS_DIR"/* > out.both']
secrets = ["TOKEN", "KEY"]
[steps.one]
command = "sh"
args = ["-c", 'ls "$STOKER_SECRETS_DIR" > out.$STOKER_ITEM']
secrets = ["KEY"]
each = ["x", "y"]
[steps.none]
command = "sh"
args = ["-c", 'echo "<$STOKER_SECRETS_DIR>" > out.none']
"""


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    (tmp_path / "token").write_bytes(b"CANARY-file")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "flow.toml").write_text(FLOW)
    return tmp_path / "flow.toml"


def test_workflow_when_steps_name_secrets_then_each_step_gets_its_own(shared: DaemonProcess, flow: Path) -> None:
    submit = ("workflow", "submit", "--wait", "--quiet", "--idempotency-key", "once", str(flow))

    answer = shared.cli(*submit, cwd=flow.parent)

    assert answer.returncode == 0, answer.stderr
    written = {path.suffix: path.read_text() for path in flow.parent.glob("out.*")}
    assert written == {".both": "CANARY-envCANARY-file", ".x": "KEY\n", ".y": "KEY\n", ".none": "<>\n"}
    shown = [shared.cli("workflow", "show", "1", "--json").stdout, shared.cli("show", "1", "--json").stdout]
    assert not any("CANARY" in text for text in shown)
    assert [row for row in shared.rows("SELECT flow FROM workflows") if "CANARY" in row[0]] == []
    assert shared.rows("SELECT * FROM secrets") == []
    again = shared.cli(*submit, cwd=flow.parent)
    assert "was submitted before" in again.stderr
    (flow.parent / "token").write_bytes(b"another")
    other = shared.cli(*submit, cwd=flow.parent)
    assert other.returncode == 65
    assert "another spec" in other.stderr


def test_workflow_when_a_step_failed_then_a_retry_still_has_its_secrets(shared: DaemonProcess, flow: Path) -> None:
    script = """test -e again || { touch again; exit 1; }; cat "$STOKER_SECRETS_DIR/TOKEN" > retried"""
    steps = f"[steps.a]\ncommand = \"sh\"\nargs = ['-c', '{script}']\nsecrets = ['TOKEN']\n"
    flow.write_text(f'name = "f"\n[secrets]\nTOKEN = "token"\n{steps}')
    failed = shared.cli("workflow", "submit", "--wait", "--quiet", "--json", str(flow), cwd=flow.parent)
    assert failed.returncode == 1, failed.stderr
    with shared.client() as client:
        workflow = client.call("workflow.list")["workflows"][0]
        client.call("workflow.retry", {"id": workflow["id"]})
        until(lambda: (flow.parent / "retried").exists() and (flow.parent / "retried").read_text() == "CANARY-file")
        (job,) = client.call("workflow.get", {"id": workflow["id"]})["steps"]
        until(lambda: state(client, job["job"]) == "succeeded")


def test_workflow_when_a_source_is_wrong_then_nothing_is_sent(shared: DaemonProcess, flow: Path) -> None:
    (flow.parent / "token").chmod(0o644)

    answer = shared.cli("workflow", "submit", str(flow))

    assert answer.returncode == 64
    assert f"chmod 600 {flow.parent / 'token'}" in answer.stderr


def test_workflow_when_a_secret_is_not_declared_then_that_is_the_only_mistake(
    shared: DaemonProcess, flow: Path
) -> None:
    flow.write_text(FLOW.replace('KEY = "env:FLOW_KEY"', ""))

    answer = shared.cli("workflow", "submit", str(flow))

    assert answer.returncode == 65
    assert answer.stderr.count("has no secret 'KEY'") == answer.stderr.count("steps.") == 2, "in two steps"


def test_schedule_when_its_flow_has_secrets_then_it_is_refused(shared: DaemonProcess, flow: Path) -> None:
    answer = shared.cli("schedule", "add", "nightly", "@daily", "--flow", str(flow))

    assert answer.returncode != 0
    assert "schedules and hooks keep no secrets" in answer.stderr
    assert shared.rows("SELECT name FROM schedules") == []
