"""Handlers of a whole workflow: which of them run, in which order, and when they run again."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.model import Need, NeedOn, Reason, State
from stoker.core.workflow.definition import (
    MAX_STEPS,
    Concurrency,
    ConcurrencyPolicy,
    Flow,
    FlowLimits,
    FlowRequest,
    ItemSource,
    StepParams,
)
from stoker.core.workflow.handlers import FINALLY_TIMEOUT_MS, Handler, applies, gate
from stoker.core.workflow.phases import PHASES, cycle_in, in_order, layers, phase, phase_in
from stoker.core.workflow.plan import WHOLE, Plan, plan_flow
from stoker.core.workflow.resume import Act, ResumeInputs, ResumeStanding, plan
from stoker.core.workflow.state import Edge, Step, Strategy, handlers
from tests.support.jobs import job

A, B = Step(name="a", job_id=1), Step(name="b", job_id=2, needs=(Edge("a"),))
ALERT = Step(name="alert", job_id=3, handler=Handler.ON_FAILURE)
PUBLISH = Step(name="publish", job_id=4, handler=Handler.ON_SUCCESS)
CLEAN = Step(name="clean", job_id=5, handler=Handler.FINALLY)
REPORT = Step(name="report", job_id=6, needs=(Edge("clean"),), handler=Handler.FINALLY)
STEPS = [A, B, ALERT, PUBLISH, CLEAN, REPORT]


def planned(steps: dict[str, StepParams], handlers: dict[str, Handler]) -> Plan:
    """The plan of these entries; `handlers`: the table of those that are no steps."""
    tables: dict[str, dict[str, StepParams]] = {}
    for name, entry in steps.items():
        tables.setdefault(handlers.get(name, "steps"), {})[name] = entry
    flow = Flow(name="f", steps={})
    renamed = {"finally_" if table == "finally" else str(table): entries for table, entries in tables.items()}
    return plan_flow(FlowRequest(flow=replace(flow, **renamed), raw=msgspec.Raw(b"{}")), None)


@pytest.mark.parametrize(
    ("handler", "failed", "cancelled", "runs"),
    [
        (Handler.ON_FAILURE, True, False, True),
        (Handler.ON_FAILURE, False, False, False),
        (Handler.ON_FAILURE, True, True, False),
        (Handler.ON_SUCCESS, False, False, True),
        (Handler.ON_SUCCESS, True, False, False),
        (Handler.ON_SUCCESS, False, True, False),
        (Handler.FINALLY, True, False, True),
        (Handler.FINALLY, False, True, True),
    ],
)
def test_handler_when_all_steps_have_ended_then_the_table_says_whether_it_runs(
    *, handler: Handler, failed: bool, cancelled: bool, runs: bool
) -> None:
    assert applies(handler, failed=failed, cancelled=cancelled) is runs


def test_gate_when_a_job_is_asked_for_its_needs_then_it_is_none_of_them() -> None:
    own = job(State.WAITING)
    handler = replace(own, spec=replace(own.spec, needs=(gate(own.id), Need(9))))

    assert handler.needed == [9]


def test_phases_when_a_flow_has_each_table_then_finally_is_the_last() -> None:
    assert [phase(None), *map(phase, Handler)] == [0, 1, 1, 2]
    assert max(map(phase, Handler)) < PHASES
    assert [phase_in(outer, "build/clean", Handler.FINALLY) for outer in ("", "build/")] == [0, 2]
    assert phase_in("", "clean", Handler.FINALLY) == 2


def test_order_when_nested_flows_have_handlers_then_each_follows_its_own_steps() -> None:
    needs = {
        "clean": [], "build": ["build/a", "build/clean", "build/in"], "build/clean": [], "build/a": [],
        "build/in": ["build/in/x", "build/in/tell"], "build/in/tell": [], "build/in/x": ["build/a"],
    }  # fmt: skip
    tables = {"clean": "finally", "build/clean": "finally", "build/in/tell": "on_failure"}

    assert [*layers(needs, tables)] == [
        ["build/a"],
        ["build/in/x"],
        ["build/in/tell"],
        ["build/in"],
        ["build/clean"],
        ["build"],
        ["clean"],
    ]
    assert [*in_order(needs, tables)] == [name for layer in layers(needs, tables) for name in layer]


def test_plan_when_it_has_handlers_then_they_are_last_and_have_defaults() -> None:
    limited = StepParams(command="true", timeout_ms=5, critical=True)
    steps = {
        "clean": StepParams(command="true"),
        "report": replace(limited, needs=("clean",)),
        "alert": StepParams(command="true", timeout_ms=None),
        "a": StepParams(command="true"),
    }

    plan = planned(steps, {"clean": Handler.FINALLY, "report": Handler.FINALLY, "alert": Handler.ON_FAILURE})

    assert plan.mistakes == ()
    assert plan.layers == [["a"], ["alert"], ["clean"], ["report"]]
    assert [(one.name, one.path, one.critical, one.sent.timeout_ms) for one in plan.steps] == [
        ("a", "steps.a", True, msgspec.UNSET),
        ("alert", "on_failure.alert", False, None),
        ("clean", "finally.clean", False, FINALLY_TIMEOUT_MS),
        ("report", "finally.report", True, 5),
    ]


def test_plan_when_needs_lead_from_one_table_to_another_then_each_is_a_mistake() -> None:
    of = {
        name: StepParams(command="true", needs=(need,))
        for name, need in {"a": "x", "x": "a", "y": "z", "z": "y"}.items()
    }

    plan = planned(of, {"x": Handler.FINALLY, "y": Handler.ON_SUCCESS, "z": Handler.ON_SUCCESS})

    assert {one.path: one.message for one in plan.mistakes} == {
        "steps.a.needs[0]": "'x' is a handler, which runs after all steps",
        "finally.x.needs[0]": "a handler can need only handlers of [finally]",
        "on_success.z.needs": "a cycle: y -> z -> y, each needed by the next",
    }


@pytest.mark.parametrize(
    ("roots", "again"),
    [
        ({"a", "b"}, {"alert", "publish", "clean", "report"}),
        ({"alert"}, {"clean", "report"}),
        ({"clean"}, set[str]()),
        (set[str](), set[str]()),
    ],
)
def test_handlers_when_steps_run_again_then_those_of_later_phases_do(roots: set[str], again: set[str]) -> None:
    states = dict.fromkeys((step.name for step in STEPS), State.SUCCEEDED)

    assert handlers(STEPS, roots, states, dict.fromkeys(states)) == again


INNER = [
    Step(name="build/a", job_id=11),
    Step(name="build/clean", job_id=12, handler=Handler.FINALLY),
    Step(name="build", job_id=13, needs=(Edge("build/a", NeedOn.ANY), Edge("build/clean", NeedOn.ANY))),
    Step(name="other/a", job_id=14),
    Step(name="other/clean", job_id=15, handler=Handler.FINALLY),
]


@pytest.mark.parametrize(
    ("roots", "again"),
    [
        ({"build/a"}, {"build", "build/clean", "clean", "publish", "report", "alert"}),
        ({"build/clean"}, {"build", "clean", "publish", "report", "alert"}),
        ({"alert"}, {"clean", "report"}),
    ],
)
def test_handlers_when_nested_steps_run_again_then_those_around_them_do(roots: set[str], again: set[str]) -> None:
    steps = [*STEPS, *INNER]
    states = dict.fromkeys((step.name for step in steps), State.SUCCEEDED)

    assert handlers(steps, roots, states, dict.fromkeys(states)) == again


def test_resume_when_a_nested_step_runs_again_then_its_handlers_do() -> None:
    states = {"build/a": State.FAILED, "build/clean": State.SUCCEEDED, "build": State.FAILED}
    standings = {step.name: ResumeStanding(states.get(step.name, State.SUCCEEDED), None, 1) for step in INNER}
    chosen = dict.fromkeys(("build/a", "build"), ("restart", Strategy.RESTART))

    acts = {one.step: one.act for one in plan(INNER, standings, ResumeInputs(chosen=chosen))}

    assert acts == {
        "build/a": Act.RESTART,
        "build/clean": Act.RESTART,
        "build": Act.RESTART,
        "other/a": Act.KEEP,
        "other/clean": Act.KEEP,
    }


@pytest.mark.parametrize(
    ("clean", "act"),
    [
        (ResumeStanding(State.SUCCEEDED, Reason.EXIT, 1), Act.RESTART),
        (ResumeStanding(State.SKIPPED, Reason.NOT_NEEDED), Act.RESTART),
        (ResumeStanding(State.SKIPPED, Reason.USER), Act.KEEP),
        (ResumeStanding(State.QUEUED), Act.RESTART),
        (ResumeStanding(State.RUNNING, None, 1, live=True), Act.WAIT),
    ],
)
def test_resume_when_a_step_runs_again_then_a_handler_that_ended_does(clean: ResumeStanding, act: Act) -> None:
    standings = {"a": ResumeStanding(State.CANCELLED, Reason.USER), "clean": clean}

    first, second = plan([CLEAN, A], standings, ResumeInputs())

    assert (first.step, first.act) == ("a", Act.AGAIN)
    assert (second.step, second.act) == ("clean", act)


def test_plan_when_a_workflow_or_a_group_has_limits_then_they_are_widths() -> None:
    each = StepParams(command="true", each=("x", "y"), fail_fast=True)
    flow = Flow(name="f", steps={"a": each, "b": replace(each, width=1), "c": replace(each, fail_fast=False)})
    flow = replace(flow, max_running=3, timeout_ms=5, deadline_ms=6)

    plan = plan_flow(FlowRequest(flow=flow, raw=msgspec.Raw(b"{}")), None)

    assert plan.widths == {"a": MAX_STEPS, "b": 1, WHOLE: 3}
    assert flow.limits == FlowLimits(timeout_ms=5, deadline_ms=6, max_running=3)


def test_plan_when_ends_contradict_then_each_is_a_mistake() -> None:
    ends = StepParams(command="true", abort_on=(1, 7), success_exit_codes=(7,), fail_fast=True)
    source = ItemSource(step="b", output="x")
    steps = {"a": ends, "b": StepParams(command="true"), "c": StepParams(command="true", each=source)}
    inner = Flow(name="inner", steps={"z": StepParams(command="true")})

    plan = planned(
        steps | {"d": StepParams(command="true", abort_on=(1,)), "e": StepParams(workflow=inner)},
        {"b": Handler.FINALLY, "c": Handler.FINALLY, "d": Handler.FINALLY, "e": Handler.FINALLY},
    )

    assert {one.path: one.message for one in plan.mistakes} == {
        "steps.a.fail_fast": "only a step with `each` or `matrix` has others of its group",
        "steps.a.abort_on": "exit code 7 is a success (success_exit_codes)",
        "finally.c.each": "the list of a handler is known at the submit",
        "finally.d.abort_on": "a handler runs after all steps, so it ends none",
        "finally.e.workflow": "a handler is one step",
    }


def test_step_when_it_says_no_codes_that_abort_then_it_has_none() -> None:
    plan = planned({"a": StepParams(command="true"), "b": StepParams(command="true", abort_on=(3,))}, {})

    assert {step.name: step.abort_on for step in plan.steps} == {"a": (), "b": (3,)}


def test_plan_when_it_has_a_key_then_its_names_are_replaced() -> None:
    flow = Flow(name="f", steps={"a": StepParams(command="true")}, parameters={"env": "prod", "none": ""})
    keys = {"deploy-{{env}}": None, "{{none}}": "filled in, it has 0 characters; 1 to 256 are allowed"}

    for key, mistake in keys.items():
        whole = replace(flow, concurrency=Concurrency(key=key))
        plan = plan_flow(FlowRequest(flow=whole, raw=msgspec.Raw(b"{}")), None)

        assert [one.message for one in plan.mistakes] == ([] if mistake is None else [mistake])
        if mistake is None:
            assert plan.concurrency == Concurrency(key="deploy-prod", policy=ConcurrencyPolicy.QUEUE)


@pytest.mark.parametrize("first", ["in/a", "in", "in/clean"])
def test_cycle_when_it_goes_through_a_handler_then_its_steps_are_named(first: str) -> None:
    """`in` ends after its handler, and the handler runs after `in/a`, which it does not need."""
    needs: dict[str, list[str]] = {first: [], "b": ["in"], "in/a": [], "in": ["in/clean"], "in/clean": []}
    tables = {"in/clean": "finally"}
    assert cycle_in(needs, tables) == []

    cycle = cycle_in({**needs, "in/a": ["in"]}, tables)

    before = {"in/a": "in/clean", "in/clean": "in", "in": "in/a"}
    assert len(cycle) == 4
    assert [before[one] for one in cycle[:-1]] == cycle[1:]
