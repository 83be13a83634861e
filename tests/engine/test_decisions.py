"""The `if` of steps: decided once all needs have ended, again after each retry, and after a crash."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.flows import job_of, send, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import end_of, job_view, shell

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

RAN, NOT_NEEDED, NO_VALUE = ("succeeded", "exit"), ("skipped", "not_needed"), ("failed", "condition")
TO_OUTPUT = '> "$STOKER_OUTPUT"'


def ends(client: stoker.Client, workflow: int) -> dict[str, tuple[str, str]]:
    """How every step ended, once the workflow has."""
    settled(client, workflow)
    return {one["name"]: (one["state"], one["reason"]) for one in workflow_view(client, workflow)["steps"]}


def test_if_when_the_needs_have_ended_then_it_decides_about_the_step(client: stoker.Client) -> None:
    steps = {
        "test": step(f"echo rows=12 {TO_OUTPUT}"),
        "large": step("exit 0", "test", **{"if": "int(needs.test.outputs.rows) > 10"}),
        "small": step("exit 0", "test", **{"if": "int(needs.test.outputs.rows) < 10"}),
        "behind": step("exit 0", "small"),
        "prod": step("exit 0", **{"if": "parameters.env == 'prod' && parameters['a.b'] == ''"}),
        "each": step("exit 0", each=["x", "y"], **{"if": "item == 'y'"}),
        "table": step("exit 0", each=[{"os": "a"}, {"os": "b"}], **{"if": "item.os == 'a'"}),
        "report": step("exit 0", "each", when="always", **{"if": "needs.each.exists(s, s.state == 'skipped')"}),
    }
    workflow = send(client, {"name": "flow", "steps": steps, "parameters": {"env": "prod", "a.b": ""}})["id"]

    assert ends(client, workflow) == {
        "test": RAN,
        "large": RAN,
        "small": NOT_NEEDED,
        "behind": NOT_NEEDED,
        "prod": RAN,
        "each[x]": NOT_NEEDED,
        "each[y]": RAN,
        "table[a]": RAN,
        "table[b]": NOT_NEEDED,
        "report": RAN,
    }
    assert workflow_view(client, workflow)["state"] == "succeeded"


def test_if_when_it_has_no_value_then_the_step_fails_and_says_why(client: stoker.Client) -> None:
    steps = {"a": step("exit 0"), "b": step("exit 0", "a", **{"if": "needs.a.outputs.rows == '1'"})}
    workflow = sent_flow(client, steps)

    assert ends(client, workflow)["b"] == NO_VALUE
    shown = {one["name"]: one for one in workflow_view(client, workflow)["steps"]}["b"]
    why = client.call("job.why", {"id": shown["job"]})["message"]
    expected = "if: needs.a.outputs.rows == '1' has no value: there is no 'rows'"
    assert (shown["error"], shown["run_if"]) == (expected, "needs.a.outputs.rows == '1'")
    assert why == f"failed (condition): {expected}"
    assert client.workflow(workflow)["state"] == "failed"


def test_if_when_a_retry_changes_an_output_then_it_is_decided_again(client: stoker.Client, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text("go=no\n")
    steps = {
        "a": step(f"cat {said} {TO_OUTPUT}"),
        "b": step("exit 0", "a", **{"if": "needs.a.outputs.go == 'yes'"}),
        "c": step("exit 0", "b"),
    }
    workflow = sent_flow(client, steps)
    assert ends(client, workflow) == {"a": RAN, "b": NOT_NEEDED, "c": NOT_NEEDED}

    said.write_text("go=yes\n")
    client.call("job.retry", {"id": job_of(client, workflow, "a")})

    until(lambda: set(step_states(client, workflow).values()) == {"succeeded"})
    said.write_text("go=no\n")
    client.call("workflow.retry", {"id": workflow, "step": "a"})
    until(lambda: step_states(client, workflow) == {"a": "succeeded", "b": "skipped", "c": "skipped"})


def test_if_when_when_does_not_let_the_step_run_then_it_is_not_asked(client: stoker.Client) -> None:
    steps = {"a": step("exit 1"), "b": step("exit 0", "a", **{"if": "needs.a.outputs.nope == ''"})}
    workflow = sent_flow(client, steps)

    assert ends(client, workflow)["b"] == ("skipped", "dependency")


def test_if_when_the_step_is_held_then_it_is_decided_and_stays_held(client: stoker.Client, gate: Gate) -> None:
    steps = {"a": gate.spec("exit 0"), "b": step("exit 0", "a", **{"if": "needs.a.state == 'succeeded'"})}
    workflow = sent_flow(client, steps)
    held = job_of(client, workflow, "b")
    client.call("job.hold", {"id": held})

    gate.open()

    until(lambda: job_view(client, held)["undecided"] is False)
    assert job_view(client, held)["state"] == "held"
    client.call("job.release", {"id": held})
    assert end_of(client, held) == RAN


def test_if_when_a_crash_left_it_undecided_then_the_next_start_decides(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        steps = {"yes": {**shell("exit 0"), "if": "true"}, "no": {**shell("exit 0"), "if": "1 > 2"}}
        workflow = sent_flow(client, steps)
        until(lambda: step_states(client, workflow) == {"yes": "queued", "no": "skipped"})
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db", isolation_level=None) as database:
        database.execute(
            "UPDATE jobs SET state = 'waiting', undecided = 1, reason = NULL, finished_at = NULL WHERE step IS NOT NULL"
        )
    daemon.start()

    with daemon.client() as client:
        until(lambda: step_states(client, workflow) == {"yes": "queued", "no": "skipped"})


def test_outputs_when_they_are_too_large_for_an_if_then_it_has_no_value(client: stoker.Client) -> None:
    steps = {
        "big": step(f"printf 'text=%060000d' 0 {TO_OUTPUT}", each=[1, 2, 3, 4, 5]),
        "all": step("exit 0", "big", **{"if": "needs.big.all(s, s.outputs.text == '')"}),
        "none": step("exit 0", "big", **{"if": "1 == 1"}),
    }
    shown = ends(client, workflow := sent_flow(client, steps))

    assert (shown["all"], shown["none"]) == (NO_VALUE, RAN)
    assert "more than 262144 bytes" in client.call("job.why", {"id": job_of(client, workflow, "all")})["message"]
