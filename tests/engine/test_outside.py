"""Steps that need a job or a workflow outside of their own, under a real daemon: ends, refusals, restarts, a purge."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid
from tests.support.facts import until
from tests.support.flows import flow, job_of, send, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import attempts_of, end_of, lines, running, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate


def error_of(client: stoker.Client, workflow: int, name: str) -> str:
    """Why the last run of a step failed."""
    return str(attempts_of(client, job_of(client, workflow, name))[-1]["error"])


def test_need_when_the_other_job_ends_then_each_need_has_its_meaning(client: stoker.Client, gate: Gate) -> None:
    good, bad = submit(client, gate.spec()), submit(client, gate.spec("exit 3"))
    other = sent_flow(client, {"x": gate.spec("exit 3")})
    steps = {
        "good": step("exit 0", {"job": good}),
        "bad": step("exit 0", {"job": bad}, critical=False),
        "cure": step("exit 0", {"job": bad, "on": "failed"}),
        "any": step("exit 0", {"workflow": other, "on": "any"}, "good"),
        "idle": step("exit 0", {"job": good}, {"workflow": other}, when="all_failed"),
        "alarm": step("exit 0", {"job": good}, {"workflow": other}, when="any_failed"),
    }
    workflow = sent_flow(client, steps)
    assert step_states(client, workflow)["good"] == "waiting"
    assert client.call("job.why", {"id": job_of(client, workflow, f"job:{good}")})["code"] == "needs"

    gate.open()

    assert settled(client, workflow) == "succeeded"
    states = step_states(client, workflow)
    assert {name for name, state in states.items() if state == "succeeded"} == {
        f"job:{good}",
        "good",
        "cure",
        "any",
        "alarm",
    }
    assert (states[f"job:{bad}"], states[f"workflow:{other}"]) == ("failed", "failed")
    assert (states["bad"], states["idle"]) == ("skipped", "skipped")
    assert error_of(client, workflow, f"job:{bad}") == f"job {bad} did not succeed: it is failed (exit)"
    assert error_of(client, workflow, f"workflow:{other}") == f"workflow {other} did not succeed: it is failed"


def test_need_when_the_other_workflow_failed_then_a_retry_of_both_goes_on(
    client: stoker.Client, tmp_path: Path
) -> None:
    cure = tmp_path / "cure"
    other = sent_flow(client, {"x": step(f"test -e {cure}")})
    assert settled(client, other) == "failed"
    workflow = sent_flow(client, {"a": step("exit 0", {"workflow": other})})
    assert settled(client, workflow) == "failed"
    cure.touch()
    client.call("workflow.retry", {"id": other})
    assert settled(client, other) == "succeeded"

    client.call("workflow.retry", {"id": workflow})

    assert settled(client, workflow) == "succeeded"


def test_need_when_the_other_runs_again_then_the_step_fails_with_the_next_command(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    job = submit(client, shell(f"test -e {flag} || exit 1; read _ < {gate.path}; :"))
    assert end_of(client, job)[0] == "failed"
    workflow = sent_flow(client, {"a": step("exit 0", {"job": job})})
    assert settled(client, workflow) == "failed"
    flag.touch()
    client.call("job.retry", {"id": job})

    client.call("workflow.retry", {"id": workflow})

    until(lambda: len(attempts_of(client, job_of(client, workflow, f"job:{job}"))) == 2)
    assert settled(client, workflow) == "failed"
    expected = (
        rf"job {job} runs again \((queued|running)\); once it has ended: stoker workflow retry {workflow} --failed"
    )
    assert re.fullmatch(expected, error_of(client, workflow, f"job:{job}"))
    gate.open()
    assert end_of(client, job)[0] == "succeeded"
    client.call("workflow.retry", {"id": workflow})
    assert settled(client, workflow) == "succeeded"


def test_submit_when_there_is_no_such_work_of_the_user_then_nothing_is_stored(client: stoker.Client) -> None:
    before = client.call("workflow.list", {})["workflows"]
    nested = {"workflow": flow({"b": step("exit 0", {"job": 999_999})})}
    steps = {"a": step("exit 0", {"job": 999_999}, {"workflow": 999_999}), "n": nested}

    with pytest.raises(FlowInvalid) as refused:
        send(client, flow(steps))

    assert {(one["path"], one["message"]) for one in refused.value.details["errors"]} == {
        ("steps.a.needs[0].job", "there is no job 999999 of yours"),
        ("steps.a.needs[1].workflow", "there is no workflow 999999 of yours"),
        ("steps.n.workflow.steps.b.needs[0].job", "there is no job 999999 of yours"),
    }
    assert client.call("workflow.list", {})["workflows"] == before


def test_need_when_groups_and_flows_have_it_then_their_steps_wait_too(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    job = submit(client, gate.spec(f"echo other >> {ledger}"))
    inner = {"in": step(f"echo in >> {ledger}", {"job": job})}
    steps: dict[str, Any] = {
        "list": step("""echo 'l=["x", "y"]' >> "$STOKER_OUTPUT" """),
        "each": step(f"echo each >> {ledger}", {"job": job}, each={"step": "list", "output": "l"}),
        "nest": {"workflow": flow(inner), "each": {"step": "list", "output": "l"}},
    }
    planned = send(client, flow(steps), dry_run=True)
    assert f"job:{job}" in planned["steps"]
    workflow = sent_flow(client, steps)
    until(lambda: step_states(client, workflow).get(f"nest[y]/job:{job}") == "waiting")

    gate.open()

    assert settled(client, workflow) == "succeeded"
    assert lines(ledger)[0] == "other"
    assert sorted(lines(ledger)[1:]) == ["each", "each", "in", "in"]


def test_need_when_the_daemon_is_killed_then_the_step_still_waits_and_goes_on(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(survive=True))
        workflow = sent_flow(client, {"a": step("exit 0", {"job": job})})
        running(client, job)
    daemon.kill_and_start()
    with daemon.client() as client:
        assert step_states(client, workflow) == {f"job:{job}": "waiting", "a": "waiting"}
        gate.open()
        assert end_of(client, job)[0] == "succeeded"
        assert settled(client, workflow) == "succeeded"


def test_purge_when_a_step_has_not_looked_yet_then_what_it_waited_for_stays(client: stoker.Client) -> None:
    job, other = submit(client, shell("exit 0")), sent_flow(client, {"x": step("exit 0")})
    assert (end_of(client, job)[0], settled(client, other)) == ("succeeded", "succeeded")
    client.call("queue.pause", {"name": "default"})
    try:
        workflow = sent_flow(client, {"a": step("exit 0", {"job": job}, {"workflow": other})})
        client.call("system.purge", {"before": int(time.time() * 1_000)})
    finally:
        client.call("queue.resume", {"name": "default"})

    assert settled(client, workflow) == "succeeded"
    assert workflow_view(client, other)["state"] == "succeeded"
