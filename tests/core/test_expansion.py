"""Lists that are known only at run time: how they are written, the steps that they make, and the needs on these."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.errors import FlowInvalid
from stoker.core.job.model import NeedOn, When
from stoker.core.job.run_if import RunIf
from stoker.core.workflow.definition import Flow, FlowRequest, ItemSource, StepNeed, StepParams
from stoker.core.workflow.expansion import GroupPlan, group_of, listed, members, needs_of, place_of, read_list, rewired
from stoker.core.workflow.items import Item
from stoker.core.workflow.plan import plan_flow
from stoker.core.workflow.state import Edge, Step

LIST = ItemSource(step="list", output="files")


def flow(**fields: object) -> Flow:
    work = msgspec.convert({"command": "/bin/work", "args": ["{{item}}", "{{x}}"], "each": LIST, **fields}, StepParams)
    steps = {"list": StepParams(command="/bin/list"), "other": StepParams(command="/bin/other"), "work": work}
    return Flow(name="flow", steps=steps, parameters={"x": "1"})


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", []),
        ("a\n\n b\n", ["a", " b"]),
        (' ["a", 2, {"name": "b"}]\n', ["a", 2, {"name": "b"}]),
        ("[]", []),
    ],
)
def test_list_when_it_is_json_or_lines_then_its_items_are_read(text: str, items: list[Item]) -> None:
    assert read_list(text, "each") == items


@pytest.mark.parametrize("text", ["{}", '"a"', "[[1]]", "[1.5]", "[", "[null]", f"[{'[' * 100}"])
def test_list_when_it_is_none_then_the_error_shows_it(text: str) -> None:
    with pytest.raises(FlowInvalid, match=r"steps\.work\.each: no list of items") as refused:
        read_list(text, "steps.work.each")

    assert refused.value.details["path"] == "steps.work.each"


@pytest.mark.parametrize(
    ("text", "item"), [('["a", "b\\u0000"]', "[1]"), ('[{"name": "\\u0000"}]', "[0].name"), ("a\0", "[0]")]
)
def test_list_when_an_item_has_a_nul_then_the_error_names_the_item(text: str, item: str) -> None:
    with pytest.raises(FlowInvalid) as refused:
        read_list(text, "steps.work.each")

    assert refused.value.message.startswith(f"steps.work.each: item {item}: NUL at character")


def test_list_when_the_step_handed_on_nothing_then_the_error_says_what_to_write() -> None:
    with pytest.raises(FlowInvalid, match=r"no output 'files' \(it handed on: none\)") as refused:
        listed(None, "list", "files", "steps.work.each")

    assert "STOKER_OUTPUT" in (refused.value.hint or "")


def test_list_when_it_is_too_long_then_the_error_has_both_numbers() -> None:
    outputs = msgspec.json.encode({"files": msgspec.json.encode([1] * 10_001).decode()}).decode()

    with pytest.raises(FlowInvalid, match="10001 items; the limit is 10000"):
        listed(outputs, "list", "files", "steps.work.each")


def test_list_when_the_step_handed_it_on_then_it_is_read() -> None:
    assert listed('{"files": "a\\nb"}', "list", "files", "steps.work.each") == ["a", "b"]


def test_plan_when_a_list_comes_later_then_one_step_waits_for_it_alone() -> None:
    plan = plan_flow(FlowRequest(flow=flow(needs=["other"]), raw=msgspec.Raw()), None)

    assert not plan.mistakes
    (work,) = [step for step in plan.steps if step.name == "work"]
    assert (work.needs, work.when, work.control) == ((Edge("list"),), When.EACH, True)


def test_plan_when_a_list_comes_later_then_a_condition_over_all_needs_is_refused() -> None:
    plan = plan_flow(FlowRequest(flow=flow(needs=["other"], when="any_ok"), raw=msgspec.Raw()), None)

    assert [mistake.path for mistake in plan.mistakes] == ["steps.work.when"]


@pytest.mark.parametrize("each", [["a"], {"step": "other", "output": "files"}])
def test_plan_when_a_list_comes_from_a_group_then_it_is_refused(each: object) -> None:
    sent = flow()
    group = msgspec.convert({"command": "/bin/list", "each": each}, StepParams)

    plan = plan_flow(FlowRequest(flow=replace(sent, steps={**sent.steps, "list": group}), raw=msgspec.Raw()), None)

    assert [mistake.path for mistake in plan.mistakes] == ["steps.work.each.step"]


def test_group_when_it_is_filled_then_items_are_no_templates() -> None:
    sent = flow(needs=[StepNeed(step="other", on=NeedOn.ANY)])

    group = group_of(place_of(sent, {"x": "2"}, "work"), ["a", "{{x}}"])

    assert [(step.name, step.sent.args) for step in group.steps] == [
        ("work[a]", ("a", "2")),
        ("work[__x__]", ("{{x}}", "2")),
    ]
    assert (group.needs, group.same, group.when) == ((Edge("other", NeedOn.ANY),), (), When.EACH)
    assert group.widths == {}


def test_group_when_items_are_tables_then_their_texts_are_no_templates() -> None:
    items: list[Item] = [{"name": "a", "n": 1}, 2]

    group = group_of(place_of(flow(args=[]), {}, "work"), items)

    assert [step.item for step in group.steps] == items


def test_group_when_an_item_lacks_a_key_then_the_mistake_is_refused() -> None:
    with pytest.raises(FlowInvalid, match=r"the flow has 1 mistake: steps\.work\.args"):
        group_of(place_of(flow(args=["{{item.path}}"]), {}, "work"), [{"name": "a"}, {"name": "b"}])


def test_members_when_names_have_labels_then_they_are_found_by_group() -> None:
    assert members(["a", "a[x]", "b/c[y]", "a[z]", "a:1"]) == {"a": ["a[x]", "a[z]"], "b/c": ["b/c[y]"]}


def group(needs: tuple[Edge, ...] = (), same: tuple[Edge, ...] = ()) -> GroupPlan:
    steps = group_of(place_of(flow(), {}, "work"), ["a"]).steps
    return GroupPlan("work", steps, When.EACH, needs, same)


def test_needs_when_a_group_is_needed_then_all_steps_that_it_has_are() -> None:
    there = {"other": ["other[1]", "other[2]"]}
    needs = (Edge("other", NeedOn.ANY), Edge("later"), Edge("empty"))
    one = group(needs)

    edges = needs_of(one, one.steps[0], there, {"later"}.__contains__)

    assert edges == [Edge("work"), Edge("other[1]", NeedOn.ANY), Edge("other[2]", NeedOn.ANY), Edge("later")]


def test_needs_when_the_same_item_is_needed_then_only_that_step_is() -> None:
    one = group(same=(Edge("other", NeedOn.ANY),))

    assert needs_of(one, one.steps[0], {}, {"other[a]"}.__contains__) == [Edge("work"), Edge("other[a]", NeedOn.ANY)]


def test_needs_when_the_other_group_lacks_the_item_then_it_is_named() -> None:
    one = group(same=(Edge("other"),))

    with pytest.raises(FlowInvalid, match=r"there is no step 'other\[a\]' for 'work\[a\]'"):
        needs_of(one, one.steps[0], {}, {"other[b]"}.__contains__)


def test_rewired_when_a_group_gets_other_steps_then_the_needs_on_it_follow() -> None:
    waiting = Step(name="sum", job_id=9, needs=(Edge("x"), Edge("work", NeedOn.FAILED)))

    expanded = rewired(waiting, "work", [], ["work[a]", "work[b]"])
    again = rewired(expanded, "work", ["work[a]", "work[b]"], ["work[b]"])
    empty = rewired(again, "work", ["work[b]"], [])

    assert expanded.needs == (Edge("x"), Edge("work[a]", NeedOn.FAILED), Edge("work[b]", NeedOn.FAILED))
    assert again.needs == (Edge("x"), Edge("work[b]", NeedOn.FAILED))
    assert empty.needs == waiting.needs


def test_rewired_when_nothing_changes_then_the_step_is_the_same() -> None:
    stranger = Step(name="x", job_id=1, needs=(Edge("y"),))
    done = Step(name="sum", job_id=9, needs=(Edge("work[a]"),))

    assert rewired(stranger, "work", [], ["work[a]"]) is stranger
    assert rewired(done, "work", ["work[a]"], ["work[a]"]) is done


def outer(**fields: Any) -> Flow:
    """A flow whose step `build` is a flow with a list that comes later."""
    inner = replace(flow(width=2), parameters={"x": "0"})
    build = StepParams(workflow=inner, parameters={"x": "{{item}}{{y}}"}, each=("a", "b"), **fields)
    return Flow(name="outer", steps={"build": build}, parameters={"y": ""})


def test_place_when_a_group_is_inside_then_its_flow_and_parameters_are_found() -> None:
    place = place_of(outer(critical=False), {"y": "1"}, "build[b]/work")

    assert (place.entry, place.outer, place.parameters, place.critical) == ("work", "build[b]/", {"x": "b1"}, False)
    assert place.step.each == LIST


def test_group_when_it_is_inside_then_its_steps_have_their_names_in_the_whole() -> None:
    group = group_of(place_of(outer(), {"y": "1"}, "build[b]/work"), ["1"])

    (step,) = group.steps
    assert (group.name, step.name, step.group) == ("build[b]/work", "build[b]/work[1]", "build[b]/work")
    assert (step.parent, step.sent.args, step.critical) == ("build[b]", ("1", "b1"), True)


def test_group_when_its_items_are_flows_then_it_has_the_widths_inside() -> None:
    inner = Flow(name="inner", steps={"one": StepParams(command="/bin/x", each=("1",), width=3)})
    steps = {"list": StepParams(command="/bin/list"), "build": StepParams(workflow=inner, each=LIST)}

    group = group_of(place_of(Flow(name="outer", steps=steps), {}, "build"), ["a", "b"])

    assert group.widths == {"build[a]/one": 3, "build[b]/one": 3}
    assert [len(step.inner.steps) for step in group.steps if step.inner] == [1, 1]


def test_if_when_a_list_comes_later_then_each_step_of_the_group_has_it() -> None:
    entry = msgspec.structs.replace(flow().steps["work"], run_if="item == 'a'")
    sent = msgspec.structs.replace(flow(), steps={**flow().steps, "work": entry})

    steps = group_of(place_of(sent, {}, "work"), ["a", "b"]).steps

    assert [one.run_if for one in steps] == [RunIf(text="item == 'a'", item=item) for item in ("a", "b")]
    assert {one.text_of_if for one in steps} == {"item == 'a'"}
    control = [
        one for one in plan_flow(FlowRequest(flow=sent, raw=msgspec.Raw()), None).steps if one.source is not None
    ]
    assert [(one.run_if, one.text_of_if) for one in control] == [(None, "item == 'a'")]
