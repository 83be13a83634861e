"""Needs on one step of a group: of the same item, or by its name; and the defaults of a flow, which steps inherit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stoker.core.job.conditions import ConditionGroup
from stoker.core.requests import JobDefaults
from stoker.core.workflow import strategies
from stoker.core.workflow.definition import (
    MAX_STEPS,
    Flow,
    FlowRequest,
    ItemSource,
    StepDefaults,
    StepNeed,
    StepParams,
)
from stoker.core.workflow.fan_out import EMPTY
from stoker.core.workflow.mistakes import MAX_MISTAKES
from stoker.core.workflow.plan import MAX_EDGES, Plan, plan_flow

LATER = ItemSource(step="list", output="files")
SAME = StepNeed(step="align", same="item")


def step(command: str = "true", **fields: Any) -> StepParams:
    return StepParams(command=command, **fields)


def made_of(steps: dict[str, StepParams], **more: Any) -> Plan:
    flow = Flow(name="x", steps=steps, **more)
    return plan_flow(FlowRequest(flow=flow, raw=msgspec.Raw(b"{}")), strategies.all_names())


def needs_of(plan: Plan) -> dict[str, list[str]]:
    assert plan.mistakes == ()
    return {one.name: [edge.step for edge in one.needs] for one in plan.steps if one.needs}


def mistakes_of(steps: dict[str, StepParams], **more: Any) -> dict[str, str]:
    return {one.path: one.message for one in made_of(steps, **more).mistakes}


def test_needs_when_they_are_of_the_same_item_then_each_chain_stands_alone() -> None:
    chain = {
        "align": step(each=("x", "y"), needs=("get",)),
        "sort": step(each=("y", "x"), needs=(SAME, "get")),
        "gather": step(needs=("sort",)),
        "get": step(),
    }

    assert needs_of(made_of(chain)) == {
        "align[x]": ["get"],
        "align[y]": ["get"],
        "sort[y]": ["get", "align[y]"],
        "sort[x]": ["get", "align[x]"],
        "gather": ["sort[y]", "sort[x]"],
    }


def test_needs_when_they_name_a_step_of_a_group_then_it_is_that_one() -> None:
    items = ("a b", "c", {"k": "c", "v": 2})
    steps = {
        "align": step(each=items),
        "sort": step(each=("a b", "c"), needs=("align[{{item}}]", "align[c]")),
        "first": step(needs=("align[{{which}}]", StepNeed(step="align[c,2]"))),
        "of_table": step(each=({"k": "c"},), needs=("align[{{item.k}},2]",)),
    }

    assert needs_of(made_of(steps, parameters={"which": "a_b"})) == {
        "sort[a_b]": ["align[a_b]", "align[c]"],
        "sort[c]": ["align[c]"],
        "first": ["align[a_b]", "align[c,2]"],
        "of_table[c]": ["align[c,2]"],
    }


def test_needs_when_groups_differ_then_the_missing_items_are_named() -> None:
    steps = {"align": step(each=("x", "y", "z")), "sort": step(each=("x", "v", "w"), needs=(SAME,))}

    mistakes = made_of(steps).mistakes

    assert [(one.path, one.message) for one in mistakes] == [
        ("steps.sort.needs[0]", "'align' has no v, w"),
        ("steps.sort.needs[0]", "'align' also has y, z"),
    ]


@pytest.mark.parametrize(
    ("sort", "path", "message"),
    [
        (step(needs=(SAME,)), "needs[0].same", "only a step with `each` or `matrix` has an item"),
        (step(each=("x",), needs=(StepNeed(step="get", same="item"),)), "needs[0]", "step 'get' has no items"),
        (step(needs=("get[x]",)), "needs[0]", "step 'get' has no items"),
        (step(needs=("align[y]",)), "needs[0]", "'align' has no y (it has: x)"),
        (step(needs=("align[{{p}}]",)), "needs[0]", "{{p}}: no such parameter (there are: none)"),
        (step(needs=("align[{{item}}]",)), "needs[0]", "{{item}}: no such parameter (there are: none)"),
        (
            step(each=("x",), needs=("align[{{item.a}}]",)),
            "needs[0]",
            "{{item.a}}: an item is no table, so it has no keys",
        ),
        (
            step(each=("x",), needs=(StepNeed(step="align[x]", same="item"),)),
            "needs[0]",
            "'align[x]' names one step already",
        ),
        (
            step(each=LATER, needs=("align[x]",)),
            "needs[0]",
            "the items of this step are known only once its list is there",
        ),
        (step(needs=("later[x]",)), "needs[0]", "the items of later are known only once its list is there"),
        (
            step(each=("x",), needs=(StepNeed(step="later", same="item"),)),
            "needs[0]",
            "the items of later are known only once its list is there",
        ),
        (step(needs=("align[x]", "align[x]")), "needs[1]", "step 'align[x]' is named twice"),
        (step(needs=("align", "align[x]")), "needs[1]", "step 'align[x]' is named twice"),
        (step(needs=("align[x]", "align")), "needs[1]", "step 'align' is named twice"),
        (step(each=("x",), needs=("sort[x]",)), "needs[0]", "a step cannot need itself"),
        (step(needs=("nowhere[x]",)), "needs[0]", "there is no step 'nowhere'"),
    ],
)
def test_needs_when_no_such_step_can_be_meant_then_it_says_why(sort: StepParams, path: str, message: str) -> None:
    steps = {
        "align": step(each=("x",)),
        "get": step(),
        "list": step(),
        "later": step(each=LATER),
        "sort": sort,
    }

    assert mistakes_of(steps) == {f"steps.sort.{path}": message}


def test_needs_when_a_list_is_empty_then_one_step_stands_for_it() -> None:
    steps = {
        "get": step(),
        "align": step(each=(), needs=("get",)),
        "sort": step(matrix={"x": ()}, needs=(SAME, "get")),
        "one": step(each=(), needs=("full[{{item}}]",)),
        "full": step(each=("x",)),
        "link": step(needs=("align", "sort")),
    }

    plan = made_of(steps)

    assert needs_of(plan) == {
        "align": ["get"],
        "sort": ["align", "get"],
        "one": ["full[x]"],
        "link": ["align", "sort"],
    }
    assert {one.sent.command for one in plan.steps if one.control} == {EMPTY}


def test_needs_when_one_list_of_two_is_empty_then_the_missing_items_are_named() -> None:
    full = {"align": step(each=("x",)), "sort": step(each=(), needs=(SAME,))}
    empty = {"align": step(each=()), "sort": step(each=("x",), needs=(SAME,))}

    assert mistakes_of(full) == {"steps.sort.needs[0]": "'align' also has x"}
    assert mistakes_of(empty) == {"steps.sort.needs[0]": "'align' has no x"}


def test_plan_when_all_lists_are_empty_then_it_is_refused() -> None:
    assert mistakes_of({"a": step(each=())}) == {"steps": "all lists are empty, so there is no step to run"}


def test_needs_when_items_are_known_later_then_groups_expand_one_after_the_other() -> None:
    later = {"list": step(), "align": step(each=LATER), "sort": step(each=LATER, needs=(SAME,))}

    assert needs_of(made_of(later)) == {"align": ["list"], "sort": ["list", "align"]}
    assert needs_of(made_of({**later, "align": step(each=("x",))})) == {"sort": ["list"]}


def test_needs_when_groups_need_each_other_by_item_then_it_is_a_cycle() -> None:
    of_sort = StepNeed(step="sort", same="item")
    steps = {"align": step(each=("x",), needs=(of_sort,)), "sort": step(each=("x",), needs=(SAME,))}

    (mistake,) = made_of(steps).mistakes

    assert set(mistake.cycle) == {"align", "sort"}


def test_needs_when_each_item_needs_one_then_only_the_needs_that_are_made_count() -> None:
    items = tuple(str(number) for number in range(MAX_STEPS // 2))
    steps = {"align": step(each=items), "sort": step(each=items, needs=(SAME,))}

    assert len(needs_of(made_of(steps))) == len(items)
    assert str(MAX_EDGES) in mistakes_of({**steps, "sort": step(each=items, needs=("align",))})["steps"]


def test_needs_when_many_items_name_nothing_then_the_first_mistakes_are_enough() -> None:
    items = tuple(str(number) for number in range(2 * MAX_MISTAKES))
    steps = {"align": step(each=("x",)), "sort": step(each=items, needs=("align[{{item}}]",))}

    assert len(made_of(steps).mistakes) == MAX_MISTAKES


def test_needs_when_the_other_group_was_misread_then_its_items_are_not_judged() -> None:
    steps = {
        "align": step(matrix={"os": ({"a": 1},)}),
        "sort": step(each=("x",), needs=(SAME,)),
        "all": step("{{item.x}}", matrix={"os": ({"a": 1},)}, needs=(SAME,)),
    }

    assert sorted(mistakes_of(steps)) == ["steps.align.matrix.os[0]", "steps.all.matrix.os[0]"]


def test_matrix_when_a_step_has_one_then_its_values_stand_in_names_and_texts() -> None:
    matrix = {
        "os": ("linux", "{{other}}"),
        "version": (3, 4),
        "exclude": ({"os": "mac", "version": 3},),
        "include": ({"os": "linux", "flags": "-q"}, {"os": "mac", "flags": ""}),
    }
    steps = {"test": step("{{item.os}}", args=("{{item.version}}{{item.flags}}",), matrix=matrix, width=1)}

    plan = made_of(steps, parameters={"other": "mac"})

    assert [(one.name, one.sent.command, one.sent.args) for one in plan.steps] == [
        ("test[linux,3,-q]", "linux", ("3-q",)),
        ("test[linux,4,-q]", "linux", ("4-q",)),
        ("test[mac,4,]", "mac", ("4",)),
    ]


def test_matrix_when_it_makes_too_many_then_the_error_has_their_number() -> None:
    million = step("{{item.a}}", matrix={"a": tuple(range(1_000)), "b": tuple(range(1_000))})

    assert mistakes_of({"m": million}) == {"steps": f"1000000 steps; the limit is {MAX_STEPS}"}


def test_matrix_when_the_step_also_has_each_then_both_are_refused() -> None:
    assert mistakes_of({"m": step(matrix={"a": (1,)}, each=("x",))}) == {
        "steps.m.matrix": "a step has either `each` or `matrix`"
    }


def test_defaults_when_compared_with_a_step_then_command_needs_and_items_are_missing() -> None:
    own = {"command", "args", "needs", "when", "run_if", "each", "matrix", "workflow", "parameters", "secrets"}
    assert set(StepParams.__struct_fields__) - set(StepDefaults.__struct_fields__) <= own
    assert set(JobDefaults.__struct_fields__) < set(StepDefaults.__struct_fields__)


def test_defaults_when_a_step_says_nothing_then_it_has_all_of_them() -> None:
    defaults = StepDefaults(
        critical=False,
        verify=True,
        width=2,
        queue="{{q}}",
        labels={"team": "{{q}}", "of": "flow"},
        resources={"gpu": 1},
        rate_key="api:{{item}}",
        wait_for="event:go-{{q}}",
    )
    own = step(each=("x",), labels={"of": "step"}, critical=True, resources={"cpu": 2}, verify=False)

    plan = made_of(
        {"a": step(each=("x",)), "b": own, "c": step(rate_key=None)}, defaults=defaults, parameters={"q": "night"}
    )

    first, second, third = plan.steps
    assert (first.critical, first.sent.verify, first.sent.queue, first.sent.rate_key) == (False, True, "night", "api:x")
    assert (first.sent.labels, first.sent.resources) == ({"team": "night", "of": "flow"}, {"gpu": 1})
    assert first.sent.wait_for == "event:go-night"
    assert (second.critical, second.sent.verify, second.sent.resources) == (True, False, {"cpu": 2})
    assert second.sent.labels == {"team": "night", "of": "step"}
    assert plan.widths == {"a": 2, "b": 2}
    assert third.sent.rate_key is None


def test_templates_when_what_they_make_is_no_name_then_each_field_is_refused() -> None:
    steps = {
        "a": step(queue="a b", rate_key="{{p}}", wait_for="event:{{p}}"),
        "c": step(wait_for=ConditionGroup(any=("file:/{{item}}", "file:/a")), each=("a", "b")),
    }

    assert mistakes_of(steps, parameters={"p": "not a name"}) == {
        "steps.a.queue": "'a b' is not a valid name",
        "steps.a.rate_key": "'not a name' is not a valid name",
        "steps.a.wait_for": "'not a name' is not the name of an event",
        "steps.c.wait_for": "file:/a is named twice",
    }


def test_templates_when_a_condition_names_no_parameter_then_it_is_refused() -> None:
    steps = {"a": step(wait_for=ConditionGroup(all=("file:/{{x}}", "event:a")))}

    assert mistakes_of(steps) == {"steps.a.wait_for": "{{x}}: no such parameter (there are: none)"}


def test_defaults_when_a_step_names_the_usual_strategy_then_it_keeps_that() -> None:
    plan = made_of(
        {"a": step(resume="from_checkpoint"), "b": step()}, defaults=StepDefaults(resume="restart"), verify=True
    )

    assert [(one.resume, one.sent.verify) for one in plan.steps] == [("from_checkpoint", True), ("restart", True)]
