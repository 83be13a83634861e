"""Steps as rows: groups with counts, the most urgent of many rows, and the estimate of the time that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from stoker.cli.kit import step_groups

if TYPE_CHECKING:
    from stoker.core.views import EarlierRuns, StepView, WorkflowDetails


def a_step(name: str, state: str = "waiting", **fields: Any) -> StepView:
    plain = {
        "name": name, "job": 1, "state": state, "reason": None, "error": None, "exit_code": None, "signal": None,
        "attempts": 0, "failures": 0, "needs": [], "when": None, "conditions_open": [], "critical": True,
        "resume": "restart", "reused": None, "run_if": None, "handler": None,
    }  # fmt: skip
    return cast("StepView", plain | fields)


def fan_out(group: str, *states: str) -> list[StepView]:
    return [a_step(f"{group}[{number}]", state) for number, state in enumerate(states)]


STEPS = [
    a_step("list", "succeeded"),
    *fan_out("compile", "succeeded", "skipped", "running", "running", "failed", "waiting", "queued"),
    a_step("build[x]/link", "succeeded"),
    a_step("build[y]/link", "held"),
    a_step("report"),
]


def test_steps_when_they_are_many_then_each_group_is_one_row_with_its_counts() -> None:
    rows = step_groups.grouped(STEPS)

    shown = [step_groups.cells(row)[:4] for row in rows]
    assert shown == [
        ("list", 1, "succeeded", "-"),
        ("compile x7", "-", "failed", "2/7 done, 2 running, 1 failed"),
        ("build/link x2", "-", "held", "1/2 done, 1 held"),
        ("report", 1, "waiting", "-"),
    ]
    assert step_groups.remark(rows[1]) == "compile[4]"


def test_steps_when_they_are_few_or_each_is_wanted_then_each_has_a_row() -> None:
    many = fan_out("compile", *["waiting"] * 30)

    assert [row.name for row in step_groups.as_shown(STEPS, every=False)] == [step["name"] for step in STEPS]
    assert [row.name for row in step_groups.as_shown(many, every=False)] == ["compile"]
    assert len(step_groups.as_shown(many, every=True)) == 30


def test_group_when_a_step_stands_for_it_then_that_step_is_not_counted() -> None:
    (row,) = step_groups.grouped([a_step("compile", "succeeded"), *fan_out("compile", "succeeded", "running")])

    assert step_groups.cells(row)[:4] == ("compile x2", "-", "running", "1/2 done, 1 running")


def test_needs_when_they_are_of_a_matrix_then_each_group_is_one() -> None:
    needs = [{"step": f"test[linux,3.{minor}]", "on": "ok"} for minor in (11, 12)]
    (row,) = step_groups.grouped([a_step("report", needs=needs, when="any_ok")])

    assert step_groups.needs(row) == "test[linux,3.11; linux,3.12](any_ok)"


def test_step_when_it_has_an_if_then_the_remark_has_it() -> None:
    (row,) = step_groups.grouped([a_step("a", "skipped", run_if="parameters.env == 'prod'")])

    assert step_groups.remark(row) == "if parameters.env == 'prod'"


def test_rows_when_there_are_very_many_then_those_that_need_a_look_are_kept() -> None:
    steps = [a_step(f"s{number}", "failed" if number == 400 else "succeeded") for number in range(500)]

    kept = step_groups.most_urgent_rows(step_groups.as_shown(steps, every=True), 3)

    assert [row.name for row in kept] == ["s0", "s1", "s400"]


@pytest.mark.parametrize(
    ("earlier", "text"),
    [
        (None, "[#####···············] 25% 1 of 4 steps ended"),
        ({"count": 1, "median_ms": 90_000}, "about 1m00s left: the last run of this name took 1m30s"),
        ({"count": 5, "median_ms": 90_000}, "about 1m00s left: the last 5 runs of this name took 1m30s (median)"),
        ({"count": 5, "median_ms": 20_000}, "longer than usual: the last 5 runs of this name took 20.0s (median)"),
    ],
)
def test_progress_when_earlier_runs_are_known_then_it_says_what_is_left(earlier: EarlierRuns | None, text: str) -> None:
    workflow = {
        "finished_at": None, "created_at": 0, "counts": {"succeeded": 1, "running": 3}, "earlier_runs": earlier,
    }  # fmt: skip

    shown = step_groups.progress_text(cast("WorkflowDetails", workflow), 30_000, drawn=True)
    ended = step_groups.progress_text(cast("WorkflowDetails", workflow | {"finished_at": 1}), 30_000, drawn=True)

    assert shown is not None
    assert shown.endswith(text)
    assert shown.startswith("[#####···············] 25% 1 of 4 steps ended")
    assert ended is None


def test_needs_when_names_are_long_then_those_beyond_the_width_are_counted() -> None:
    few, many = ["a" * 19, "b" * 20], [letter * 30 for letter in "abc"]
    steps = [a_step("x", needs=[{"step": name, "on": "ok"} for name in names]) for names in (few, many, ["c" * 60])]

    assert [step_groups.needs(row) for row in step_groups.as_shown(steps, every=True)] == [
        " ".join(few),
        f"{'a' * 30} … 2 more",
        "c" * 39 + "…",
    ]
