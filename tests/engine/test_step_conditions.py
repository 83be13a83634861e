"""Steps that run because of how others ended: conditions over all needs of a step, and what a retry does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, InvalidParams
from tests.support.flows import job_of, sent_flow, settled, step, workflow_view
from tests.support.work import end_of

if TYPE_CHECKING:
    import stoker
    from tests.support.work import Gate


def ends(client: stoker.Client, workflow: int) -> dict[str, tuple[str, str]]:
    """How every step ended, once the workflow has."""
    settled(client, workflow)
    return {one["name"]: (one["state"], one["reason"]) for one in workflow_view(client, workflow)["steps"]}


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


def test_handler_when_it_was_not_needed_then_a_retry_of_any_need_takes_it_up(client: stoker.Client, gate: Gate) -> None:
    steps: dict[str, Any] = {"a": step("exit 0"), "b": step("exit 0"), "c": step("exit 0", "a", "b", when="any_failed")}
    workflow = sent_flow(client, steps)
    assert ends(client, workflow)["c"] == NOT_NEEDED

    for need in ("a", "b"):
        answer = client.call("job.retry", {"id": job_of(client, workflow, need)})
        assert answer["taken_up"] == [job_of(client, workflow, "c")]
        assert ends(client, workflow)["c"] == NOT_NEEDED


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
