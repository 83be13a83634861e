"""Needs added and removed by hand, steps skipped, retries with another limit, under a real daemon.

Owns the changes that a person makes to the graph of a live workflow. tests/core tests how cycles are found.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from stoker.core.clock import wall_ms
from stoker.core.errors import FlowInvalid, InvalidParams, NotAllowed, StepNotFound
from tests.support.facts import scales, until
from tests.support.flows import chain, flow, job_of, send, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import Gate, end_of, lines, running, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"


def needs_of(client: stoker.Client, workflow: int, name: str) -> list[dict[str, str]]:
    (row,) = [one["needs"] for one in workflow_view(client, workflow)["steps"] if one["name"] == name]
    needs: list[dict[str, str]] = row
    return needs


def test_add_need_when_the_step_has_not_started_then_it_waits_for_both(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger, other = tmp_path / "ledger", tmp_path / "other"
    steps = {
        "a": step(f"read _ < {gate.path}; :"),
        "b": step(f"until test -e {other}; do :; done; echo b >> {ledger}"),
        "c": step(f"echo c >> {ledger}", "a"),
    }
    workflow = sent_flow(client, steps)
    running(client, job_of(client, workflow, "a"), job_of(client, workflow, "b"))

    answer = client.call("workflow.add_need", {"id": workflow, "step": "c", "need": "b", "on": "any"})
    gate.open()

    assert answer["needs"] == needs_of(client, workflow, "c") == [{"step": "a", "on": "ok"}, {"step": "b", "on": "any"}]
    until(lambda: step_states(client, workflow)["a"] == "succeeded", why="the first need")
    assert step_states(client, workflow)["c"] == "waiting"
    other.touch()
    assert settled(client, workflow) == "succeeded"
    assert lines(ledger) == ["b", "c"]


def test_add_need_when_a_retried_step_ignores_a_failed_need_then_it_runs_later(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    client.call("queue.set", {"name": "apart"})
    client.call("queue.pause", {"name": "apart"})
    steps = {"a": step("exit 1"), "b": step(f"echo b >> {ledger}", "a", queue="apart"), "c": {**gate.spec()}}
    workflow = sent_flow(client, steps)
    until(lambda: step_states(client, workflow)["b"] == "skipped", why="the end of a")
    client.retry(job_of(client, workflow, "b"))

    client.call("workflow.add_need", {"id": workflow, "step": "b", "need": "c"})
    client.call("queue.resume", {"name": "apart"})
    assert step_states(client, workflow)["b"] == "waiting"
    gate.open()

    until(lambda: step_states(client, workflow)["b"] == "succeeded", why="the end of b")
    assert lines(ledger) == ["b"]


def test_add_need_when_it_makes_a_cycle_then_it_is_refused_and_named_step_by_step(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    workflow = sent_flow(
        client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a"), "c": step("exit 0", "b")}
    )

    with pytest.raises(FlowInvalid, match=r"b -> c -> b|c -> b -> c"):
        client.call("workflow.add_need", {"id": workflow, "step": "b", "need": "c"})
    with pytest.raises(FlowInvalid, match="b -> b"):
        client.call("workflow.add_need", {"id": workflow, "step": "b", "need": "b"})

    assert needs_of(client, workflow, "b") == [{"step": "a", "on": "ok"}]
    logged = shared.logged("dependency_cycle_detected", workflow=workflow)
    assert sorted(set(logged[0]["cycle"])) == ["b", "c"]
    gate.open()
    assert settled(client, workflow) == "succeeded"


def test_submit_when_the_flow_has_a_cycle_then_it_is_logged_with_its_steps(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    with pytest.raises(FlowInvalid, match="a cycle"):
        send(client, flow({"x": step("exit 0", "y"), "y": step("exit 0", "x")}, name="round"))

    (logged,) = shared.logged("dependency_cycle_detected", flow="round")
    assert set(logged["cycle"]) == {"x", "y"}


def test_remove_need_when_it_was_the_last_open_one_then_the_step_starts(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a")})
    running(client, job_of(client, workflow, "a"))

    answer = client.call("workflow.remove_need", {"id": workflow, "step": "b", "need": "a", "reason": "not needed"})

    assert answer["needs"] == []
    until(lambda: step_states(client, workflow)["b"] == "succeeded", why="the step that waits no more")
    gate.open()
    assert settled(client, workflow) == "succeeded"


def test_remove_need_when_the_step_was_skipped_for_it_then_a_resume_runs_it(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": step("exit 1"), "b": step("exit 0", "a")})
    assert settled(client, workflow) == "failed"

    client.call("workflow.remove_need", {"id": workflow, "step": "b", "need": "a"})
    client.call("workflow.resume", {"id": workflow, "strategy": "skip"})

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert step_states(client, workflow) == {"a": "skipped", "b": "succeeded"}


def test_remove_need_when_a_step_is_skipped_for_another_then_its_retry_runs_it(
    client: stoker.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    workflow = sent_flow(client, {"a": step(f"test -e {flag}"), "b": step("exit 0"), "c": step("exit 0", "a", "b")})
    assert settled(client, workflow) == "failed"
    assert step_states(client, workflow)["c"] == "skipped"

    client.call("workflow.remove_need", {"id": workflow, "step": "c", "need": "b"})
    flag.touch()
    answer = client.call("job.retry", {"id": job_of(client, workflow, "a")})

    assert answer["taken_up"] == [job_of(client, workflow, "c")]
    assert settled(client, workflow) == "succeeded"


@pytest.mark.parametrize(
    ("method", "params", "error", "message"),
    [
        ("add_need", {"step": "b", "need": "c"}, NotAllowed, "step b has started"),
        ("add_need", {"step": "c", "need": "a"}, InvalidParams, "needs a already"),
        ("add_need", {"step": "c", "need": "f"}, InvalidParams, "can never be met"),
        ("add_need", {"step": "c", "need": "z"}, StepNotFound, "no step 'z'"),
        ("remove_need", {"step": "c", "need": "b"}, InvalidParams, "it needs: a"),
        ("remove_need", {"step": "z", "need": "b"}, StepNotFound, "no step 'z'"),
        ("skip", {"step": "z"}, StepNotFound, "no step 'z'"),
        ("skip", {"step": "b"}, NotAllowed, "running"),
    ],
)
def test_change_when_it_does_not_apply_then_it_is_refused_and_nothing_changes(
    client: stoker.Client, gate: Gate, method: str, params: dict[str, str], error: type[Exception], message: str
) -> None:
    waits = f"read _ < {gate.path}; :"
    workflow = sent_flow(
        client, {"a": step(waits), "b": step(waits), "c": step("exit 0", "a"), "f": step("exit 1", critical=False)}
    )
    running(client, job_of(client, workflow, "b"))
    until(lambda: step_states(client, workflow)["f"] == "failed", why="the failure")
    before = workflow_view(client, workflow)["steps"]

    with pytest.raises(error, match=message):
        client.call(f"workflow.{method}", {"id": workflow, **params})

    after = workflow_view(client, workflow)["steps"]
    assert [one["needs"] for one in after] == [one["needs"] for one in before]
    gate.open()
    assert settled(client, workflow) == "succeeded"


def test_needs_when_changed_then_the_next_daemon_knows_them(daemon: DaemonProcess, gate: Gate, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    steps = {
        "a": step(f"read _ < {gate.path}; echo a >> {ledger}", survive=True),
        "b": step(f"echo b >> {ledger}", "a"),
        "c": step(f"echo c >> {ledger}", "a"),
    }
    with daemon.client() as client:
        workflow = sent_flow(client, steps)
        running(client, job_of(client, workflow, "a"))
        client.call("workflow.add_need", {"id": workflow, "step": "b", "need": "c"})
        client.call("workflow.remove_need", {"id": workflow, "step": "b", "need": "a"})

    daemon.kill_and_start()

    with daemon.client() as client:
        assert needs_of(client, workflow, "b") == [{"step": "c", "on": "ok"}]
        gate.open()
        assert settled(client, workflow) == "succeeded"
    assert lines(ledger) == ["a", "c", "b"]


def test_skip_when_a_step_failed_then_its_skipped_dependents_run_with_a_warning(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    steps = {
        "a": step("exit 1"),
        "b": step(f"echo b >> {ledger}", "a"),
        "c": step(f"echo c >> {ledger}", "b"),
    }
    workflow = sent_flow(client, steps)
    assert settled(client, workflow) == "failed"

    answer = client.call("workflow.skip", {"id": workflow, "step": "a", "reason": "known bad"})

    assert answer["going_on"] == ["b", "c"]
    assert "b, c will run without what a was to do" in answer["warning"]
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(ledger) == ["b", "c"]
    (change,) = [one for one in client.history(job_of(client, workflow, "a"))["changes"] if one["cause"] == "skip"]
    assert change["note"] == "known bad"


def test_skip_when_a_dependent_it_would_release_is_overdue_then_it_is_refused(
    client: stoker.Client,
) -> None:
    late = flow({"a": step("exit 1"), "b": step("exit 0", "a", deadline=0)})

    for in_ms in scales(300):  # a busy machine may take longer to send it, or to fail
        late["steps"]["b"]["deadline"] = wall_ms() + in_ms
        with contextlib.suppress(FlowInvalid):
            workflow = int(send(client, late)["id"])
            settled(client, workflow)
            if step_states(client, workflow)["b"] == "skipped":
                break
    until(lambda: wall_ms() > late["steps"]["b"]["deadline"], why="the deadline")
    before = (step_states(client, workflow), chain(client, workflow=workflow))

    with pytest.raises(InvalidParams, match="step b: its deadline has passed"):
        client.call("workflow.skip", {"id": workflow, "step": "a"})

    assert (step_states(client, workflow), chain(client, workflow=workflow)) == before


def test_retry_when_another_limit_is_given_then_the_steps_have_it(client: stoker.Client, tmp_path: Path) -> None:
    flag, ledger = tmp_path / "flag", tmp_path / "ledger"
    script = f"echo x >> {ledger}; test -e {flag} || exec sleep 600"
    workflow = sent_flow(client, {"a": step(script, timeout_ms=100, grace_ms=50), "b": step("exit 0", "a")})
    assert settled(client, workflow) == "failed"

    flag.touch()
    client.call("workflow.retry", {"id": workflow, "timeout_ms": 60_000, "max_attempts": 3})

    assert settled(client, workflow, "succeeded") == "succeeded"
    view = client.get(job_of(client, workflow, "a"))
    assert (view["timeout_ms"], view["max_attempts"], view["attempts"]) == (60_000, 3, 2)


def test_retry_when_a_need_of_the_last_round_was_met_then_it_does_not_count_twice(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    """A need that was counted twice let a step start too early at the next start of the daemon."""
    first = Gate(tmp_path / "first")
    steps = {
        "a": step(f"read _ < {first.path}; :"),
        "c": step(f"read _ < {gate.path}; :", survive=True),
        "d": step("exit 0", "a", "c"),
    }
    with daemon.client() as client:
        workflow = sent_flow(client, steps)
        running(client, job_of(client, workflow, "a"), job_of(client, workflow, "c"))
        client.call("job.cancel", {"id": job_of(client, workflow, "d")})
        first.open()
        until(lambda: step_states(client, workflow)["a"] == "succeeded", why="the first need")
        client.call("workflow.retry", {"id": workflow})
        assert step_states(client, workflow)["d"] == "waiting"

    daemon.kill_and_start()

    with daemon.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
        assert step_states(client, workflow)["d"] == "waiting"
        gate.open()
        assert settled(client, workflow, "succeeded") == "succeeded"


def test_retry_when_a_step_of_a_cancelled_workflow_is_asked_for_then_it_runs(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}; :"), "b": step("exit 0", "a")})
    running(client, job_of(client, workflow, "a"))
    client.call("workflow.cancel", {"id": workflow})
    assert settled(client, workflow) == "cancelled"
    gate.open()

    client.call("job.retry", {"id": job_of(client, workflow, "a")})

    until(lambda: step_states(client, workflow)["a"] == "succeeded", why="the step that was asked for again")
    assert step_states(client, workflow)["b"] == "cancelled"


def test_cancel_when_one_step_is_cancelled_then_its_dependents_are_released(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(
        client,
        {
            "a": step(f"read _ < {gate.path}; :"),
            "b": step("exit 0", "a"),
            "c": step("exit 0", {"step": "a", "on": "failed"}),
        },
    )
    running(client, job_of(client, workflow, "a"))

    client.call("job.cancel", {"id": job_of(client, workflow, "a")})

    assert settled(client, workflow) == "failed"
    assert step_states(client, workflow) == {"a": "cancelled", "b": "skipped", "c": "succeeded"}


def test_add_need_when_groups_are_named_then_each_open_step_waits_for_each(client: stoker.Client, gate: Gate) -> None:
    script = f'test "$STOKER_ITEM" = b || exit 0; read _ < {gate.path}; :'
    of_list = step("true", "hold", each={"step": "list", "output": "files"})
    steps = {
        "list": step("echo 'files=[1, 2]' >> $STOKER_OUTPUT"),
        "hold": gate.spec(),
        "compile": step(script, each=["a", "b"]),
        "test": step("true", "hold", each=["a", "b"]),
        "made": step("true", each={"step": "list", "output": "files"}),
        "later": of_list,
    }
    workflow = sent_flow(client, steps)
    running(client, job_of(client, workflow, "compile[b]"))
    until(lambda: step_states(client, workflow)["compile[a]"] == "succeeded", why="the first item")
    until(lambda: step_states(client, workflow).get("made[2]") == "succeeded", why="the list")

    added = client.call("workflow.add_need", {"id": workflow, "step": "test", "need": "compile"})
    again = client.call("workflow.remove_need", {"id": workflow, "step": "test", "need": "compile"})
    with pytest.raises(InvalidParams, match="does not need 'compile'"):
        client.call("workflow.remove_need", {"id": workflow, "step": "test", "need": "compile"})
    with pytest.raises(NotAllowed, match=r"step compile\[a\] has started"):
        client.call("workflow.add_need", {"id": workflow, "step": "compile", "need": "test"})
    of_made = client.call("workflow.add_need", {"id": workflow, "step": "test", "need": "made"})
    client.call("workflow.remove_need", {"id": workflow, "step": "test", "need": "made"})
    client.call("workflow.add_need", {"id": workflow, "step": "test", "need": "later"})
    with pytest.raises(FlowInvalid, match="a cycle"):
        client.call("workflow.add_need", {"id": workflow, "step": "later", "need": "test"})

    assert (added["changed"], added["left"]) == (["test[a]", "test[b]"], [])
    assert [one["step"] for one in added["needs"]] == ["hold", "compile[a]", "compile[b]"]
    assert [one["step"] for one in again["needs"]] == ["hold"]
    assert [one["step"] for one in of_made["needs"]] == ["hold", "made[1]", "made[2]"]
    gate.open()
    assert settled(client, workflow) == "succeeded"
    assert [one["step"] for one in needs_of(client, workflow, "test[b]")] == ["hold", "later[1]", "later[2]"]


def test_add_need_when_a_part_of_a_group_has_started_then_the_rest_waits(client: stoker.Client, gate: Gate) -> None:
    steps = {"hold": gate.spec(), "work": {**gate.spec(), "each": ["a", "b"], "width": 1}}
    workflow = sent_flow(client, steps)
    running(client, job_of(client, workflow, "work[a]"))

    added = client.call("workflow.add_need", {"id": workflow, "step": "work", "need": "hold"})

    assert (added["changed"], added["left"]) == (["work[b]"], ["work[a]"])
    gate.open()
    assert settled(client, workflow) == "succeeded"
