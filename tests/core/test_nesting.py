"""Nested workflows: the steps that they become, their names and needs, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.model import NeedOn, When
from stoker.core.job.run_if import RunIf
from stoker.core.workflow.definition import (
    MAX_STEPS,
    Concurrency,
    Flow,
    FlowLimits,
    FlowRequest,
    ItemSource,
    Part,
    StepDefaults,
    StepParams,
)
from stoker.core.workflow.expansion import group_of, place_of
from stoker.core.workflow.fan_out import BEGIN, COLLECT
from stoker.core.workflow.nesting import has_later_list, inner_flow, is_critical, seen_as, split_word
from stoker.core.workflow.plan import Plan, plan_flow
from stoker.core.workflow.selection import select
from stoker.core.workflow.state import Edge

ANY = NeedOn.ANY


def step(*needs: str, **fields: Any) -> StepParams:
    return msgspec.convert({"command": "/bin/work", "needs": needs, **fields}, StepParams)


def nest(steps: dict[str, StepParams], *needs: str, **fields: Any) -> StepParams:
    inner = Flow(name="inner", steps=steps, parameters={"x": "0"})
    return msgspec.structs.replace(step(*needs, **fields), command="", workflow=inner)


def plan_of(steps: dict[str, StepParams], **fields: Any) -> Plan:
    return plan_flow(FlowRequest(flow=Flow(name="flow", steps=steps, **fields), raw=msgspec.Raw()), None)


def mistakes_of(steps: dict[str, StepParams], **fields: Any) -> dict[str, str]:
    return {mistake.path: mistake.message for mistake in plan_of(steps, **fields).mistakes}


def test_plan_when_a_step_is_a_flow_then_it_becomes_its_steps() -> None:
    inner = {"a": step(), "b": step("a"), "c": step(each=["1", "2"], width=2)}

    plan = plan_of({"first": step(), "build": nest(inner, "first", critical=False), "end": step("build")})

    names = [one.name for one in plan.steps]
    assert names == ["first", "build:begin", "build/a", "build/c[1]", "build/c[2]", "build/b", "build", "end"]
    made = {one.name: one for one in plan.steps}
    assert made["build:begin"].needs == (Edge("first"),)
    assert made["build/a"].needs == (Edge("build:begin"),)
    assert made["build/b"].needs == (Edge("build/a"),)
    ends = [Edge(f"build/{name}", ANY) for name in ("a", "c[1]", "c[2]", "b")]
    assert list(made["build"].needs) == [Edge("build:begin"), *ends]
    assert made["end"].needs == (Edge("build"),)
    assert [made[name].sent.command for name in ("build:begin", "build")] == [BEGIN, COLLECT]
    assert (made["build/c[1]"].group, made["build/c[1]"].parent) == ("build/c", "build")
    assert {one.critical for one in plan.steps if one.name.startswith("build")} == {False}
    assert plan.widths == {"build/c": 2}


def test_plan_when_a_nested_flow_needs_nothing_then_its_steps_begin_at_once() -> None:
    made = {one.name: one for one in plan_of({"build": nest({"a": step()})}).steps}

    assert (made["build/a"].needs, made["build/a"].when) == ((), None)
    assert (made["build"].needs, made["build"].when) == ((Edge("build/a", ANY),), When.EACH)


def test_plan_when_flows_are_inside_each_other_then_each_ends_its_own_steps() -> None:
    made = {one.name: one for one in plan_of({"a": nest({"b": nest({"c": step()}), "d": step("b")})}).steps}

    assert list(made) == ["a/b/c", "a/b", "a/d", "a"]
    assert (made["a"].needs, made["a/b"].needs) == ((Edge("a/b", ANY), Edge("a/d", ANY)), (Edge("a/b/c", ANY),))
    assert [made[name].parent for name in made] == ["a/b", "a", "a", None]
    assert made["a/b/c"].path == "steps.a.workflow.steps.b.workflow.steps.c"


def test_plan_when_parameters_have_values_then_the_inner_flow_gets_them() -> None:
    build = nest(
        {"a": step(args=["{{x}}"])}, parameters={"x": "{{y}}-{{item.os}}"}, each=[{"os": "bsd"}, {"os": "mac"}]
    )

    made = {one.name: one for one in plan_of({"build": build}, parameters={"y": "1"}).steps}

    assert made["build[bsd]/a"].sent.args == ("1-bsd",)
    assert made["build[mac]/a"].sent.args == ("1-mac",)


@pytest.mark.parametrize(
    ("steps", "path", "message"),
    [
        ({"a": StepParams()}, "steps.a.command", "this field is missing"),
        ({"a": step(parameters={"x": "1"})}, "steps.a.parameters", "only a step that is a workflow"),
        ({"a": nest({"b": step()}, max_attempts=2)}, "steps.a.max_attempts", "it has no effect on a step"),
        ({"a": nest({"b": step()}, parameters={"z": "1"})}, "steps.a.parameters.z", "the flow has no such parameter"),
        ({"a": nest({"b": step()}, parameters={"x": "{{z}}"})}, "steps.a.parameters.x", "{{z}}: no such parameter"),
        ({"a": nest({"b": step(args=["{{z}}"])})}, "steps.a.workflow.steps.b.args[0]", "{{z}}: no such parameter"),
        ({"a": nest({"b": step("c")})}, "steps.a.workflow.steps.b.needs[0]", "there is no step 'c'"),
    ],
)
def test_plan_when_a_nested_step_is_wrong_then_its_path_is_named(
    steps: dict[str, StepParams], path: str, message: str
) -> None:
    ((where, what),) = mistakes_of(steps).items()

    assert where == path
    assert message in what


def test_plan_when_a_nested_step_has_wrong_fields_then_their_order_is_fixed() -> None:
    fields = {"args": ["x"], "stdin": "x", "nice": 1, "max_attempts": 2, "width": 1, "verify": True}

    paths = [*mistakes_of({"a": nest({"b": step()}, **fields)})]

    assert paths == [f"steps.a.{name}" for name in StepParams.__struct_fields__ if name in fields]


def test_plan_when_a_nested_step_has_a_limit_then_the_hint_is_the_top_of_its_file() -> None:
    timed, retried = (
        plan_of({"a": nest({"b": step()}, **{field: 9})}).mistakes for field in ("timeout_ms", "max_attempts")
    )

    assert [mistake.hint for mistake in (*timed, *retried)] == [
        "say it at the top of that workflow",
        "say it in the steps or in [defaults] of that workflow",
    ]


@pytest.mark.parametrize(
    ("text", "right"),
    [("{{a.x}} and {{b.c.y.z}}", True), ("{{a}}", False), ("{{a.}}", False), ("{{z.x}}", False), ("{{each.x}}", False)],
)
def test_outputs_when_a_word_is_no_output_of_a_step_then_it_is_a_mistake(text: str, *, right: bool) -> None:
    steps = {"a": step(), "b.c": step(), "each": step(each=["1"])}

    assert (mistakes_of(steps, outputs={"o": text}) == {}) is right


def test_word_when_names_have_dots_then_the_step_is_found() -> None:
    flow = Flow(name="flow", steps={"b.c": step()})

    assert split_word(flow, "b.c.y.z") == ("b.c", "y.z")


def test_plan_when_a_nested_flow_has_a_key_of_whole_ones_then_it_is_refused() -> None:
    inner = Flow(name="inner", steps={"a": step()}, concurrency=Concurrency(key="k"))

    (mistake,) = plan_of({"build": replace(step(), command="", workflow=inner)}).mistakes

    assert mistake.path == "steps.build.workflow.concurrency"
    assert mistake.hint == "say it in the flow that is submitted"


def test_plan_when_a_nested_flow_has_handlers_then_they_end_before_it() -> None:
    last = {"clean": step(), "last": step("clean", critical=True)}
    inner = Flow(name="inner", steps={"a": step()}, on_failure={"alert": step()}, finally_=last)
    build = replace(step("x", critical=False), command="", workflow=inner)

    plan = plan_of({"x": step(), "build": build, "end": step("build")}, finally_={"bye": step()})

    assert plan.layers == [
        *(["x"], ["build:begin"], ["build/a"], ["build/alert"], ["build/clean"], ["build/last"]),
        *(["build"], ["end"], ["bye"]),
    ]
    made = {one.name: one for one in plan.steps}
    assert [*made] == [
        *("x", "build:begin", "build/a", "build/alert", "build/clean", "build/last", "build", "end", "bye")
    ]
    assert [made[name].needs for name in ("build/alert", "build/last")] == [
        (Edge("build:begin"),),
        (Edge("build/clean"),),
    ]
    assert {edge.step for edge in made["build"].needs} == {
        *("build:begin", "build/a", "build/alert", "build/clean", "build/last")
    }
    assert made["build/clean"].path == "steps.build.workflow.finally.clean"
    breaks = {name: (one.breaks, one.critical) for name, one in made.items() if name.startswith("build/")}
    assert breaks == {
        "build/a": (True, False),
        "build/alert": (False, False),
        "build/clean": (False, False),
        "build/last": (True, False),
    }
    assert [is_critical(inner, "build", f"build/{name}") for name in ("a", "alert", "last")] == [True, False, True]


def test_part_when_the_end_of_a_nested_flow_is_in_it_then_its_handlers_are_too() -> None:
    inner = Flow(name="inner", steps={"a": step(), "b": step()}, finally_={"clean": step()})
    plan = plan_of({"build": replace(step(), command="", workflow=inner)}, finally_={"bye": step()})

    parts = [
        [one.name for one in select(plan, part).plan.steps]
        for part in (Part(starts=("build/a",)), Part(targets=("build/a",)))
    ]

    assert parts == [["build/a", "build/clean", "build", "bye"], ["build/a", "bye"]]


def test_plan_when_a_nested_flow_has_labels_and_limits_then_its_steps_have_them() -> None:
    inner = Flow(
        name="inner", steps={"a": step(labels={"b": "2"}), "c": step()}, labels={"a": "1"}, priority=7, max_running=1
    )
    deep = Flow(name="deep", steps={"build": replace(step(), command="", workflow=inner), "d": step()}, max_running=3)

    plan = plan_of({"x": replace(step(), command="", workflow=deep)}, max_running=9)

    made = {one.name: one.sent for one in plan.steps}
    assert (made["x/build/a"].labels, made["x/build/c"].labels) == ({"a": "1", "b": "2"}, {"a": "1"})
    assert (made["x/build/c"].priority, made["x/d"].priority) == (7, msgspec.UNSET)
    assert (plan.widths, plan.labels) == ({"": 9, "x/": 3, "x/build/": 1}, {})


def test_plan_when_nested_flows_have_limits_of_time_then_names_lead_to_them() -> None:
    deep = Flow(name="deep", steps={"a": step()}, deadline_ms=9)
    child = Flow(name="child", steps={"in": replace(step(), command="", workflow=deep)}, timeout_ms=7)
    build = replace(step(each=["x", "y"]), command="", workflow=child)

    plan = plan_of({"build": build, "free": nest({"a": step()})}, timeout_ms=1_000)

    assert plan.inner_limits == {
        "build[x]/": FlowLimits(timeout_ms=7),
        "build[x]/in/": FlowLimits(deadline_ms=9),
        "build[y]/": FlowLimits(timeout_ms=7),
        "build[y]/in/": FlowLimits(deadline_ms=9),
    }
    assert plan.widths == dict.fromkeys(plan.inner_limits, MAX_STEPS)  # so that each can be closed


def test_part_when_it_leaves_out_the_end_of_a_nested_flow_then_its_limits_go_too() -> None:
    build = replace(step(), command="", workflow=Flow(name="child", steps={"a": step()}, timeout_ms=7))
    plan = plan_of({"build": build})

    parts = [select(plan, Part(targets=(name,))).plan for name in ("build", "build/a")]

    assert [[*part.inner_limits] for part in parts] == [["build/"], []]


def test_expansion_when_its_steps_are_flows_with_limits_then_it_has_these() -> None:
    child = Flow(name="child", steps={"a": step()}, timeout_ms=7)
    work = replace(step(each=ItemSource(step="list", output="o")), command="", workflow=child)
    outer = Flow(name="outer", steps={"list": step(), "work": work})
    flow = Flow(name="flow", steps={"build": replace(step(), command="", workflow=outer)})

    group = group_of(place_of(flow, {}, "build/work"), ["x"])

    assert group.inner_limits == {"build/work[x]/": FlowLimits(timeout_ms=7)}


def test_plan_when_a_list_comes_later_at_two_depths_then_it_is_refused() -> None:
    later = step(each=ItemSource(step="list", output="files"))
    inner = nest({"deep": nest({"list": step(), "work": later})}, each=ItemSource(step="list", output="files"))

    assert list(mistakes_of({"list": step(), "build": inner})) == ["steps.build.each"]
    assert not has_later_list(Flow(name="flow", steps={"a": step()}))


def test_plan_when_flows_are_too_deep_then_the_limit_is_named() -> None:
    steps = {"a": step()}
    for _ in range(8):
        steps = {"a": nest(steps)}

    ((path, message),) = mistakes_of(steps).items()

    assert path.count("workflow") == 8
    assert message == "more than 8 flows inside each other"


def test_plan_when_needs_of_nested_steps_are_too_many_then_they_are_counted() -> None:
    wide = {"a": step(each=[*range(100)]), "b": step("a", each=[*range(100)])}

    build = nest(wide, each=[*range(11)])

    assert mistakes_of({"build": build}) == {"steps": "112200 needs between steps; the limit is 100000"}


def test_plan_when_steps_of_nested_flows_are_too_many_then_they_are_counted_first() -> None:
    build = nest({"a": step(each=[*range(1_000)])}, each=[*range(1_000)])

    assert mistakes_of({"build": build}) == {"steps": "1002000 steps; the limit is 10000"}


def test_plan_when_a_nested_flow_has_a_mistake_then_its_steps_are_still_planned() -> None:
    plan = plan_of({"build": nest({"a": step("a"), "b": step()})})

    assert [one.name for one in plan.steps] == ["build/a", "build/b", "build"]


def test_inner_when_it_is_deep_then_the_flow_and_its_critical_steps_are_found() -> None:
    flow = Flow(name="flow", steps={"a": nest({"b": nest({"c": step(critical=False), "d": step(each=["x/y"])})})})

    inner = inner_flow(flow, "a/b")

    assert list(inner.steps) == ["c", "d"]
    assert not is_critical(inner, "a/b", "a/b/c")
    assert is_critical(inner, "a/b", "a/b/d[x/y]")


def test_defaults_when_the_outer_flow_has_some_then_the_inner_one_keeps_its_own() -> None:
    made = {one.name: one for one in plan_of({"a": nest({"b": step()})}, defaults=StepDefaults(max_attempts=3)).steps}

    assert made["a/b"].sent.max_attempts is msgspec.UNSET


def test_if_when_a_step_is_a_flow_then_it_decides_about_its_begin() -> None:
    """Without needs, too: its steps then wait for the decision."""
    inner = {"a": step(), "b": step("a", **{"if": "needs.a.state == 'succeeded'"})}

    made = {one.name: one for one in plan_of({"build": nest(inner, **{"if": "1 < 2"})}).steps}

    assert {name: one.run_if for name, one in made.items()} == {
        "build:begin": RunIf(text="1 < 2"),
        "build/a": None,
        "build/b": RunIf(text="needs.a.state == 'succeeded'", prefix="build/"),
        "build": None,
    }
    assert made["build/a"].needs == (Edge("build:begin"),)


@pytest.mark.parametrize(
    ("need", "seen"),
    [
        ("build[a/b]/make", "make"),
        ("build[a/b]/make[1]", "make[1]"),
        ("build[a/b]:begin", None),
        ("build[a/b]/use", None),
        ("else", "else"),
    ],
)
def test_need_when_a_step_is_inside_then_its_own_flow_names_it(need: str, seen: str | None) -> None:
    assert seen_as(need, "build[a/b]/use[c/d]") == seen


def test_plan_when_a_nested_step_watches_a_failure_then_it_needs_the_begin() -> None:
    inner = {"a": step(), "b": step("a", when="any_failed"), "c": step("a", when="always"), "d": step("b", "c")}

    made = {one.name: one for one in plan_of({"x": step(), "build": nest(inner, "x")}).steps}

    begun = [name for name, one in made.items() if Edge("build:begin") in one.needs]
    assert begun == ["build/a", "build/b", "build/c", "build"]
