"""A part of a workflow: which steps it has, and which needs are outside of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.model import NeedOn, When
from stoker.core.workflow import strategies
from stoker.core.workflow.definition import Flow, FlowRequest, ItemSource, Part, StepParams, StepWhen
from stoker.core.workflow.plan import plan_flow
from stoker.core.workflow.selection import Selection, select
from stoker.core.workflow.state import Edge


def step(*needs: str, when: StepWhen | None = None, each: tuple[str, ...] = ()) -> StepParams:
    more: dict[str, Any] = {} if when is None else {"when": when}
    more |= {"each": each, "width": 1} if each else {}
    return StepParams(command="true", needs=needs, **more)


BUILD = {
    "get": step(),
    "configure": step("get"),
    "compile": step("configure", each=("a", "b")),
    "link": step("compile"),
    "docs": step("get"),
    "alert": step("compile", "docs", when=StepWhen.ANY_FAILED),
}


def part(*targets: str, starts: tuple[str, ...] = ()) -> Selection:
    request = FlowRequest(flow=Flow(name="build", steps=BUILD), raw=msgspec.Raw(b"{}"))
    return select(plan_flow(request, strategies.all_names()), Part(targets, starts))


def test_select_when_an_earlier_run_has_what_is_outside_then_it_stays_in_the_plan() -> None:
    request = FlowRequest(flow=Flow(name="build", steps=BUILD), raw=msgspec.Raw(b"{}"))
    plan = plan_flow(request, strategies.all_names())

    selection = select(plan, Part(starts=("alert",)), completed={"docs", "get"})

    steps = {one.name: one for one in selection.plan.steps}
    assert (set(steps), selection.outside) == ({"docs", "alert"}, frozenset({"docs"}))
    assert (steps["docs"].needs, steps["alert"].needs) == ((), (Edge("docs", NeedOn.ANY),))
    assert len(selection.met) == 2


def names(selection: Selection) -> list[str]:
    return [one.group or one.name for one in selection.plan.steps]


@pytest.mark.parametrize(
    ("targets", "starts", "chosen", "met"),
    [
        ((), (), ["get", "configure", "docs", "compile", "compile", "link", "alert"], ()),
        (("configure",), (), ["get", "configure"], ()),
        (("configure", "docs"), (), ["get", "configure", "docs"], ()),
        (("link",), (), ["get", "configure", "compile", "compile", "link"], ()),
        (("compile",), (), ["get", "configure", "compile", "compile"], ()),
        ((), ("docs",), ["docs", "alert"], ("get", "compile", "compile")),
        ((), ("compile",), ["compile", "compile", "link", "alert"], ("configure", "docs")),
        (("link",), ("configure",), ["configure", "compile", "compile", "link"], ("get",)),
    ],
)
def test_select_when_steps_are_named_then_the_part_has_these_and_their_kin(
    targets: tuple[str, ...], starts: tuple[str, ...], chosen: list[str], met: tuple[str, ...]
) -> None:
    selection = part(*targets, starts=starts)

    groups = {one.name: one.group or one.name for one in part().plan.steps}
    assert sorted(names(selection)) == sorted(chosen)
    assert [groups[name] for name in selection.met] == list(met)
    assert sorted(name for layer in selection.plan.layers for name in layer) == sorted(
        one.name for one in selection.plan.steps
    )


def test_select_when_one_step_of_a_group_is_named_then_the_others_are_outside() -> None:
    first = next(one.name for one in part().plan.steps if one.group == "compile")

    selection = part(first)

    assert names(selection) == ["get", "configure", "compile"]
    assert selection.plan.widths == {"compile": 1}
    assert part("docs").plan.widths == {}


def test_select_when_needs_are_outside_then_the_condition_is_over_those_inside() -> None:
    steps = {one.name: one for one in part(starts=("docs",)).plan.steps}

    assert (steps["docs"].needs, steps["docs"].when) == ((), None)
    assert (steps["alert"].needs, steps["alert"].when) == ((Edge("docs", NeedOn.ANY),), When.ANY_FAILED)


def lost(steps: dict[str, StepParams], *starts: str, completed: Collection[str] = ()) -> list[tuple[str, str]]:
    plan = plan_flow(FlowRequest(flow=Flow(name="f", steps=steps, max_running=2), raw=msgspec.Raw(b"{}")), None)
    selection = select(plan, Part(starts=starts), completed)
    assert selection.plan.mistakes or selection.plan.widths[""] == 2
    return [(one.path, one.message) for one in selection.plan.mistakes]


def test_select_when_ifs_and_lists_are_of_what_is_outside_then_each_is_a_mistake() -> None:
    steps = {
        "get": step(),
        "all": step(each=("x", "y")),
        "list": replace(step("get", "all"), run_if="needs.get.exit_code == 0 && needs.all.size() > 1"),
        "work": replace(step("get"), each=ItemSource(step="list", output="o"), run_if="item != 'needs.get'"),
        "sum": replace(step("work", "get"), run_if="needs.work.size() > 1"),
    }

    words = "which is outside of the part"
    asked = [("steps.list.if", f"it asks for {name!r}, {words}") for name in ("all", "get")]
    assert lost(steps, "list") == asked
    assert lost(steps, "work") == [("steps.work.each", f"its list comes from 'list', {words}")]
    assert sorted(lost(steps, "list", "sum", "work")) == asked
    assert lost(steps, "work", completed={"list"}) == []
    assert lost(steps, "get", "all") == []


def test_select_when_a_list_that_comes_later_is_outside_then_it_hands_on_nothing() -> None:
    """Its steps are not in the plan, so the answer names the step that adds them as met."""
    steps = {
        "list": step(),
        "work": replace(step(), each=ItemSource(step="list", output="o")),
        "sum": step("work"),
        "look": replace(step("work"), run_if="needs.work.size() > 1"),
    }
    plan = plan_flow(FlowRequest(flow=Flow(name="f", steps=steps), raw=msgspec.Raw(b"{}")), None)

    selection = select(plan, Part(starts=("sum",)), {"list", "work", "work[a]"})

    assert (selection.met, selection.outside) == (("work",), frozenset())
    assert [path for path, _ in lost(steps, "look", completed={"work", "work[a]"})] == ["steps.look.if"]


def test_select_when_an_output_of_a_nested_flow_is_outside_then_it_is_a_mistake() -> None:
    inner = Flow(name="i", steps={"a": step(), "b": step("a")}, outputs={"o": "{{a.x}}", "p": "{{b.x}}"})
    steps = {"build": StepParams(workflow=inner), "use": step("build")}

    words = "{{a.x}} is an output of a step that is outside of the part"
    assert lost(steps, "build/b") == [("steps.build.workflow.outputs.o", words)]
    assert lost(steps, "build/b", completed={"build/a"}) == []


def test_select_when_names_are_wrong_then_each_is_a_mistake() -> None:
    wrong = part("lnk", "link", starts=("nothing",)).plan

    assert [(one.path, one.message, one.hint) for one in wrong.mistakes] == [
        ("target", "there is no step 'lnk'", "did you mean link?"),
        ("from", "there is no step 'nothing'", None),
    ]


def test_select_when_nothing_lies_between_then_that_is_a_mistake() -> None:
    (mistake,) = part("docs", starts=("link", "compile")).plan.mistakes

    assert (mistake.path, mistake.message) == ("target", "docs needs none of link and 1 more, so the part has no steps")


def test_select_when_the_flow_is_wrong_then_its_plan_stays() -> None:
    request = FlowRequest(flow=Flow(name="build", steps={"a": step("b")}), raw=msgspec.Raw(b"{}"))
    wrong = plan_flow(request, strategies.all_names())

    assert select(wrong, Part(("nothing",))).plan == wrong
