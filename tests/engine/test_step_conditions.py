"""Steps that run because of how others ended: conditions over all needs of a step, and what a retry does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, InvalidParams, NotAllowed
from tests.support.facts import until
from tests.support.flows import job_of, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import Gate, end_of, job_view, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker


def ends(client: stoker.Client, workflow: int) -> dict[str, tuple[str, str]]:
    """How every step ended, once the workflow has."""
    settled(client, workflow)
    return {one["name"]: (one["state"], one["reason"]) for one in workflow_view(client, workflow)["steps"]}


def attempts(client: stoker.Client, workflow: int) -> dict[str, int]:
    return {one["name"]: one["attempts"] for one in workflow_view(client, workflow)["steps"]}


RAN, NOT_NEEDED, BLOCKED = ("succeeded", "exit"), ("skipped", "not_needed"), ("skipped", "dependency")


@pytest.mark.parametrize(
    ("when", "both_ok", "one_failed", "both_failed"),
    [
        ("all_ok", RAN, BLOCKED, BLOCKED),
        ("any_ok", RAN, RAN, BLOCKED),
        ("any_failed", NOT_NEEDED, RAN, RAN),
        ("all_failed", NOT_NEEDED, NOT_NEEDED, RAN),
        ("always", RAN, RAN, RAN),
    ],
)
def test_condition_when_the_needs_have_ended_then_it_decides_about_the_step(
    client: stoker.Client,
    when: str,
    both_ok: tuple[str, str],
    one_failed: tuple[str, str],
    both_failed: tuple[str, str],
) -> None:
    def end_with(first: int, second: int) -> tuple[str, str]:
        steps = {"a": step(f"exit {first}"), "b": step(f"exit {second}"), "c": step("exit 0", "a", "b", when=when)}
        return ends(client, sent_flow(client, steps))["c"]

    assert [end_with(0, 0), end_with(0, 1), end_with(1, 1)] == [both_ok, one_failed, both_failed]


def test_any_failed_when_a_failure_skipped_the_need_then_it_counts_as_failed(client: stoker.Client) -> None:
    steps = {
        "compile": step('test "{{item}}" = good', each=["good", "bad"]),
        "link": step("exit 0", "compile"),
        "alert": step("exit 0", "link", when="any_failed"),
        "short": step("exit 0", {"step": "link", "on": "failed"}),
        "of-the-group": step("exit 0", "compile", when="any_failed"),
    }

    shown = ends(client, sent_flow(client, steps))

    assert shown["link"] == BLOCKED
    assert shown["alert"] == shown["short"] == shown["of-the-group"] == RAN


@pytest.mark.parametrize("late", ["bad", "idle"])
def test_needs_when_they_end_in_either_order_then_a_failure_decides(
    client: stoker.Client, gate: Gate, late: str
) -> None:
    steps = {
        "gate": gate.spec(),
        "bad": step("exit 1", *(["gate"] if late == "bad" else [])),
        "idle": {**step("exit 0", *(["gate"] if late == "idle" else [])), "if": "1 > 2"},
        "both": step("exit 0", "bad", "idle"),
        "alert": step("exit 0", "both", when="any_failed"),
    }
    workflow = sent_flow(client, steps)
    end_of(client, job_of(client, workflow, "idle" if late == "bad" else "bad"))
    until(
        lambda: late == "idle" or job_view(client, job_of(client, workflow, "both"))["not_needed"], why="its first end"
    )

    gate.open()

    shown = ends(client, workflow)
    assert (shown["idle"], shown["both"], shown["alert"]) == (NOT_NEEDED, BLOCKED, RAN)


def test_needs_when_one_is_not_needed_then_the_step_waits_for_the_others(client: stoker.Client, gate: Gate) -> None:
    steps = {
        "slow": gate.spec(),
        "idle": {**step("exit 0"), "if": "1 > 2"},
        "both": step("exit 0", "idle", "slow"),
        "behind": step("exit 0", "both"),
    }
    workflow = sent_flow(client, steps)
    both = job_of(client, workflow, "both")
    until(lambda: job_view(client, both)["not_needed"], why="the end of idle")
    assert "it is skipped (not_needed)" in client.call("job.why", {"id": both})["message"]

    gate.open()

    shown = ends(client, workflow)
    assert (shown["both"], shown["behind"]) == (NOT_NEEDED, NOT_NEEDED)
    for need in ("idle", "slow"):
        answer = client.call("job.retry", {"id": job_of(client, workflow, need)})
        assert both in answer["taken_up"]
        settled(client, workflow)


@pytest.mark.parametrize(("change", "end"), [("add_need", NOT_NEEDED), ("remove_need", RAN)])
def test_change_of_needs_when_one_was_not_needed_then_those_of_now_decide(
    client: stoker.Client, gate: Gate, change: str, end: tuple[str, str]
) -> None:
    steps = {
        "slow": gate.spec(),
        "idle": {**step("exit 0"), "if": "1 > 2"},
        "more": step("exit 0"),
        "both": step("exit 0", "idle", "slow"),
    }
    workflow = sent_flow(client, steps)
    until(lambda: job_view(client, job_of(client, workflow, "both"))["not_needed"], why="the end of idle")

    need = "more" if change == "add_need" else "idle"
    client.call(f"workflow.{change}", {"id": workflow, "step": "both", "need": need})

    gate.open()
    assert ends(client, workflow)["both"] == end


@pytest.mark.parametrize("order", [["bad", "good"], ["good", "bad"]])
def test_job_when_its_needs_end_in_either_order_then_a_failure_decides(
    client: stoker.Client, tmp_path: Path, order: list[str]
) -> None:
    scripts, gates = {"bad": "exit 1", "good": "exit 0"}, {name: Gate(tmp_path / name) for name in order}
    needed = {name: submit(client, gates[name].spec(scripts[name])) for name in order}
    needs = [{"job": needed["bad"], "on": "ok"}, {"job": needed["good"], "on": "failed"}]
    job = submit(client, shell("exit 0"), needs=needs)

    for name in order:
        gates[name].open()
        end_of(client, needed[name])
        until(lambda: job_view(client, job)["not_needed"] or job_view(client, job)["state"] == "skipped")

    assert end_of(client, job) == BLOCKED


def test_skip_when_the_failed_need_is_skipped_then_the_others_decide(client: stoker.Client) -> None:
    steps = {"bad": step("exit 1"), "idle": {**step("exit 0"), "if": "1 > 2"}, "both": step("exit 0", "bad", "idle")}
    workflow = sent_flow(client, steps)
    assert ends(client, workflow)["both"] == BLOCKED

    client.call("workflow.skip", {"id": workflow, "step": "bad"})

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert ends(client, workflow)["both"] == NOT_NEEDED


def test_handler_when_it_was_not_needed_then_a_retry_of_any_need_takes_it_up(client: stoker.Client, gate: Gate) -> None:
    steps: dict[str, Any] = {"a": step("exit 0"), "b": step("exit 0"), "c": step("exit 0", "a", "b", when="any_failed")}
    workflow = sent_flow(client, steps)
    assert ends(client, workflow)["c"] == NOT_NEEDED

    for need in ("a", "b"):
        answer = client.call("job.retry", {"id": job_of(client, workflow, need)})
        assert answer["taken_up"] == [job_of(client, workflow, "c")]
        assert ends(client, workflow)["c"] == NOT_NEEDED


@pytest.mark.parametrize("retried", ["a", "b"])
def test_any_ok_when_one_of_the_needs_is_retried_and_succeeds_then_the_step_runs(
    client: stoker.Client, tmp_path: Path, retried: str
) -> None:
    fails_first = {name: step(f"test -e {tmp_path / name} || {{ touch {tmp_path / name}; exit 1; }}") for name in "ab"}
    workflow = sent_flow(client, {**fails_first, "c": step("exit 0", "a", "b", when="any_ok")})
    assert ends(client, workflow)["c"] == BLOCKED

    client.call("job.retry", {"id": job_of(client, workflow, retried)})

    assert ends(client, workflow)["c"] == RAN


def test_why_when_no_need_of_a_set_ended_so_then_it_names_them_all(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a", when="any_failed")})
    assert ends(client, workflow)["b"] == NOT_NEEDED

    why = client.call("job.why", {"id": job_of(client, workflow, "b")})

    assert why["message"] == f"was skipped (not_needed): it needed one of job {job_of(client, workflow, 'a')} to fail"


def test_add_need_when_the_step_has_a_condition_then_the_new_need_counts_too(client: stoker.Client, gate: Gate) -> None:
    steps = {"a": gate.spec(), "b": step("exit 1"), "c": step("exit 0", "a", when="any_failed")}
    workflow = sent_flow(client, steps)
    with pytest.raises(InvalidParams, match="on: step c runs when any_failed of its needs"):
        client.call("workflow.add_need", {"id": workflow, "step": "c", "need": "b", "on": "failed"})

    changed = client.call("workflow.add_need", {"id": workflow, "step": "c", "need": "b"})

    assert (changed["when"], [need["step"] for need in changed["needs"]]) == ("any_failed", ["a", "b"])
    gate.open()
    assert ends(client, workflow)["c"] == RAN


@pytest.mark.parametrize(("removed", "end"), [("bad", NOT_NEEDED), ("good", RAN)])
def test_remove_need_when_the_others_have_ended_then_the_rest_of_the_set_decides(
    client: stoker.Client, gate: Gate, removed: str, end: tuple[str, str]
) -> None:
    steps = {
        "bad": step("exit 1"),
        "good": step("exit 0"),
        "late": gate.spec(),
        "c": step("exit 0", "bad", "good", "late", when="any_failed"),
    }
    workflow = sent_flow(client, steps)
    for name in ("bad", "good"):
        end_of(client, job_of(client, workflow, name))
    client.call("workflow.remove_need", {"id": workflow, "step": "c", "need": removed})

    client.call("workflow.remove_need", {"id": workflow, "step": "c", "need": "late"})

    assert end_of(client, job_of(client, workflow, "c")) == end
    gate.open()
    settled(client, workflow)


def test_condition_when_it_is_none_of_the_known_then_the_mistake_lists_them(client: stoker.Client) -> None:
    with pytest.raises(FlowInvalid) as refused:
        sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a", when="some_failed")})

    (mistake,) = refused.value.details["errors"]
    assert mistake["path"] == "steps.b.when"
    assert "any_failed" in mistake["hint"]


# --- handlers belong to a run of the steps that they watch ---

AGAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "retry": ("workflow.retry", {}),
    "resume": ("workflow.resume", {"strategy": "restart"}),
    "rollback": ("workflow.rollback", {"to": "latest", "resume": True}),
    "retry of the job": ("job.retry", {}),
}


@pytest.mark.parametrize("verb", list(AGAIN))
def test_handlers_when_the_failed_step_fails_again_then_they_run_again(client: stoker.Client, verb: str) -> None:
    steps = {
        "work": step("exit 1"),
        "next": step("exit 0", "work"),
        "alert": step("exit 0", "next", when="any_failed"),
        "ticket": step("exit 0", "alert"),
        "teardown": step("exit 0", {"step": "next", "on": "any"}),
        "apart": step("exit 0"),
    }
    workflow = sent_flow(client, steps)
    settled(client, workflow)
    method, options = AGAIN[verb]
    ident = job_of(client, workflow, "work") if method == "job.retry" else workflow

    client.call(method, {"id": ident, **options})

    until(lambda: attempts(client, workflow)["work"] == 2, why="the second run")
    assert settled(client, workflow) == "failed"
    assert attempts(client, workflow) == {"work": 2, "next": 0, "alert": 2, "ticket": 2, "teardown": 2, "apart": 1}


def test_handlers_when_the_failed_step_succeeds_then_they_are_not_needed(client: stoker.Client, tmp_path: Path) -> None:
    steps = {
        "work": step(f"test -e {tmp_path}/mended"),
        "alert": step("exit 0", "work", when="any_failed"),
        "ticket": step("exit 0", "alert"),
    }
    workflow = sent_flow(client, steps)
    assert ends(client, workflow)["ticket"] == RAN
    (tmp_path / "mended").touch()

    answer = client.call("workflow.retry", {"id": workflow})

    assert answer["reset"] == ["alert", "ticket", "work"]
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert ends(client, workflow) == {"work": RAN, "alert": NOT_NEEDED, "ticket": NOT_NEEDED}


def test_handlers_when_a_skip_lets_watched_steps_run_then_they_wait_for_these(client: stoker.Client) -> None:
    steps = {"a": step("exit 1"), "b": step("exit 0", "a"), "report": step("exit 0", {"step": "b", "on": "any"})}
    workflow = sent_flow(client, steps)
    settled(client, workflow)

    client.call("workflow.skip", {"id": workflow, "step": "a"})

    assert settled(client, workflow, "succeeded") == "succeeded"
    assert attempts(client, workflow) == {"a": 1, "b": 1, "report": 2}


@pytest.mark.parametrize("method", ["workflow.retry", "job.retry"])
def test_retry_when_a_handler_runs_then_it_is_refused_and_changes_nothing(
    client: stoker.Client, gate: Gate, method: str
) -> None:
    workflow = sent_flow(client, {"a": step("exit 1"), "alert": {**gate.spec(), "needs": ["a"], "when": "any_failed"}})
    until(lambda: step_states(client, workflow)["alert"] == "running", why="the handler")
    ident = job_of(client, workflow, "a") if method == "job.retry" else workflow

    with pytest.raises(NotAllowed, match="step alert"):
        client.call(method, {"id": ident})

    assert step_states(client, workflow) == {"a": "failed", "alert": "running"}
    gate.open()
    assert settled(client, workflow) == "failed"


def test_handler_when_a_person_skipped_it_then_a_retry_leaves_it(client: stoker.Client, gate: Gate) -> None:
    steps = {
        "gate": gate.spec(),
        "a": step("exit 1", "gate"),
        "alert": step("exit 0", "a", when="any_failed"),
    }
    workflow = sent_flow(client, steps)
    client.call("workflow.skip", {"id": workflow, "step": "alert"})
    gate.open()
    settled(client, workflow)

    answer = client.call("workflow.retry", {"id": workflow})

    assert answer["reset"] == ["a"]
    settled(client, workflow)


def test_retry_when_the_workflow_is_paused_then_it_stays_paused(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step("exit 1"), "b": gate.spec()})
    until(lambda: step_states(client, workflow) == {"a": "failed", "b": "running"}, why="the failure")
    client.call("workflow.pause", {"id": workflow})

    answer = client.call("workflow.retry", {"id": workflow})

    assert (answer["state"], answer["reset"]) == ("paused", ["a"])
    gate.open()
    until(lambda: step_states(client, workflow)["b"] == "succeeded", why="the running step")
    assert step_states(client, workflow)["a"] == "queued"
    client.call("workflow.resume", {"id": workflow})
    assert settled(client, workflow) == "failed"
    assert attempts(client, workflow)["a"] == 2


def test_retry_when_a_job_outside_the_workflow_was_skipped_too_then_it_runs_again(
    client: stoker.Client, tmp_path: Path
) -> None:
    workflow = sent_flow(client, {"a": step(f"test -e {tmp_path}/mended")})
    failed = job_of(client, workflow, "a")
    outside = submit(client, shell("exit 0"), needs=[{"job": failed}])
    assert end_of(client, outside) == BLOCKED

    (tmp_path / "mended").touch()
    answer = client.call("job.retry", {"id": failed})

    assert answer["taken_up"] == [outside]
    assert end_of(client, outside) == RAN


def test_resume_when_one_need_runs_again_then_the_step_waits_for_both(client: stoker.Client) -> None:
    """The first need had ended as the step wants it."""
    client.call("queue.set", {"name": "first"})
    waits = {**step("exit 0"), "wait_for": "event:never"}
    needs = [{"step": "a", "on": "any"}, "b"]
    workflow = sent_flow(client, {"a": step("exit 1", queue="first"), "b": waits, "c": step("exit 0", needs=needs)})
    until(lambda: step_states(client, workflow)["a"] == "failed", why="the first need")
    client.call("queue.pause", {"name": "first"})

    assert client.call("workflow.resume", {"id": workflow, "strategy": "restart"})["reset"] == ["a", "c"]

    assert client.get(job_of(client, workflow, "c"))["needs_open"] == 2
    client.call("workflow.skip", {"id": workflow, "step": "b"})
    client.call("queue.resume", {"name": "first"})
    until(lambda: step_states(client, workflow)["c"] == "succeeded", why="the step behind both")
    assert step_states(client, workflow)["a"] == "failed"


@pytest.mark.parametrize("verb", ["job.retry", "job.restart", "workflow.retry"])
def test_step_when_a_need_that_had_ended_runs_again_then_it_waits_for_it(client: stoker.Client, verb: str) -> None:
    queue = f"of-{verb.replace('.', '-')}"
    client.call("queue.set", {"name": queue})
    waits = {**step("exit 0"), "wait_for": "event:never"}
    steps = {"a": step("exit 1", queue=queue), "b": waits}
    steps |= {"c": step("exit 0", "a", "b", when="any_ok"), "held": step("exit 0", "c", "a", when="any_ok")}
    workflow = sent_flow(client, steps)
    a, c, held = (job_of(client, workflow, name) for name in ("a", "c", "held"))
    until(lambda: client.get(c)["needs_open"] == client.get(held)["needs_open"] == 1, why="the first end of a")
    client.call("job.hold", {"id": held})
    client.call("queue.pause", {"name": queue})

    client.call(verb, {"workflow.retry": {"id": workflow}, "job.restart": {"id": a, "yes": True}}.get(verb, {"id": a}))

    assert [client.get(job)["needs_open"] for job in (c, held)] == [2, 2]
    client.call("workflow.skip", {"id": workflow, "step": "b"})
    kept = "waiting" if verb == "workflow.retry" else "held"  # that one takes up steps that are held
    assert step_states(client, workflow) == {"a": "queued", "b": "skipped", "c": "waiting", "held": kept}
    client.call("queue.resume", {"name": queue})
    until(lambda: step_states(client, workflow)["c"] == "succeeded", why="the step behind both")
    assert step_states(client, workflow)["a"] == "failed"
    if kept == "held":
        client.call("job.release", {"id": held})
    settled(client, workflow)
    assert attempts(client, workflow) == {"a": 2, "b": 0, "c": 1, "held": 1}


def test_if_when_the_list_of_its_group_is_not_known_then_the_group_shows_it(client: stoker.Client) -> None:
    later = {**step("exit 0"), "each": {"step": "list", "output": "files"}, "if": "item != 'x'"}

    workflow = sent_flow(client, {"list": step("exit 0"), "later": later})

    shown = {one["name"]: one["run_if"] for one in workflow_view(client, workflow)["steps"]}
    assert shown == {"list": None, "later": "item != 'x'"}
