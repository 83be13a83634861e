"""Needs on work outside of a workflow: the steps that wait for it, mistakes, parts of a flow, and what an end means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.answers import JobStanding
from stoker.core.job.model import ExecutionMode, NeedOn, Reason, Spec, State, When
from stoker.core.workflow.definition import (
    OUTSIDE,
    Flow,
    FlowRequest,
    ItemSource,
    Part,
    StepDefaults,
    StepNeed,
    StepParams,
    StepWhen,
)
from stoker.core.workflow.fan_out import Inner, Planned
from stoker.core.workflow.nesting import is_critical, with_inner_steps
from stoker.core.workflow.outside import why_not
from stoker.core.workflow.plan import Plan, plan_flow
from stoker.core.workflow.reuse import EarlierRun, EarlierStep, ReuseWish, decide
from stoker.core.workflow.selection import select
from stoker.core.workflow.state import Edge, WorkflowState
from stoker.core.workflow.step_names import group_of, steps_named

JOB, FLOW = StepNeed(job=41), StepNeed(workflow=12, on=NeedOn.FAILED)


def step(*needs: str | StepNeed, **fields: Any) -> StepParams:
    return StepParams(command="true", needs=needs, **fields)


def plan_of(steps: dict[str, StepParams], **fields: Any) -> Plan:
    return plan_flow(FlowRequest(flow=Flow(name="flow", steps=steps, **fields), raw=msgspec.Raw()), None)


def mistakes_of(steps: dict[str, StepParams], **fields: Any) -> dict[str, str]:
    return {mistake.path: mistake.message for mistake in plan_of(steps, **fields).mistakes}


def test_plan_when_steps_need_work_outside_then_one_step_waits_for_each() -> None:
    defaults = StepDefaults(env={"A": "{{item}}"}, queue="builds", max_attempts=3)
    made = {one.name: one for one in plan_of({"a": step(JOB, FLOW), "b": step("a", JOB)}).steps}
    of_items = plan_of({"each": step(JOB, each=("x",))}, defaults=defaults)

    assert set(made) == {"job:41", "workflow:12", "a", "b"}
    assert made["a"].needs == (Edge("job:41"), Edge("workflow:12", NeedOn.FAILED))
    assert made["b"].needs == (Edge("a"), Edge("job:41"))
    waiting = made["job:41"]
    assert (waiting.control, waiting.critical, waiting.sent.wait_for) == (True, False, "job:41")
    assert (waiting.sent.command, waiting.sent.execution_mode) == (OUTSIDE, ExecutionMode.IN_PROCESS)
    assert waiting.path == "steps.a.needs[0].job"
    assert [one.name for one in of_items.steps] == ["job:41", "each[x]"]


def test_plan_when_a_condition_counts_the_needs_then_work_outside_counts_too() -> None:
    made = {one.name: one for one in plan_of({"a": step(), "b": step("a", JOB, when=StepWhen.ANY_FAILED)}).steps}

    assert made["b"].needs == (Edge("a", NeedOn.ANY), Edge("job:41", NeedOn.ANY))
    assert made["b"].when is When.ANY_FAILED


def test_plan_when_a_nested_flow_needs_work_outside_then_it_waits_inside_that() -> None:
    inner = Flow(name="inner", steps={"a": step(JOB)})
    plan = plan_of({"first": step(), "build": StepParams(workflow=inner, needs=("first",))})
    made = {one.name: one for one in plan.steps}

    assert made["build/job:41"].needs == (Edge("build:begin"),)
    assert made["build/a"].needs == (Edge("build/job:41"),)
    assert made["build/job:41"].path == "steps.build.workflow.steps.a.needs[0].job"
    assert not is_critical(inner, "build", "build/job:41")


def test_plan_when_a_list_comes_from_a_step_then_the_work_outside_waits_already() -> None:
    steps = {"list": step(), "each": step(JOB, each=ItemSource(step="list", output="l"))}

    assert [one.name for one in plan_of(steps).steps if one.control] == ["job:41", "each"]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ((StepNeed(),), "a need names one of `step`, `job` and `workflow`"),
        ((StepNeed(job=1, workflow=2),), "a need names one of `step`, `job` and `workflow`"),
        ((StepNeed(step="a", job=1),), "a need names one of `step`, `job` and `workflow`"),
        ((StepNeed(job=41, same="item"),), "step 'job:41' has no items"),
    ],
)
def test_plan_when_a_need_names_several_or_nothing_then_that_is_a_mistake(needs: Any, message: str) -> None:
    assert mistakes_of({"a": step(), "b": step(*needs)}) == {"steps.b.needs[0]": message}


def test_plan_when_work_outside_is_named_twice_or_as_a_step_then_these_are_mistakes() -> None:
    assert mistakes_of({"a": step(JOB, JOB, "workflow:12"), "b": step(FLOW, "job:9")}) == {
        "steps.a.needs[1]": "step 'job:41' is named twice",
        "steps.a.needs[2]": "there is no step 'workflow:12'",
        "steps.b.needs[1]": "there is no step 'job:9'",
    }


def test_plan_when_a_handler_needs_work_outside_then_that_is_a_mistake() -> None:
    shown = mistakes_of({"a": step()}, on_failure={"tell": step(JOB)})

    assert shown == {"on_failure.tell.needs[0]": "a handler can need only handlers of [on_failure]"}


def test_part_when_it_needs_work_outside_then_it_waits_for_that() -> None:
    plan = plan_of({"a": step(JOB), "b": step("a", FLOW), "c": step(StepNeed(job=7))})

    def names(**of: tuple[str, ...]) -> list[str]:
        return sorted(one.name for one in select(plan, Part(**of)).plan.steps)

    assert names(targets=("a",)) == ["a", "job:41"]
    assert names(starts=("b",)) == ["b", "workflow:12"]


def test_reuse_when_a_step_waited_for_work_outside_then_it_looks_again() -> None:
    (planned,) = (one for one in plan_of({"a": step(JOB)}).steps if one.control)
    spec = Spec(command=OUTSIDE, working_dir="/", execution_mode=ExecutionMode.IN_PROCESS)
    earlier = EarlierStep(job=1, state=State.SUCCEEDED, reason=Reason.EXIT, spec=spec)

    (decision,) = decide([(planned, spec)], ReuseWish(earlier=EarlierRun(3, {"job:41": earlier})))

    assert (decision.taken, decision.why) == (None, "it looks at work outside of the workflow")


def test_name_when_a_step_waits_for_work_outside_then_it_is_in_no_group() -> None:
    groups = {name: group_of(name) for name in ("job:41", "build/workflow:12", "jobs:1")}

    assert groups == {"job:41": "job:41", "build/workflow:12": "build/workflow:12", "jobs:1": "jobs"}
    assert steps_named("job", ["job", "job:41"]) == ["job"]


def test_inner_steps_when_a_step_is_a_flow_then_they_are_listed_with_it() -> None:
    inner = Planned(name="a", sent=step())
    outer = Planned(name="build", sent=step(), inner=Inner((inner,), {}, {}))

    assert [one.name for one in with_inner_steps([outer, replace(inner, name="b")])] == ["build", "a", "b"]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (None, "job 41 was removed, so its end is not known"),
        (JobStanding(id=41, state=State.SUCCEEDED), None),
        (JobStanding(id=41, state=State.SKIPPED, reason=Reason.USER), None),
        (
            JobStanding(id=41, state=State.SKIPPED, reason=Reason.DEPENDENCY),
            "job 41 did not succeed: it is skipped (dependency)",
        ),
        (JobStanding(id=41, state=State.FAILED, reason=Reason.EXIT), "job 41 did not succeed: it is failed (exit)"),
        (JobStanding(id=41, state=State.RUNNING), "job 41 runs again (running); once it has ended: RETRY"),
        (WorkflowState.SUCCEEDED, None),
        (WorkflowState.CANCELLED, "job 41 did not succeed: it is cancelled"),
        (WorkflowState.PAUSED, "job 41 runs again (paused); once it has ended: RETRY"),
    ],
)
def test_end_when_the_step_looks_then_only_a_good_one_lets_it_succeed(end: Any, why: str | None) -> None:
    assert why_not("job:41", end, "RETRY") == why
