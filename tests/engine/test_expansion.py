"""Groups whose list is known only at run time: their steps, the needs on them, other lists, and deaths of the daemon.

Owns what a person sees under a real daemon. tests/core tests how a list is read and which needs the new steps have.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.facts import until
from tests.support.flows import chain, context, job_of, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import Gate, attempts_of, lines, running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 4\n[cpu]\nthrottle_threshold = 100\n"
LIST = 'printf \'files=["a", {"name": "b", "size": 2}]\\n\' >> "$STOKER_OUTPUT"'


def listed(step_name: str = "list", output: str = "files") -> dict[str, str]:
    return {"step": step_name, "output": output}


def test_expansion_when_a_step_hands_on_a_list_then_each_item_runs_once(client: stoker.Client, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    steps = {
        "list": step(LIST),
        "work": step(f'echo "$STOKER_ITEM" >> {ledger}', each=listed()),
        "sum": step(f"echo sum >> {ledger}", "work"),
    }

    workflow = sent_flow(client, steps)

    assert settled(client, workflow) == "succeeded"
    *items, last = lines(ledger)
    assert (sorted(items), last) == (["a", '{"name":"b","size":2}'], "sum")
    assert list(step_states(client, workflow)) == ["list", "work", "work[a]", "work[b]", "sum"]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The list of the step `list` of `flow_of`."""
    return tmp_path / "list"


def flow_of(other: Path, ledger: Path, **work: Any) -> dict[str, Any]:
    return {
        "list": step(f'printf "files<<END\\n%s\\nEND\\n" "$(cat {other})" >> "$STOKER_OUTPUT"'),
        "work": step(f'echo "$STOKER_ITEM" >> {ledger}; test "$STOKER_ITEM" != bad', each=listed(), **work),
        "sum": step(f"echo sum >> {ledger}", "work"),
    }


def test_expansion_when_a_retry_has_another_list_then_only_its_items_run(
    client: stoker.Client, tmp_path: Path, other: Path
) -> None:
    ledger = tmp_path / "ledger"
    other.write_text("a\nbad\n")
    workflow = sent_flow(client, flow_of(other, ledger))
    assert settled(client, workflow) == "failed"
    assert step_states(client, workflow)["sum"] == "skipped"
    other.write_text("a\nc\n")
    ledger.unlink()

    client.call("workflow.retry", {"id": workflow, "step": "list"})

    assert settled(client, workflow) == "succeeded"
    *items, last = lines(ledger)
    assert (sorted(items), last) == (["a", "c"], "sum")
    steps = {one["name"]: one for one in workflow_view(client, workflow)["steps"]}
    assert (steps["work[bad]"]["state"], steps["work[bad]"]["reason"]) == ("skipped", "not_needed")
    assert {need["step"] for need in steps["sum"]["needs"]} == {"work[a]", "work[c]"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "no list of items"),
        ("[[1]]", "no list of items"),
        ("[1.5]", "no list of items"),
        ('["a"', "no list of items"),
        (f"[{','.join(['1'] * 10_001)}]", "10001 items; the limit is 10000"),
        (f"[{','.join(['1'] * 10_000)}]", "the workflow would have 10003 steps; the limit is 10000"),
    ],
    ids=["table", "nested", "fraction", "broken", "too many", "too many steps"],
)
def test_expansion_when_the_list_is_wrong_then_its_step_fails_and_nothing_is_added(
    client: stoker.Client, tmp_path: Path, other: Path, text: str, message: str
) -> None:
    other.write_text(text)

    workflow = sent_flow(client, flow_of(other, tmp_path / "ledger"))

    assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    assert states == {"list": "succeeded", "work": "failed", "sum": "skipped"}
    (attempt,) = attempts_of(client, job_of(client, workflow, "work"))
    assert message in attempt["error"]
    assert "steps.work.each" in attempt["error"]


def test_expansion_when_the_output_is_missing_then_the_error_names_what_is_there(client: stoker.Client) -> None:
    steps = {"list": step('echo names=x >> "$STOKER_OUTPUT"'), "work": step("exit 0", each=listed())}

    workflow = sent_flow(client, steps)

    assert settled(client, workflow) == "failed"
    (attempt,) = attempts_of(client, job_of(client, workflow, "work"))
    assert "step 'list' handed on no output 'files' (it handed on: names)" in attempt["error"]


def test_expansion_when_the_list_is_empty_then_the_steps_behind_it_run(
    client: stoker.Client, tmp_path: Path, other: Path
) -> None:
    other.write_text("")

    workflow = sent_flow(client, flow_of(other, tmp_path / "ledger"))

    assert settled(client, workflow) == "succeeded"
    assert step_states(client, workflow) == dict.fromkeys(("list", "work", "sum"), "succeeded")


def test_expansion_when_an_item_looks_like_a_template_then_it_stays_as_it_is(
    client: stoker.Client, tmp_path: Path, other: Path
) -> None:
    ledger = tmp_path / "ledger"
    other.write_text('["a{{x}}", {"name": "b", "text": "{{{{"}]')
    steps = flow_of(other, ledger)
    steps["work"]["env"] = {"ITEM": "{{x}}"}

    workflow = sent_flow(client, steps, parameters={"x": "1"})

    assert settled(client, workflow) == "succeeded"
    assert sorted(lines(ledger))[:2] == ["a{{x}}", "sum"]


