"""From a flow to its plan: parameters, fan-out, order, and every mistake in one answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from stoker.core.errors import FlowInvalid
from stoker.core.job.model import ExecutionMode, NeedOn, When
from stoker.core.job.run_if import RunIf
from stoker.core.requests import MAX_TEXT
from stoker.core.similar_names import MOST_SEARCHED
from stoker.core.workflow import strategies
from stoker.core.workflow.cycles import CYCLE_ENDS, find_cycle
from stoker.core.workflow.definition import (
    MAX_STEPS,
    Flow,
    FlowRequest,
    ItemSource,
    StepDefaults,
    StepNeed,
    StepParams,
    StepWhen,
)
from stoker.core.workflow.fan_out import EXPAND, MAX_CHARACTERS, Planned
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake, refuse
from stoker.core.workflow.phases import layers
from stoker.core.workflow.plan import MAX_EDGES, Plan, plan_flow
from stoker.core.workflow.state import Edge


def step(command: str = "true", **fields: Any) -> StepParams:
    return StepParams(command=command, **fields)


def flow(steps: dict[str, StepParams], **fields: Any) -> Flow:
    return Flow(name="build", steps=steps, **fields)


def asked(sent: Flow, **more: Any) -> FlowRequest:
    return FlowRequest(flow=sent, raw=msgspec.Raw(b"{}"), **more)


def made_of(sent: Flow, **given: str) -> Plan:
    """The plan of a flow, or its mistakes."""
    return plan_flow(asked(sent, parameters=given), strategies.all_names())


def mistakes_of(sent: Flow, **given: str) -> dict[str, str]:
    """The mistakes of a flow, by path."""
    return {one.path: one.message for one in made_of(sent, **given).mistakes}


def test_plan_when_steps_need_each_other_then_they_are_in_an_order_to_run_in() -> None:
    after_get = StepNeed(step="get", on=NeedOn.ANY)
    sent = flow({"link": step(needs=("compile",)), "compile": step(needs=(after_get,)), "get": step()})

    planned = made_of(sent)

    assert [one.name for one in planned.steps] == ["get", "compile", "link"]
    assert [one.needs for one in planned.steps] == [(), (Edge("get", NeedOn.ANY),), (Edge("compile"),)]


@pytest.mark.parametrize(
    ("when", "on", "counting"),
    [
        (StepWhen.ALL_OK, NeedOn.OK, When.EACH),
        (StepWhen.ALL_FAILED, NeedOn.FAILED, When.EACH),
        (StepWhen.ALWAYS, NeedOn.ANY, When.EACH),
        (StepWhen.ANY_OK, NeedOn.ANY, When.ANY_OK),
        (StepWhen.ANY_FAILED, NeedOn.ANY, When.ANY_FAILED),
    ],
)
def test_plan_when_a_step_has_a_condition_then_it_is_of_all_its_needs(
    when: StepWhen, on: NeedOn, counting: When
) -> None:
    after = step(needs=("a", StepNeed(step="b")), when=when)

    *_, planned = made_of(flow({"a": step(), "b": step(), "c": after})).steps

    assert planned.needs == (Edge("a", on), Edge("b", on))
    assert planned.when is counting


def test_plan_when_a_step_has_when_and_on_then_both_are_refused() -> None:
    twice = step(needs=("a", StepNeed(step="b", on=NeedOn.ANY)), when=StepWhen.ALL_OK)

    assert mistakes_of(flow({"a": step(when=StepWhen.ALWAYS), "b": step(), "c": twice})) == {
        "steps.a.when": "only a step with needs has a condition",
        "steps.c.needs[1].on": "`when` speaks for all needs of the step",
    }


def test_plan_when_parameters_are_given_then_every_text_of_a_step_is_filled() -> None:
    template = step(
        "{{tool}}",
        args=("-o", "{{ out }}", "${HOME}"),
        env={"OUT": "{{out}}"},
        working_dir="/{{out}}",
        stdin="{{out}}",
        name="make {{out}}",
    )

    filled = made_of(flow({"a": template}, parameters={"tool": "cc", "out": "x"}), out="y").steps[0].sent

    assert (filled.command, filled.args, filled.env) == ("cc", ("-o", "y", "${HOME}"), {"OUT": "y"})
    assert (filled.working_dir, filled.stdin, filled.name) == ("/y", "y", "make y")


def test_plan_when_a_step_has_items_then_each_becomes_a_step_and_needs_are_of_all() -> None:
    sent = flow({"compile": step(args=("{{item}}",), each=("a.c", "b.c"), width=1), "link": step(needs=("compile",))})

    planned = made_of(sent)

    assert [(one.name, one.group, one.item, one.sent.args) for one in planned.steps[:2]] == [
        ("compile[a.c]", "compile", "a.c", ("a.c",)),
        ("compile[b.c]", "compile", "b.c", ("b.c",)),
    ]
    assert planned.steps[2].needs == (Edge("compile[a.c]"), Edge("compile[b.c]"))
    assert planned.widths == {"compile": 1}


def test_plan_when_items_are_tables_then_their_values_stand_in_texts_and_names() -> None:
    items = ({"os": "linux", "jobs": 4}, {"os": "mac", "name": "{{who}}"})
    sent = flow({"test": step("{{item.os}}", each=items), "n": step("{{item}}", each=(3,))}, parameters={"who": "m1"})

    planned = made_of(sent)

    assert [(one.name, one.label, one.sent.command) for one in planned.steps] == [
        ("test[linux,4]", "linux,4", "linux"),
        ("test[m1]", "m1", "mac"),
        ("n[3]", "3", "3"),
    ]
    assert planned.steps[1].item == {"os": "mac", "name": "m1"}


def test_plan_when_an_item_lacks_a_word_then_mistakes_are_reported_once() -> None:
    tables = ({"os": "a"}, {"os": "b"})
    steps = {
        "whole": step("{{item}}", each=tables),
        "key": step(args=("{{item.os}}", "{{item.x}}"), each=tables),
        "flat": step("{{item.os}}", each=("a", "b")),
        "fills": step(each=({"os": "{{x}}"},)),
        "large": step(each=({"a": "x" * MAX_TEXT},)),
    }

    assert mistakes_of(flow(steps)) == {
        "steps.whole.command": "{{item}}: an item is a table",
        "steps.key.args[1]": "{{item.x}}: an item has no such key (it has: os)",
        "steps.flat.command": "{{item.os}}: an item is no table, so it has no keys",
        "steps.fills.each[0].os": "{{x}}: no such parameter (there are: none)",
        "steps.large.each[0]": f"it has {MAX_TEXT + 8} characters as JSON; the limit is {MAX_TEXT}",
    }


def test_plan_when_an_item_grows_beyond_the_limit_of_texts_then_it_is_refused() -> None:
    sent = flow({"a": step(each=("{{p}}" * 2,))}, parameters={"p": "x" * MAX_TEXT})

    assert mistakes_of(sent) == {
        "steps.a.each[0]": f"filled in, it has {2 * MAX_TEXT} characters; the limit is {MAX_TEXT}"
    }


def test_plan_when_a_list_comes_from_a_step_then_one_step_waits_to_make_the_group() -> None:
    compile_each = step("{{item}}", each=ItemSource(step="list", output="files"), needs=("get",), width=2, queue="q")

    planned = made_of(flow({"compile": compile_each, "list": step(), "get": step(), "link": step(needs=("compile",))}))

    (one,) = [made for made in planned.steps if made.source]
    assert (one.name, one.needs, one.group) == ("compile", (Edge("list"),), None)
    assert (one.sent.command, one.sent.execution_mode, one.sent.queue) == (EXPAND, ExecutionMode.IN_PROCESS, "q")
    assert planned.steps[-1].needs == (Edge("compile"),)
    assert planned.widths == {"compile": 2}


def test_plan_when_a_list_comes_from_nowhere_then_the_place_is_named() -> None:
    steps = {
        "file": step(each=ItemSource(file="x")),
        "half": step(each=ItemSource(step="half")),
        "gone": step("{{x}}", each=ItemSource(step="nowhere", output="o"), needs=("nowhere",)),
    }

    assert mistakes_of(flow(steps)) == {
        "steps.file.each": "only the client reads a file",
        "steps.half.each": "`step` and `output` belong together",
        "steps.half.each.step": "a step cannot need itself",
        "steps.gone.needs[0]": "there is no step 'nowhere'",
        "steps.gone.command": "{{x}}: no such parameter (there are: item)",
    }


def test_plan_when_the_list_was_misread_then_words_of_its_items_are_believed() -> None:
    sent = asked(flow({"a": step("{{item.os}}", each=ItemSource())}), unsure=frozenset({"a"}))

    assert plan_flow(sent, None).mistakes == ()


def test_plan_when_the_flow_has_defaults_then_a_step_that_says_nothing_gets_them() -> None:
    defaults = StepDefaults(working_dir="/src", env={"A": "1", "B": "1"}, max_attempts=3, resume="restart")
    steps = {"a": step(), "b": step(working_dir="/b", env={"B": "2"}, max_attempts=1, resume="skip", verify=False)}

    first, second = made_of(flow(steps, defaults=defaults, verify=True)).steps

    assert (first.sent.working_dir, first.sent.env, first.sent.max_attempts) == ("/src", {"A": "1", "B": "1"}, 3)
    assert (first.sent.resume, first.sent.verify) == ("restart", True)
    assert (second.sent.working_dir, second.sent.env, second.sent.max_attempts) == ("/b", {"A": "1", "B": "2"}, 1)
    assert (second.sent.resume, second.sent.verify) == ("skip", False)


def test_plan_when_much_is_wrong_then_every_mistake_is_reported_at_once() -> None:
    steps = {
        "a": step(needs=("a", "lnik", "link", "link"), resume="nope", width=2),
        "link": step(args=("{{nothing}}",)),
        "each": step("{{item}}{{other}}", each=("x", "y")),
    }

    mistakes = mistakes_of(flow(steps, parameters={"known": ""}), unknown="1")

    assert mistakes == {
        "parameters.unknown": "the flow has no such parameter (it has: known)",
        "steps.a.needs[0]": "a step cannot need itself",
        "steps.a.needs[1]": "there is no step 'lnik'",
        "steps.a.needs[3]": "step 'link' is named twice",
        "steps.a.resume": "there is no resume strategy 'nope' (there are: adopt, fail, from_checkpoint, restart, skip)",
        "steps.a.width": "only a step with `each` or `matrix` has a width",
        "steps.link.args[0]": "{{nothing}}: no such parameter (there are: known)",
        "steps.each.command": "{{other}}: no such parameter (there are: item, known)",
    }


def test_plan_when_a_name_is_nearly_right_then_the_hint_says_which() -> None:
    (mistake,) = made_of(flow({"compile": step(), "link": step(needs=("compil",))})).mistakes

    assert mistake.hint == "did you mean compile?"


def test_plan_when_steps_need_each_other_in_a_circle_then_the_cycle_is_listed() -> None:
    steps = {"a": step(needs=("c",)), "b": step(needs=("a",)), "c": step(needs=("b",)), "d": step(needs=("a",))}

    ((path, message),) = mistakes_of(flow(steps)).items()

    assert path.endswith(".needs")
    assert set(message.removeprefix("a cycle: ").split(",")[0].split(" -> ")) == {"a", "b", "c"}


def test_plan_when_a_cycle_is_very_long_then_both_ends_are_named() -> None:
    steps = {f"s{number}": step(needs=(f"s{(number + 1) % 1_000}",)) for number in range(1_000)}

    (mistake,) = made_of(flow(steps)).mistakes

    assert mistake.message.count(" -> ") == 2 * CYCLE_ENDS
    assert f"… {1_001 - 2 * CYCLE_ENDS} more …" in mistake.message
    assert len(mistake.cycle) == 1_001


def test_plan_when_there_are_too_many_steps_then_the_limit_is_named() -> None:
    items = tuple("x" for _ in range(MAX_STEPS // 2 + 1))

    mistakes = mistakes_of(flow({"a": step(each=items), "b": step(each=items)}))

    assert mistakes == {"steps": f"{MAX_STEPS + 2} steps; the limit is {MAX_STEPS}"}


def test_plan_when_few_bytes_ask_for_millions_of_needs_then_it_is_refused() -> None:
    items = tuple("x" for _ in range(MAX_STEPS // 2))

    mistakes = mistakes_of(flow({"a": step(each=items), "b": step(each=items, needs=("a",))}))

    assert mistakes == {"steps": f"{len(items) ** 2} needs between steps; the limit is {MAX_EDGES}"}


def test_plan_when_every_step_has_the_same_mistake_then_the_answer_is_bounded() -> None:
    steps = {f"s{number}": step(needs=("nowhere",)) for number in range(MAX_MISTAKES + 10)}

    with pytest.raises(FlowInvalid, match=f"{MAX_MISTAKES + 10} mistakes, the first {MAX_MISTAKES}") as refused:
        refuse(list(made_of(flow(steps)).mistakes))

    assert len(refused.value.details["errors"]) == MAX_MISTAKES


def test_plan_when_it_has_a_cycle_then_its_steps_are_filled_in_anyway() -> None:
    steps = {"a": step(needs=("b",)), "b": step("{{x}}", needs=("a",)), "c": step(each=("1", "2"))}

    planned = made_of(flow(steps))

    assert [mistake.path for mistake in planned.mistakes] == ["steps.b.needs", "steps.b.command"]
    assert [(one.name, one.needs, one.locatable) for one in planned.steps] == [
        ("a", (), True),
        ("b", (), False),
        ("c[1]", (), True),
        ("c[2]", (), True),
    ]


def test_plan_when_there_are_too_many_steps_then_the_first_of_each_list_is_looked_at() -> None:
    items = tuple(f"{number}" for number in range(MAX_STEPS + 1))

    planned = made_of(flow({"a": step("{{item}}", each=items), "b": step("{{x}}", needs=("z",))}))

    assert [mistake.path for mistake in planned.mistakes] == ["steps.b.needs[0]", "steps", "steps.b.command"]
    assert [one.sent.command for one in planned.steps] == ["0", "{{x}}"]


def test_plan_when_steps_were_misread_then_each_says_what_of_it_can_be_believed() -> None:
    sent = asked(
        flow({"a": step(), "b": step(), "c": step()}),
        mistakes=(Mistake("steps.a.args", "x"),),
        unsure=frozenset({"a", "b"}),
        unlocatable=frozenset({"b"}),
    )

    planned = plan_flow(sent, None)

    assert planned.mistakes == sent.mistakes
    assert [(one.sure, one.locatable) for one in planned.steps] == [(False, True), (False, False), (True, True)]


def test_plan_when_the_names_of_strategies_are_unknown_then_no_strategy_is_judged() -> None:
    assert plan_flow(asked(flow({"a": step(resume="own")})), None).mistakes == ()


def test_plan_when_a_list_makes_one_mistake_in_each_item_then_it_is_reported_once() -> None:
    mistakes = made_of(flow({"a": step(args=("{{x}}",), each=tuple("abc"))})).mistakes

    assert [mistake.path for mistake in mistakes] == ["steps.a.args[0]"]


def test_plan_when_a_list_makes_many_mistakes_then_the_first_items_are_enough() -> None:
    words = tuple(f"{{{{x{number}}}}}" for number in range(MAX_MISTAKES))

    assert len(made_of(flow({"a": step(args=words, each=tuple("abc"))})).mistakes) == MAX_MISTAKES


def test_refuse_when_there_is_no_mistake_then_nothing_is_raised() -> None:
    refuse([])


def test_plan_when_few_bytes_ask_for_gigabytes_then_it_is_refused_before() -> None:
    large = {"e" * count: "{{p}}" for count in range(1, 250)}
    steps = {f"s{number}": step(env=large) for number in range(20)}

    mistakes = mistakes_of(flow(steps, parameters={"p": "x" * 60_000}))

    assert str(MAX_CHARACTERS) in mistakes["steps"]


def test_plan_when_every_name_is_wrong_then_only_shown_mistakes_get_hints() -> None:
    steps = {f"step{number}": step(needs=("stepp",)) for number in range(MAX_MISTAKES + 10)}
    many = {f"step{number}": step(needs=("stepp",)) for number in range(MOST_SEARCHED + 1)}

    assert [bool(one.hint) for one in made_of(flow(steps)).mistakes] == [True] * MAX_MISTAKES + [False] * 10
    assert not any(one.hint for one in made_of(flow(many)).mistakes)


def test_layers_when_steps_could_run_together_then_they_stand_in_one() -> None:
    assert [*layers({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]})] == [["a"], ["b", "c"], ["d"]]


def test_cycle_when_the_graph_has_no_cycle_then_it_is_empty() -> None:
    assert find_cycle({"a": ["elsewhere"], "b": ["a"]}) == []


@pytest.mark.parametrize(("wait_for", "conditions"), [(UNSET, []), ("event:go", ["event:go"])])
def test_conditions_when_a_step_waits_for_more_than_its_needs_then_they_are_named(
    wait_for: Any, conditions: list[str]
) -> None:
    assert Planned(name="a", sent=StepParams(command="true", wait_for=wait_for)).conditions == conditions


def test_plan_when_there_are_several_cycles_then_each_is_a_mistake() -> None:
    pairs = {"a": "b", "b": "a", "c": "d", "d": "c", "e": "a"}

    mistakes = made_of(flow({name: step(needs=(need,)) for name, need in pairs.items()})).mistakes

    assert [set(one.cycle) for one in mistakes] == [{"a", "b"}, {"c", "d"}]


def test_plan_when_items_have_parameters_then_steps_and_mistakes_follow_from_them() -> None:
    sent = flow({"a": step("{{item}}", each=("{{tool}}", "cp"))}, parameters={"tool": "cc"})

    assert [one.sent.command for one in made_of(sent, tool="ld").steps] == ["ld", "cp"]
    assert mistakes_of(flow({"a": step(each=("{{tool}}",))})) == {
        "steps.a.each[0]": "{{tool}}: no such parameter (there are: none)"
    }


def test_plan_when_there_are_more_cycles_than_an_answer_shows_then_the_search_ends() -> None:
    many = {
        name: step(needs=(need,))
        for n in range(MAX_MISTAKES + 1)
        for name, need in ((f"a{n}", f"b{n}"), (f"b{n}", f"a{n}"))
    }

    assert len(made_of(flow(many)).mistakes) == MAX_MISTAKES


def test_if_when_the_plan_is_made_then_each_step_gets_the_values_that_it_names() -> None:
    sent = flow(
        {
            "compile": step(each=("a", "b"), run_if="item == 'a' && parameters.env == 'x'"),
            "link": step(needs=("compile",), run_if="needs.compile.all(s, s.state == 'succeeded')"),
        },
        parameters={"env": "x", "other": "y"},
    )

    first, second, link = made_of(sent, env="z").steps

    text = "item == 'a' && parameters.env == 'x'"
    assert first.run_if == RunIf(text=text, parameters={"env": "z"}, item="a")
    assert second.run_if == RunIf(text=text, parameters={"env": "z"}, item="b")
    assert link.run_if == RunIf(text="needs.compile.all(s, s.state == 'succeeded')", groups=("compile",))


IF_MISTAKES: list[tuple[StepParams, str]] = [
    (step(run_if="needs.b.state == ''"), "column 1: the step has no need 'b' (there are: a)"),
    (step(run_if="parameters.nope == ''"), "column 1: the flow has no parameter 'nope' (there are: env)"),
    (step(run_if="item == 'a'"), "column 1: only a step with `each` has an item"),
    (
        step(each=({"os": "a", "n": 1}, {"os": "b"}), run_if="item.n == 1"),
        "column 1: an item has no field 'n' (there are: os)",
    ),
    (
        step(each=("a",), run_if="item.os == 'a'"),
        "column 1: an item has no field 'os' (there are: none: an item is no table)",
    ),
]


@pytest.mark.parametrize(("sent", "expected"), IF_MISTAKES, ids=[str(one.run_if) for one, _ in IF_MISTAKES])
def test_if_when_it_names_something_unknown_then_its_place_is_named(sent: StepParams, expected: str) -> None:
    steps = {"a": step(), "b": step(), "c": msgspec.structs.replace(sent, needs=("a",))}

    assert mistakes_of(flow(steps, parameters={"env": "x"}))["steps.c.if"] == expected


@pytest.mark.parametrize(
    "each", [({"os": "a"}, "b"), ItemSource(step="a", output="list")], ids=["of both kinds", "known later"]
)
def test_if_when_the_fields_of_items_are_not_known_then_any_is_accepted(each: Any) -> None:
    steps = {"a": step(), "b": step(each=each, run_if="item.os == 'a'")}

    assert mistakes_of(flow(steps)) == {}


def test_if_when_the_step_has_another_mistake_then_each_step_may_be_named() -> None:
    sent = flow({"a": step(), "b": step(run_if="needs.a.state == '' && needs.c.state == ''")})

    mistakes = plan_flow(asked(sent, unsure=frozenset({"b"})), None).mistakes

    assert [one.message for one in mistakes] == ["column 24: the step has no need 'c' (there are: a)"]


def test_ifs_when_there_are_more_mistakes_than_are_shown_then_the_rest_is_not_read() -> None:
    sent = flow({f"s{number}": step(run_if="1 +") for number in range(MAX_MISTAKES + 5)})

    assert len(made_of(sent).mistakes) == MAX_MISTAKES
