"""Workflows with a real daemon: submitted whole, steps after their needs, outputs, pause, cancel, retry.

Owns the promises about a workflow while the daemon lives. test_workflow_kills.py has kills,
tests/bad_input/test_flows.py the mistakes of flows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import AlreadyFinished, FlowInvalid, IdempotencyConflict, NotAllowed
from tests.support.facts import until
from tests.support.flows import (
    chain,
    context,
    flow,
    flow_end,
    job_of,
    send,
    sent_flow,
    settled,
    step,
    step_states,
    workflow_view,
)
from tests.support.work import Gate, changes, end_of, job_view, lines, running, shell, state, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

SETTINGS = "[daemon]\nmax_running = 8\n"
OK, FAILS = shell("exit 0"), shell("exit 1")


def behind(name: str, on: str = "ok", spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(spec or OK), "needs": [{"step": name, "on": on}]}


def test_workflow_when_submitted_then_every_step_is_a_job_and_runs_behind_its_needs(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    say = {name: shell(f"echo {name} >> {ledger}") for name in "abcd"}
    diamond = {"d": {**say["d"], "needs": ["b", "c"]}, "b": behind("a", spec=say["b"]), "c": behind("a", spec=say["c"])}

    answer = send(client, flow({**diamond, "a": say["a"]}))

    assert answer["layers"] == [["a"], ["b", "c"], ["d"]]
    assert flow_end(client, answer["id"]) == "succeeded"
    order = lines(ledger)
    assert (order[0], sorted(order), order[-1]) == ("a", ["a", "b", "c", "d"], "d")
    jobs = {name: job_view(client, job) for name, job in answer["steps"].items()}
    assert {job["workflow_id"] for job in jobs.values()} == {answer["id"]}
    assert {name: job["step"] for name, job in jobs.items()} == {name: name for name in "abcd"}


@pytest.mark.parametrize(
    ("first", "on", "expected"),
    [
        (OK, "ok", "succeeded"), (OK, "failed", "skipped"), (OK, "any", "succeeded"),
        (FAILS, "ok", "skipped"), (FAILS, "failed", "succeeded"), (FAILS, "any", "succeeded"),
    ],
)  # fmt: skip
def test_condition_when_the_needed_step_ends_then_the_next_runs_or_is_skipped(
    client: stoker.Client, first: dict[str, Any], on: str, expected: str
) -> None:
    answer = send(client, flow({"a": first, "b": behind("a", on)}))

    flow_end(client, answer["id"])

    assert step_states(client, answer["id"])["b"] == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"a": FAILS}, "failed"),
        ({"a": {**FAILS, "critical": False}}, "succeeded"),
        ({"a": {**FAILS, "critical": False}, "b": behind("a")}, "failed"),  # b is critical, and could not run
        ({"a": {**FAILS, "critical": False}, "b": {**behind("a"), "critical": False}}, "succeeded"),
        ({"a": FAILS, "b": behind("a", "failed")}, "failed"),  # a failure that is dealt with is one still
    ],
)
def test_workflow_when_a_step_fails_then_only_a_critical_one_fails_it(
    client: stoker.Client, steps: dict[str, Any], expected: str
) -> None:
    answer = send(client, flow(steps))

    assert flow_end(client, answer["id"]) == expected


def test_output_when_a_step_writes_it_then_those_that_need_it_get_it_by_name(
    client: stoker.Client, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    steps = {
        "lines": shell("echo version=1.2.3 >> $STOKER_OUTPUT; echo 'mood = fine' >> $STOKER_OUTPUT"),
        "object": shell("""echo '{"list": [1, 2], "word": "x"}' > $STOKER_OUTPUT"""),
        "silent": OK,
        "stranger": shell("echo a=b > $STOKER_OUTPUT"),
        "last": {**shell(f'printf %s "$STOKER_INPUTS" > {seen}'), "needs": ["lines", "object", "silent"]},
    }

    answer = send(client, flow(steps))

    assert flow_end(client, answer["id"]) == "succeeded"
    assert json.loads(seen.read_text()) == {
        "lines": {"version": "1.2.3", "mood": " fine"}, "object": {"list": "[1, 2]", "word": "x"}
    }  # fmt: skip


def test_parameters_when_given_then_they_fill_commands_and_defaults_fill_the_rest(
    client: stoker.Client, tmp_path: Path
) -> None:
    sent = flow(
        {"a": shell("echo {{who}} $WHERE $0"), "b": shell("echo {{greeting}} $WHERE", env={"WHERE": "{{who}}"})},
        parameters={"who": "nobody", "greeting": "hello"},
        defaults={"working_dir": str(tmp_path), "env": {"WHERE": "home"}, "timeout_ms": 20_000},
    )

    answer = send(client, sent, parameters={"who": "world"})

    assert flow_end(client, answer["id"]) == "succeeded"
    jobs = {name: job_view(client, job) for name, job in answer["steps"].items()}
    logs = {name: b"".join(client.logs(job["id"])).decode() for name, job in jobs.items()}
    assert logs == {"a": "world home /bin/sh\n", "b": "hello world\n"}
    assert {(job["working_dir"], job["timeout_ms"]) for job in jobs.values()} == {(str(tmp_path), 20_000)}


def test_fan_out_when_it_has_a_width_then_no_more_run_at_once_and_the_join_needs_all(
    client: stoker.Client, tmp_path: Path
) -> None:
    gates = [Gate(tmp_path / f"gate{number}") for number in range(6)]
    items = [str(gate.path) for gate in gates]
    each = {**shell("read _ < {{item}}; :"), "each": items, "width": 2}

    answer = send(client, flow({"all": each, "after": behind("all")}))

    names = [name for name in answer["steps"] if name != "after"]
    seen = []
    for gate, name in zip(gates, names, strict=True):
        running(client, answer["steps"][name])
        seen.append(sum(one == "running" for one in step_states(client, answer["id"]).values()))
        blocked = [step for step, one in step_states(client, answer["id"]).items() if one == "queued"]
        if blocked:
            assert client.why(answer["steps"][blocked[0]])["code"] == "width"
        gate.open()
        end_of(client, answer["steps"][name])
    assert flow_end(client, answer["id"]) == "succeeded"
    assert max(seen) <= 2
    starts = [job_view(client, answer["steps"][name])["started_at"] for name in [*names, "after"]]
    assert starts[-1] == max(starts)


def test_dry_run_when_asked_then_order_and_widths_are_shown_and_nothing_is_stored(client: stoker.Client) -> None:
    before = client.call("workflow.list", {"limit": 1})["workflows"]

    answer = send(client, flow({"b": behind("a"), "a": {**OK, "each": ["x", "y"]}}), dry_run=True)

    assert (answer["id"], answer["layers"]) == (None, [["a[x]", "a[y]"], ["b"]])
    assert client.call("workflow.list", {"limit": 1})["workflows"] == before


def test_key_when_used_again_then_the_same_flow_is_found_and_another_is_refused(
    client: stoker.Client,
) -> None:
    first = send(client, flow({"a": OK}), idempotency_key="once")
    flow_end(client, first["id"])

    again = send(client, flow({"a": OK}), idempotency_key="once")

    assert (again["id"], again["existing"]) == (first["id"], True)
    assert (again["state"], again["steps"]) == ("succeeded", first["steps"])
    with pytest.raises(IdempotencyConflict):
        send(client, flow({"a": FAILS}), idempotency_key="once")
    with pytest.raises(IdempotencyConflict):
        submit(client, OK, idempotency_key="once")


def test_pause_when_asked_then_running_steps_go_on_and_no_other_starts(client: stoker.Client, gate: Gate) -> None:
    answer = send(client, flow({"a": gate.spec(), "b": behind("a")}))
    running(client, answer["steps"]["a"])

    standing = client.call("workflow.pause", {"id": answer["id"]})
    gate.open()
    end_of(client, answer["steps"]["a"])

    assert (standing["state"], standing["running"]) == ("paused", ["a"])
    until(lambda: state(client, answer["steps"]["b"]) == "queued", why="the step behind it to be ready")
    other = submit(client, OK)  # a paused workflow blocks no other
    assert end_of(client, other) == ("succeeded", "exit")
    assert step_states(client, answer["id"]) == {"a": "succeeded", "b": "queued"}
    client.call("workflow.cancel", {"id": answer["id"]})
    assert flow_end(client, answer["id"]) == "cancelled"


def test_cancel_when_steps_run_wait_and_are_done_then_done_ones_stay_done(client: stoker.Client, gate: Gate) -> None:
    slow = gate.spec(grace_ms=100)
    answer = send(client, flow({"done": OK, "runs": {**slow, "needs": ["done"]}, "waits": behind("runs")}))
    running(client, answer["steps"]["runs"])

    client.call("workflow.cancel", {"id": answer["id"]})

    assert flow_end(client, answer["id"]) == "cancelled"
    assert step_states(client, answer["id"]) == {"done": "succeeded", "runs": "cancelled", "waits": "cancelled"}
    with pytest.raises(AlreadyFinished):
        client.call("workflow.cancel", {"id": answer["id"]})


def test_retry_when_only_the_failed_are_asked_for_then_succeeded_steps_stay(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger, mended = tmp_path / "ledger", tmp_path / "mended"
    steps = {
        "a": shell(f"echo a >> {ledger}"),
        "b": behind("a", spec=shell(f"echo b >> {ledger}; test -e {mended}")),
        "c": behind("b", spec=shell(f"echo c >> {ledger}")),
    }
    answer = send(client, flow(steps))
    assert flow_end(client, answer["id"]) == "failed"
    assert step_states(client, answer["id"]) == {"a": "succeeded", "b": "failed", "c": "skipped"}
    mended.touch()

    standing = client.call("workflow.retry", {"id": answer["id"]})

    assert (standing["state"], standing["reset"]) == ("running", ["b", "c"])
    assert flow_end(client, answer["id"]) == "succeeded"
    assert lines(ledger) == ["a", "b", "b", "c"]
    client.call("workflow.retry", {"id": answer["id"], "again": "all"})
    assert flow_end(client, answer["id"]) == "succeeded"
    assert lines(ledger)[4:] == ["a", "b", "c"]


def test_retry_when_a_step_of_it_runs_then_it_is_refused_and_nothing_changes(client: stoker.Client, gate: Gate) -> None:
    answer = send(client, flow({"a": gate.spec(), "b": behind("a")}))
    running(client, answer["steps"]["a"])
    before = chain(client, workflow=answer["id"])

    with pytest.raises(NotAllowed):
        client.call("workflow.retry", {"id": answer["id"], "again": "all"})

    assert chain(client, workflow=answer["id"]) == before
    gate.open()
    assert flow_end(client, answer["id"]) == "succeeded"


def test_chain_when_a_workflow_has_ended_then_every_context_agrees_with_the_changes(
    client: stoker.Client,
) -> None:
    client.call("resource.set", {"name": "chained", "capacity": 1})
    steps = {"a": {**OK, "resources": {"chained": 1}}, "b": behind("a", spec=FAILS), "c": behind("b", "failed")}
    answer = send(client, flow(steps))
    flow_end(client, answer["id"])

    links = chain(client, workflow=answer["id"])

    assert [link["seq"] for link in links] == list(range(1, len(links) + 1))
    assert [link["parent"] for link in links] == [None, *(link["id"] for link in links[:-1])]
    moves = [(link["step"], link["status"]) for link in links if link["kind"] == "transition"]
    assert sorted(moves) == sorted(
        [("a", "running"), ("a", "succeeded"), ("b", "queued"), ("b", "running"), ("b", "failed"),
         ("c", "queued"), ("c", "running"), ("c", "succeeded")]
    )  # fmt: skip
    assert [link["step"] for link in links if link["kind"] == "step"] == ["a", "b", "c"]
    first, last = context(client, links[0]["id"]), context(client, links[-1]["id"])
    assert {name: step["state"] for name, step in first["steps"].items()} == {
        "a": "queued", "b": "waiting", "c": "waiting"
    }  # fmt: skip
    assert {name: step["state"] for name, step in last["steps"].items()} == step_states(client, answer["id"])
    held = next(link for link in links if (link["step"], link["status"]) == ("a", "running"))
    assert context(client, held["id"])["holds"] == {"a": {"chained": 1}}
    assert last["holds"] == {}


def test_step_when_a_person_skips_it_then_later_steps_run_and_the_workflow_succeeds(
    client: stoker.Client,
) -> None:
    answer = send(client, flow({"a": FAILS, "b": behind("a")}))
    assert flow_end(client, answer["id"]) == "failed"

    client.call("job.skip", {"id": answer["steps"]["a"], "reason": "done by hand"})
    client.call("workflow.retry", {"id": answer["id"]})

    until(
        lambda: workflow_view(client, answer["id"])["state"] == "succeeded", why="the workflow that was mended by hand"
    )
    assert step_states(client, answer["id"]) == {"a": "skipped", "b": "succeeded"}


def test_flow_when_something_in_it_is_wrong_then_nothing_of_it_is_stored(client: stoker.Client) -> None:
    last = submit(client, OK)

    with pytest.raises(FlowInvalid):
        send(client, flow({"a": OK, "b": {**OK, "queue": "nowhere"}}))

    assert submit(client, OK) == last + 1


def test_workflow_when_a_handler_was_not_needed_then_it_succeeds_and_resume_keeps_it(client: stoker.Client) -> None:
    steps = {
        "work": step("exit 0"),
        "alert": step("exit 0", {"step": "work", "on": "failed"}),
        "ticket": step("exit 0", "alert"),
        "done": step("exit 0", "work"),
    }
    workflow = sent_flow(client, steps)

    assert settled(client, workflow) == "succeeded"

    shown = {each["name"]: (each["state"], each["reason"]) for each in workflow_view(client, workflow)["steps"]}
    assert shown["alert"] == shown["ticket"] == ("skipped", "not_needed")
    assert shown["done"] == ("succeeded", "exit")
    again = client.call("workflow.retry", {"id": workflow, "step": "work"})
    assert again["reset"] == ["alert", "done", "ticket", "work"]
    assert settled(client, workflow) == "succeeded"


def test_retry_when_it_is_of_a_step_then_the_steps_skipped_for_it_are_taken_up_too(
    client: stoker.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    workflow = sent_flow(client, {"a": step(f"test -e {flag}"), "b": step("exit 0", "a"), "c": step("exit 0", "b")})
    assert settled(client, workflow) == "failed"
    flag.touch()

    client.retry(job_of(client, workflow, "a"))

    assert settled(client, workflow) == "succeeded"
    assert step_states(client, workflow) == dict.fromkeys("abc", "succeeded")


def test_resume_when_a_strategy_skips_a_step_then_its_history_names_the_strategy(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": step("exit 1"), "b": step("exit 0", "a")})
    assert settled(client, workflow) == "failed"

    client.call("workflow.resume", {"id": workflow, "strategy": "skip", "reason": "not today"})

    assert settled(client, workflow) == "succeeded"
    (skipped,) = [each for each in changes(client, job_of(client, workflow, "a")) if each["cause"] == "skip"]
    assert skipped["note"] == "resume strategy 'skip': not today"


def test_flow_when_an_earlier_step_makes_program_and_directory_then_it_runs(
    client: stoker.Client, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    makes = f"mkdir {made}; printf '#!/bin/sh\\n' > {made}/program; chmod +x {made}/program"
    runs = {"command": "./program", "working_dir": str(made)}
    steps = {"make": step(makes), "run": {**runs, "needs": ["make"]}, "other": {**runs, "command": f"{made}/program"}}
    steps["other"]["needs"] = ["make"]

    answer = send(client, flow(steps))

    assert sorted(answer["warnings"]) == [
        f"steps.other.working_dir: {made} does not exist",
        f"steps.run.working_dir: {made} does not exist",
    ]
    assert settled(client, answer["id"]) == "succeeded"


@pytest.mark.parametrize(
    ("wrong", "needs"), [({"command": "/nowhere/program"}, []), ({"command": "no-such-program"}, ["make"])]
)
def test_flow_when_no_earlier_step_can_make_the_program_then_it_is_refused(
    client: stoker.Client, wrong: dict[str, str], needs: list[str]
) -> None:
    with pytest.raises(FlowInvalid) as refused:
        send(client, flow({"make": OK, "run": {**wrong, "needs": needs}}))

    (mistake,) = refused.value.details["errors"]
    assert mistake["path"] == "steps.run.command"