def test_expansion_when_it_is_done_then_a_change_tells_it_and_the_chain_has_all(
    shared: DaemonProcess, client: stoker.Client, tmp_path: Path, other: Path
) -> None:
    other.write_text("a\nb\n")

    workflow = sent_flow(client, flow_of(other, tmp_path / "ledger", width=1))

    assert settled(client, workflow) == "succeeded"
    told = "SELECT payload FROM changes WHERE kind = 'workflow' AND cause = 'expanded' AND subject = '%s'"
    ((payload,),) = shared.rows(told % workflow)
    job = job_of(client, workflow, "work")
    assert json.loads(payload) == {"step": "work", "job": job, "items": 2, "added": 2, "skipped": []}
    assert set(context(client, chain(client, workflow=workflow)[-1]["id"])["steps"]) == set(
        step_states(client, workflow)
    )


def test_expansion_when_its_queue_is_paused_then_it_waits_as_other_jobs(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "lists"})
    client.call("queue.pause", {"name": "lists"})
    work = step("exit 0", each=listed(), queue="lists")
    workflow = sent_flow(client, {"list": step(LIST), "work": work})
    until(lambda: step_states(client, workflow) == {"list": "succeeded", "work": "queued"}, why="the list")

    client.call("queue.resume", {"name": "lists"})

    assert settled(client, workflow) == "succeeded"
    assert len(step_states(client, workflow)) == 4


def test_expansion_when_it_is_rolled_back_and_redone_then_its_steps_run_again(
    client: stoker.Client, tmp_path: Path, other: Path
) -> None:
    ledger = tmp_path / "ledger"
    other.write_text("a\nb\n")
    workflow = sent_flow(client, flow_of(other, ledger))
    assert settled(client, workflow) == "succeeded"
    before = chain(client, workflow=workflow)[0]["id"]
    other.write_text("b\n")
    ledger.unlink()

    client.call("workflow.rollback", {"id": workflow, "to": before, "redo": True, "resume": True})

    assert settled(client, workflow) == "succeeded"
    assert lines(ledger) == ["b", "sum"]
    assert step_states(client, workflow)["work[a]"] == "skipped"


def test_expansion_when_the_daemon_dies_around_it_then_nothing_is_lost_or_twice(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    steps = {
        "list": step(f"read _ < {gate.path}; {LIST}", on_orphan="requeue"),
        "work": step(f'echo "$STOKER_ITEM" >> {ledger}', each=listed(), on_orphan="requeue"),
        "sum": step(f"echo sum >> {ledger}", "work", on_orphan="requeue"),
    }
    with daemon.client() as client:
        workflow = sent_flow(client, steps)
        running(client, job_of(client, workflow, "list"))
    daemon.kill_and_start()
    gate.open()
    daemon.logged("workflow_expanded")
    daemon.kill_and_start()

    with daemon.client() as client:
        assert settled(client, workflow) == "succeeded"
        assert sorted(step_states(client, workflow)) == ["list", "sum", "work", "work[a]", "work[b]"]
    assert lines(ledger)[-1] == "sum"
    assert set(lines(ledger)) == {"a", '{"name":"b","size":2}', "sum"}
    assert len(daemon.rows("SELECT 1 FROM changes WHERE cause = 'expanded'")) == 1


@pytest.mark.parametrize("again", [[], ["align"], ["list"]])
def test_expansion_when_two_groups_share_a_list_then_a_bad_item_stops_its_own(
    client: stoker.Client, again: list[str]
) -> None:
    steps = {
        "list": step('printf "files<<E\\na\\nb\\nE\\n" >> "$STOKER_OUTPUT"'),
        "align": step('test "$STOKER_ITEM" = a', each=listed()),
        "call": step("exit 0", {"step": "align", "same": "item"}, each=listed()),
    }

    workflow = sent_flow(client, steps)

    assert settled(client, workflow) == "failed"
    if again:
        client.call("workflow.retry", {"id": workflow, "steps": again})
        assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    named = ("align[a]", "align[b]", "call[a]", "call[b]")
    assert [states[name] for name in named] == ["succeeded", "failed", "succeeded", "skipped"]


def test_expansion_when_its_steps_wait_then_a_rebuilt_context_has_them(client: stoker.Client, gate: Gate) -> None:
    steps = {
        "list": step(LIST),
        "slow": step(f"read _ < {gate.path}; :"),
        "work": step("exit 0", "slow", each=listed()),
    }
    workflow = sent_flow(client, steps)
    until(lambda: step_states(client, workflow).get("work[a]") == "waiting", why="the expansion")
    until(lambda: step_states(client, workflow)["work"] == "succeeded", why="its end")

    newest = chain(client, workflow=workflow)[-1]["id"]

    assert context(client, newest)["steps"].keys() == step_states(client, workflow).keys()
    gate.open()
    assert settled(client, workflow) == "succeeded"
