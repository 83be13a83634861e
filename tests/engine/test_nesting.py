"""Nested workflows under a real daemon: steps that are flows, their parameters, outputs and ends.

Owns what a person sees. tests/core tests names, needs and mistakes; tests/cli how a file includes another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid
from tests.support.flows import flow, job_of, send, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import attempts_of, lines

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

SETTINGS = "[daemon]\nmax_running = 4\n[cpu]\nthrottle_threshold = 100\n"


def nested(inner: dict[str, dict[str, Any]], *needs: Any, **options: Any) -> dict[str, Any]:
    """A step that is a workflow; `head`: what else its flow says."""
    head = options.pop("head", {})
    return {"workflow": flow(inner, **head), "needs": list(needs), **options}


def test_nesting_when_four_parents_fill_four_slots_then_all_end(client: stoker.Client, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    child = {"a": step(f'echo "$WHO" >> {ledger}', env={"WHO": "{{who}}"}), "b": step("exit 0", "a")}
    steps = {
        f"p{number}": nested(child, head={"parameters": {"who": "nobody"}}, parameters={"who": f"p{number}"})
        for number in range(4)
    }

    workflow = sent_flow(client, {**steps, "end": step(f"echo end >> {ledger}", *steps)})

    assert settled(client, workflow) == "succeeded"
    *first, last = lines(ledger)
    assert (sorted(first), last) == (["p0", "p1", "p2", "p3"], "end")
    assert {"p0/a", "p0/b", "p0"} < step_states(client, workflow).keys()


def test_nesting_when_a_flow_has_outputs_then_the_steps_behind_it_get_them(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    child = {"make": step('echo path=/x.y >> "$STOKER_OUTPUT"')}
    inner = nested(
        {"in": nested(child, head={"outputs": {"path": "{{make.path}}"}})}, head={"outputs": {"p": "[{{in.path}}]"}}
    )

    workflow = sent_flow(client, {"build": inner, "use": step(f'echo "$STOKER_INPUTS" >> {ledger}', "build")})

    assert settled(client, workflow) == "succeeded"
    assert lines(ledger) == ['{"build":{"p":"[/x.y]"}}']


def test_nesting_when_an_inner_step_has_needs_then_it_sees_the_names_of_its_flow(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    show = f'{{ printf "%s " "$STOKER_INPUTS"; tr "\\n" " " < "$STOKER_INPUTS_FILE"; echo; }} >> {ledger}'
    child = {"make": step(f'{show}; echo x=1 >> "$STOKER_OUTPUT"'), "use": step(show, "make")}

    workflow = sent_flow(client, {"a": step("exit 0"), "build": nested(child, "a", each=["eu"])})

    assert settled(client, workflow) == "succeeded"
    assert [line.split() for line in lines(ledger)] == [
        ["{}", "{}"],
        ['{"make":{"x":"1"}}', '{"make":{"state":"succeeded","reason":"exit","exit_code":0,"outputs":{"x":"1"}}}'],
    ]


def test_nesting_when_its_if_is_false_then_its_handlers_do_not_run(client: stoker.Client) -> None:
    child = {
        "work": step("exit 0"),
        "clean": {**step("exit 0", "work"), "when": "always"},
        "alert": {**step("exit 0", "work"), "when": "any_failed"},
        "in": nested({"work": step("exit 0")}),
    }
    steps = {
        "good": step("exit 0"),
        "on": nested(child, "good"),
        "bad": step("exit 1", critical=False),
        "off": nested(child, **{"if": "false"}),
        "late": nested(child, "bad"),
    }

    workflow = sent_flow(client, steps)

    assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    inner = [f"{outer}/{name}" for outer in ("off", "late") for name in child]
    assert {states[name] for name in inner} == {"skipped"}
    assert [states[f"on/{name}"] for name in child] == ["succeeded", "succeeded", "skipped", "succeeded"]


def test_nesting_when_an_inner_step_fails_then_a_retry_of_it_lets_all_go_on(
    client: stoker.Client, tmp_path: Path
) -> None:
    cure = tmp_path / "cure"
    child = {"bad": step(f"test -e {cure}"), "good": step("exit 0"), "free": step("exit 1", critical=False)}
    workflow = sent_flow(
        client, {"first": step("exit 0"), "build": nested(child, "first"), "end": step("exit 0", "build")}
    )
    assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    assert (states["build/bad"], states["build"], states["end"]) == ("failed", "failed", "skipped")
    (attempt,) = attempts_of(client, job_of(client, workflow, "build"))
    assert attempt["error"] == "build/bad did not succeed"
    cure.touch()

    client.call("workflow.retry", {"id": workflow, "step": "build/bad"})

    assert settled(client, workflow) == "succeeded"


def test_nesting_when_the_step_is_not_critical_then_its_failure_is_its_own(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"build": nested({"bad": step("exit 1")}, critical=False), "end": step("exit 0")})

    assert settled(client, workflow) == "succeeded"
    assert step_states(client, workflow)["build"] == "failed"


def test_nesting_when_its_need_fails_then_all_of_it_is_skipped(client: stoker.Client) -> None:
    handler = nested({"tell": step("exit 0")}, "bad", when="any_failed")
    workflow = sent_flow(
        client,
        {"bad": step("exit 1"), "build": nested({"a": step("exit 0")}, "bad"), "alarm": handler},
    )

    assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    assert [states[name] for name in ("build:begin", "build/a", "build")] == ["skipped"] * 3
    assert [states[name] for name in ("alarm:begin", "alarm/tell", "alarm")] == ["succeeded"] * 3


def test_nesting_when_it_fans_out_then_each_item_has_steps_of_its_own(client: stoker.Client, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    child = {
        "list": step('printf "n<<E\\n1\\n2\\nE\\n" >> "$STOKER_OUTPUT"'),
        "work": step(
            f'echo "$OS$STOKER_ITEM" >> {ledger}', each={"step": "list", "output": "n"}, env={"OS": "{{os}}"}, width=1
        ),
    }
    build = nested(child, each=["bsd", "linux"], parameters={"os": "{{item}}"}, head={"parameters": {"os": ""}})

    workflow = sent_flow(client, {"build": build, "end": step("exit 0", "build")})

    assert settled(client, workflow) == "succeeded"
    assert sorted(lines(ledger)) == ["bsd1", "bsd2", "linux1", "linux2"]
    (end,) = [one for one in workflow_view(client, workflow)["steps"] if one["name"] == "end"]
    assert [need["step"] for need in end["needs"]] == ["build[bsd]", "build[linux]"]
    assert "build[bsd]/work[2]" in step_states(client, workflow)


def test_nesting_when_its_list_comes_later_then_each_item_gets_a_workflow(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger, other = tmp_path / "ledger", tmp_path / "list"
    other.write_text("a\nb\n")
    child = {"one": step(f'echo "$X" >> {ledger}', env={"X": "{{x}}"}, each=["1", "2"], width=1)}
    build = nested(
        child, each={"step": "list", "output": "n"}, parameters={"x": "{{item}}"}, head={"parameters": {"x": ""}}
    )
    listing = step(f'printf "n<<E\\n%s\\nE\\n" "$(cat {other})" >> "$STOKER_OUTPUT"')
    workflow = sent_flow(client, {"list": listing, "build": build})
    assert settled(client, workflow) == "succeeded"
    assert sorted(lines(ledger)) == ["a", "a", "b", "b"]
    other.write_text("b\n")

    client.call("workflow.retry", {"id": workflow, "step": "list"})

    assert settled(client, workflow) == "succeeded"
    states = step_states(client, workflow)
    gone = ("build[a]", "build[a]:begin", "build[a]/one[1]", "build[a]/one[2]")
    assert [states[name] for name in gone] == ["skipped"] * 4
    assert lines(ledger)[4:] == ["b", "b"]


def test_fail_fast_when_a_nested_workflow_fails_then_the_steps_of_the_others_end(client: stoker.Client) -> None:
    script = 'test "$WHO" != b || exit 1; sleep 600'
    child = {"work": step(script, env={"WHO": "{{who}}"}, grace_ms=100), "after": step("exit 0", "work")}
    build = nested(
        child, each=["a", "b"], parameters={"who": "{{item}}"}, fail_fast=True, head={"parameters": {"who": ""}}
    )

    workflow = sent_flow(client, {"build": build})

    assert settled(client, workflow) == "failed"
    states = step_states(client, workflow)
    assert [states[f"build[a]{name}"] for name in ("/work", "/after", "")] == ["cancelled", "cancelled", "failed"]
    assert [states[f"build[b]{name}"] for name in ("/work", "/after", "")] == ["failed", "skipped", "failed"]


@pytest.mark.parametrize(
    ("build", "path"),
    [
        ({"workflow": "child.toml"}, "steps.build.workflow"),
        ({"workflow": 3}, "steps.build.workflow"),
        (nested({"a": {"needs": []}}), "steps.build.workflow.steps.a.command"),
        (nested({"a": step("exit 0")}, command="x"), "steps.build.command"),
        (nested({"a": step("exit 0")}, parameters={"x": "1"}), "steps.build.parameters.x"),
        (nested({"a": step("exit 0")}, timeout_ms=1), "steps.build.timeout_ms"),
        (nested({"a": step("exit 0", "b")}), "steps.build.workflow.steps.a.needs[0]"),
        (nested({"a": {"command": "/no/such"}}), "steps.build.workflow.steps.a.command"),
        (nested({"a": step("exit 0")}, head={"outputs": {"x": "{{b.c}}"}}), "steps.build.workflow.outputs.x"),
        (step("exit 0", parameters={"x": "1"}), "steps.build.parameters"),
    ],
)
def test_nesting_when_it_is_wrong_then_the_path_leads_into_the_inner_flow(
    client: stoker.Client, build: dict[str, Any], path: str
) -> None:
    with pytest.raises(FlowInvalid) as refused:
        send(client, flow({"build": build}))

    assert [error["path"] for error in refused.value.details["errors"]] == [path]


def test_nesting_when_flows_are_too_deep_then_the_limit_is_named(client: stoker.Client) -> None:
    inner = {"a": step("exit 0")}
    for _ in range(8):
        inner = {"a": nested(inner)}

    with pytest.raises(FlowInvalid, match="more than 8 flows inside each other"):
        send(client, flow(inner))
