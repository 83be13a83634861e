"""Which steps an earlier run spares, and the reason of each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.model import ExecutionMode, NeedOn, Reason, Spec, State, When
from stoker.core.job.run_if import RunIf
from stoker.core.job.taken_over import FileHashes, TakenOver
from stoker.core.workflow.definition import StepParams
from stoker.core.workflow.fan_out import Planned
from stoker.core.workflow.handlers import Handler
from stoker.core.workflow.reuse import EarlierRun, EarlierStep, ReuseDecision, ReuseWish, decide
from stoker.core.workflow.state import Edge

SPEC = Spec(command="cc", args=("-c", "a.c"), working_dir="/src", env={"CC": "gcc", "LANG": "C"})
GRAPH = {"get": (), "compile": (Edge("get"),), "link": (Edge("compile"),)}
Steps = dict[str, tuple[Planned, Spec]]


def offered(**changed: Any) -> Steps:
    """The steps of the flow; of `changed` a spec replaces that of its step."""
    sent = StepParams(command="cc")
    when = {name: When.EACH if needs else None for name, needs in GRAPH.items()}
    return {
        name: (Planned(name=name, sent=sent, needs=needs, when=when[name]), changed.get(name, SPEC))
        for name, needs in GRAPH.items()
    }


def earlier(**changed: Any) -> EarlierRun:
    """The run of the same flow, in which all steps succeeded; fields of a step in `changed` differ."""
    steps = {
        name: EarlierStep(
            job=number,
            state=State.SUCCEEDED,
            reason=Reason.EXIT,
            spec=SPEC,
            needs=needs,
            when=When.EACH if needs else None,
            output=f'{{"by":"{name}"}}',
        )
        for number, (name, needs) in enumerate(GRAPH.items(), 1)
    }
    return EarlierRun(12, steps | {name: replace(steps[name], **fields) for name, fields in changed.items()})


def decided(steps: Steps, run: EarlierRun | None, running: Collection[str] = (), **wish: Any) -> list[ReuseDecision]:
    return list(decide(steps.values(), ReuseWish(earlier=run, **wish), running))


def whys(steps: Steps, run: EarlierRun | None, **wish: Any) -> dict[str, str]:
    """The reasons of the steps that run."""
    return {one.step: one.why for one in decided(steps, run, **wish) if one.taken is None}


def test_decide_when_nothing_changed_then_each_step_is_taken_over_with_its_outputs() -> None:
    assert decided(offered(), earlier()) == [
        ReuseDecision("get", "same command", TakenOver(12, "get", 1, '{"by":"get"}')),
        ReuseDecision("compile", "same command and inputs", TakenOver(12, "compile", 2, '{"by":"compile"}')),
        ReuseDecision("link", "same command and inputs", TakenOver(12, "link", 3, '{"by":"link"}')),
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"command": "clang"}, "command changed"),
        ({"args": ("-c", "b.c")}, "args changed"),
        ({"stdin": "x"}, "stdin changed"),
        ({"working_dir": "/other"}, "working_dir changed"),
        ({"umask": 0o077}, "umask changed"),
        ({"success_exit_codes": (0, 1)}, "success_exit_codes changed"),
        ({"execution_mode": ExecutionMode.IN_PROCESS}, "execution_mode changed"),
        ({"run_if": RunIf("parameters.env == 'prod'")}, "if changed"),
        ({"env": {"CC": "clang", "LANG": "C"}}, "env CC changed"),
        ({"env": {"CC": "gcc", "LANG": "C", "A": "1"}}, "env A changed"),
        ({"args": (), "env": {}, "umask": 0}, "args, umask, env CC and 1 more changed"),
    ],
)
def test_decide_when_a_field_changed_then_the_step_and_those_behind_it_run(change: dict[str, Any], why: str) -> None:
    steps = offered(compile=replace(SPEC, **change))

    assert whys(steps, earlier()) == {"compile": why, "link": "its need compile runs"}


@pytest.mark.parametrize(
    "change",
    [{"name": "n"}, {"labels": {"a": "b"}}, {"timeout_ms": 5}, {"max_attempts": 3}, {"priority": 9}, {"nice": 1}],
)
def test_decide_when_only_how_it_runs_changed_then_the_step_is_taken_over(change: dict[str, Any]) -> None:
    assert whys(offered(compile=replace(SPEC, **change)), earlier()) == {}


def test_decide_when_the_needs_or_their_condition_changed_then_the_step_runs() -> None:
    other = earlier(compile={"needs": (Edge("get", NeedOn.ANY),)})

    assert whys(offered(), other)["compile"] == "needs changed"
    assert whys(offered(), earlier(link={"when": When.ANY_OK})) == {"link": "when changed"}


@pytest.mark.parametrize(
    ("state", "reason", "why"),
    [
        (State.FAILED, Reason.EXIT, "it is failed (exit) in the earlier run"),
        (State.SKIPPED, Reason.USER, "it is skipped (user) in the earlier run"),
        (State.RUNNING, None, "it is running in the earlier run"),
    ],
)
def test_decide_when_a_step_had_not_succeeded_then_it_runs(state: State, reason: Reason | None, why: str) -> None:
    run = earlier(compile={"state": state, "reason": reason})

    assert whys(offered(), run) == {"compile": why, "link": "its need compile runs"}
    assert run.completed == {"get", "link"}


def test_decide_when_the_step_is_new_or_there_was_no_run_then_it_runs() -> None:
    run = EarlierRun(12, {name: step for name, step in earlier().steps.items() if name != "link"})

    assert whys(offered(), run) == {"link": "workflow 12 has no such step"}
    assert set(whys(offered(), None).values()) == {"there is no earlier run"}


EXPANDING = Spec(command="stoker.expand", working_dir="/", execution_mode=ExecutionMode.IN_PROCESS)


def test_decide_when_a_step_adds_others_then_those_behind_it_are_compared_later() -> None:
    """Even if the earlier run has the needs of after the expansion."""
    run = earlier(get={"spec": EXPANDING}, compile={"needs": (Edge("get[a]"),)})

    get, *behind = decided(offered(get=EXPANDING), run)
    changed = decided(offered(get=EXPANDING, compile=replace(SPEC, stdin="x")), run)

    assert (get.taken, get.later, get.why) == (None, False, "it adds steps to the workflow, and each is compared then")
    later = "it is compared once get has added its steps"
    assert behind == [ReuseDecision(name, later, later=True) for name in ("compile", "link")]
    assert [one.why for one in changed[1:]] == ["stdin changed", "its need compile runs"]


def test_decide_when_others_are_not_reused_then_only_those_behind_them_run() -> None:
    steps = {name: one for name, one in offered().items() if name != "get"}

    assert whys(steps, earlier()) == {}
    assert whys(steps, earlier(), running={"get"})["compile"] == "its need get runs"
    assert whys(steps, earlier(), running={"compile"}) == {}  # it was not decided yet


def test_decide_when_a_nested_flow_hands_on_the_same_then_its_end_is_taken_over() -> None:
    end = Spec(command="stoker.collect", args=("o={{a.o}}",), working_dir="/", execution_mode=ExecutionMode.IN_PROCESS)
    run = earlier(link={"spec": end})

    assert whys(offered(link=end), run) == {}
    assert whys(offered(link=replace(end, args=("o={{a.p}}",))), run) == {"link": "outputs changed"}


SOURCES = replace(SPEC, sources=("*.c",), produces=("a.o",))
THEN = FileHashes({"a.c": "1", "b.c": "2"}, {"a.o": "3"})


def compile_decision(then: FileHashes | None, now: FileHashes | None) -> ReuseDecision:
    """The decision about `compile`, which has files."""
    run = earlier(compile={"spec": SOURCES, "files": then})
    files = {} if now is None else {"compile": now}
    return decided(offered(compile=SOURCES), run, files=files)[1]


def test_decide_when_its_files_are_the_same_then_the_step_is_taken_over_with_them() -> None:
    decision = compile_decision(THEN, THEN)

    assert decision.why == "same command and inputs, 2 sources, 1 product"
    assert decision.taken == TakenOver(12, "compile", 2, '{"by":"compile"}', THEN)


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        (THEN, FileHashes({"a.c": "9", "b.c": "2"}, {"a.o": "3"}), "source a.c changed"),
        (THEN, FileHashes({"a.c": "1"}, {"a.o": "3"}), "source b.c is gone"),
        (THEN, FileHashes({"a.c": "1", "b.c": "2", "c.c": "1"}, {"a.o": "3"}), "source c.c is new"),
        (THEN, FileHashes({"a.c": "1", "b.c": "2"}, {}), "product a.o is gone"),
        (THEN, FileHashes(), "source a.c is gone, source b.c is gone, product a.o is gone"),
        (THEN, FileHashes(unknown="late"), "its files are not known: late"),
        (THEN, None, "its files are not known"),
        (None, THEN, "its files were not recorded"),
        (FileHashes(unknown="late"), THEN, "its files were not recorded: late"),
    ],
)
def test_decide_when_its_files_differ_then_the_step_runs(
    then: FileHashes | None, now: FileHashes | None, why: str
) -> None:
    assert compile_decision(then, now) == ReuseDecision("compile", why)


def test_decide_when_the_patterns_changed_then_the_step_runs() -> None:
    assert whys(offered(compile=SOURCES), earlier())["compile"] == "sources, produces changed"


def test_decide_when_the_part_begins_in_the_middle_then_its_steps_run() -> None:
    steps = offered(get=replace(SPEC, command="other"))

    outside, *inside = decided(steps, earlier(), begins=True, outside={"get"})

    assert outside == ReuseDecision("get", "outside the part", TakenOver(12, "get", 1, '{"by":"get"}'))
    assert {one.why for one in inside} == {"the part begins with it or before it"}
    runs = [ReuseWish(earlier=run, begins=begins).later for run in (earlier(), None) for begins in (False, True)]
    assert runs == [12, None, None, None]


def test_taken_over_when_it_is_stored_then_it_is_read_back() -> None:
    taken = TakenOver(12, "build/compile[a]", 3, '{"by":"x"}')

    assert msgspec.json.decode(msgspec.json.encode(taken), type=TakenOver) == taken
    assert taken.place == "12/build/compile[a]"


def test_decide_when_a_step_is_a_handler_then_it_runs() -> None:
    steps = offered()
    planned, spec = steps["link"]

    decisions = whys(steps | {"link": (replace(planned, handler=Handler.FINALLY), spec)}, earlier())

    assert decisions["link"] == "a handler belongs to one run of the steps"
