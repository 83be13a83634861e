"""Conditions that a job waits for: trees of them, which stay open, and what is refused before anything is stored."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import InvalidParams
from stoker.core.explain import explain
from stoker.core.job import events as ev
from stoker.core.job.conditions import (
    MOST_CONDITIONS,
    MOST_LEVELS,
    ConditionGroup,
    ConditionKind,
    Tree,
    all_open,
    awaited,
    changes_awaited,
    check,
    in_words,
    kind_of,
    met_with_host,
    open_after,
    open_texts,
    texts,
)
from stoker.core.job.lifecycle import step
from stoker.core.job.model import FINAL, Queue, State
from stoker.core.job.transition import delay_ms, submitted
from stoker.core.job_facts import JobFacts
from stoker.core.named_events import MAX_DATA_BYTES, EmitParams, NamedEvent
from stoker.core.requests import JobParams
from tests.support.jobs import NOW, job, spec

BOTH = ConditionGroup(all=("event:a", "event:b"))
EITHER = ConditionGroup(any=("event:a", "event:b"))
NESTED = ConditionGroup(all=("event:a", ConditionGroup(any=("event:b", ConditionGroup(all=("job:3", "workflow:4"))))))


def after(tree: Tree, *numbers: int) -> list[str]:
    """The conditions that stay open once these are met."""
    bits = all_open(tree)
    for number in numbers:
        bits = open_after(tree, bits, number)
    return open_texts(tree, bits)


@pytest.mark.parametrize(
    ("tree", "met", "still"),
    [
        ("event:a", [], ["event:a"]),
        ("event:a", [0], []),
        (BOTH, [1], ["event:a"]),
        (BOTH, [1, 0], []),
        (EITHER, [], ["event:a", "event:b"]),
        (EITHER, [1], []),
        (NESTED, [1], ["event:a"]),
        (NESTED, [2], ["event:a", "event:b", "workflow:4"]),
        (NESTED, [2, 3], ["event:a"]),
        (NESTED, [0, 2, 3], []),
    ],
)
def test_open_when_conditions_are_met_then_only_what_matters_stays(
    tree: Tree, met: list[int], still: list[str]
) -> None:
    assert after(tree, *met) == still


@pytest.mark.parametrize("order", list(permutations([0, 2, 3])))
def test_open_when_conditions_are_met_in_any_order_then_the_result_is_one(order: tuple[int, ...]) -> None:
    assert after(NESTED, *order) == []


trees = st.recursive(
    st.sampled_from(["event:a", "event:b", "job:1"]),
    lambda members: st.lists(members, min_size=1, max_size=3).flatmap(
        lambda chosen: st.sampled_from([ConditionGroup(all=tuple(chosen)), ConditionGroup(any=tuple(chosen))])
    ),
    max_leaves=8,
)


def holds(tree: Tree, met: set[int], first: int = 0) -> tuple[bool, int]:
    """Whether a tree is met, by the words `all` and `any` alone; and the number behind its last condition."""
    if isinstance(tree, str):
        return first in met, first + 1
    members = []
    for member in (*tree.all, *tree.any):
        value, first = holds(member, met, first)
        members.append(value)
    return (all(members) if tree.all else any(members)), first


@given(tree=trees, data=st.data())
def test_open_when_any_conditions_of_any_tree_are_met_then_all_and_any_agree(tree: Tree, data: st.DataObject) -> None:
    met = data.draw(st.sets(st.integers(0, len(texts(tree)) - 1)))

    assert (after(tree, *met) == []) is holds(tree, met)[0]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (BOTH, "event:a and event:b"),
        (NESTED, "event:a and any of (event:b, job:3 and workflow:4)"),
        (ConditionGroup(any=(ConditionGroup(all=("event:a",)),)), "event:a"),
    ],
)
def test_words_when_a_tree_is_open_then_it_reads_as_it_is_meant(tree: Tree, words: str) -> None:
    assert in_words(tree, all_open(tree)) == words


def deep(levels: int) -> Tree:
    tree: Tree = "event:a"
    for _ in range(levels):
        tree = ConditionGroup(all=(tree,))
    return tree


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ("deploy", "wait_for: 'deploy' is not a condition"),
        ("event:", "wait_for: '' is not the name of an event"),
        ("event:a b", "wait_for: 'a b' is not the name of an event"),
        (f"event:{'x' * 65}", f"wait_for: '{'x' * 65}' is not the name of an event"),
        ("job:0", "wait_for: '0' is not the id of a job"),
        ("job:99999999999999999999", "wait_for: '99999999999999999999' is not the id of a job"),
        ("workflow:nightly", "wait_for: 'nightly' is not the id of a workflow"),
        ("file", "wait_for: '' is not a path that can be watched"),
        ("file:", "wait_for: '' is not a path that can be watched"),
        ("file:here", "wait_for: 'here' is not a path that can be watched"),
        ("file:/a\0b", "wait_for: '/a\\x00b' is not a path that can be watched"),
        ("file:/" + "é" * 128, "is not a path that can be watched"),
        ("file-changed:" + "/a" * 2048, "is not a path that can be watched"),
        ("file-changed:~/a", "wait_for: '~/a' is not a path that can be watched"),
        ("idle:", "wait_for: '' is not allowed after idle"),
        ("idle:60s", "wait_for: '60s' is not allowed after idle"),
        ("charging:80", "wait_for: '80' is not allowed after charging"),
        (ConditionGroup(), "wait_for: a group has either `all` or `any`, with members"),
        (
            ConditionGroup(all=("event:a",), any=("event:b",)),
            "wait_for: a group has either `all` or `any`, with members",
        ),
        (ConditionGroup(all=("event:a", "no")), "wait_for.all[1]: 'no' is not a condition"),
        (ConditionGroup(any=("event:a", "event:a")), "wait_for: event:a is named twice"),
        (ConditionGroup(all=tuple(f"job:{n}" for n in range(1, 34))), "wait_for: 33 conditions; the limit is 32"),
        (deep(MOST_LEVELS + 1), f"more than {MOST_LEVELS} levels of groups"),
        ("x" * 200, f"wait_for: '{'x' * 80}...' is not a condition"),
    ],
)
def test_check_when_a_tree_is_wrong_then_the_place_and_the_problem_are_named(tree: Tree, problem: str) -> None:
    with pytest.raises(InvalidParams, match=r"^wait_for") as refused:
        check(tree)

    assert problem in refused.value.message
    assert refused.value.hint


def test_job_when_its_condition_is_empty_then_it_is_refused() -> None:
    with pytest.raises(InvalidParams, match="wait_for: '' is not a condition"):
        JobParams(command="true", wait_for="")


@pytest.mark.parametrize(
    "tree", [NESTED, deep(MOST_LEVELS), ConditionGroup(all=tuple(f"job:{n}" for n in range(1, MOST_CONDITIONS + 1)))]
)
def test_check_when_a_tree_is_within_the_limits_then_it_is_accepted(tree: Tree) -> None:
    check(tree)


@pytest.mark.parametrize(
    "text", ["idle", "charging", "file:/", "file:/a b/ü", "file-changed:/" + "é" * 127, "file:/a:b\nc"]
)
def test_check_when_a_file_or_the_host_is_named_then_it_is_accepted(text: str) -> None:
    check(text)


HOST = ConditionGroup(all=("event:a", ConditionGroup(any=("idle", "file:/x")), "charging"))


@pytest.mark.parametrize(
    ("tree", "met", "holding", "numbers"),
    [
        ("idle", [], {"idle"}, [0]),
        ("idle", [], {"charging"}, []),
        (HOST, [], {"idle", "charging"}, []),
        (HOST, [0], {"idle"}, []),
        (HOST, [0], {"charging"}, []),
        (HOST, [0], {"idle", "charging"}, [1, 3]),
        (HOST, [0, 2], {"idle", "charging"}, [3]),
        (HOST, [0, 1, 3], {"idle"}, []),
        (BOTH, [], {"idle"}, []),
    ],
)
def test_host_when_it_is_as_needed_then_it_counts_only_with_all_else(
    tree: Tree, met: list[int], holding: set[str], numbers: list[int]
) -> None:
    bits = all_open(tree)
    for number in met:
        bits = open_after(tree, bits, number)

    assert met_with_host(tree, bits, holding) == numbers


def test_awaited_when_conditions_are_open_then_those_that_are_watched_are_named() -> None:
    tree = ConditionGroup(all=("event:a", "file:/x", "idle", "file-changed:/y", "charging", "job:7"))

    assert awaited(tree, all_open(tree) & ~2) == ["idle", "file-changed:/y", "charging"]
    assert awaited(None, 0) == []


# --- the life of a job that waits ---------------------------------------------------------------------------


def waiting(tree: Tree = BOTH, **asked: Any) -> Any:
    return submitted(job(State.WAITING, asked=spec(wait_for=tree, **asked), conditions_open=all_open(tree)), NOW)


def test_condition_when_it_is_the_last_open_one_then_the_job_is_queued() -> None:
    one = step(waiting(), None, ev.ConditionMet(number=0), NOW).job
    both = step(one, None, ev.ConditionMet(number=1), NOW).job

    assert [(each.state, each.conditions_open) for each in (one, both)] == [(State.WAITING, 2), (State.QUEUED, 0)]


def test_condition_when_something_else_blocks_the_job_then_it_waits_on() -> None:
    later = waiting("event:a", run_at=NOW.wall + 1)

    assert step(later, None, ev.ConditionMet(number=0), NOW).job.state is State.WAITING


@pytest.mark.parametrize("state", [State.HELD, *sorted(FINAL)])
def test_condition_when_the_job_does_not_wait_then_only_the_condition_changes(state: State) -> None:
    before = job(state, asked=spec(wait_for=BOTH), conditions_open=3)

    after_it = step(before, None, ev.ConditionMet(number=0), NOW)

    assert (after_it.job, after_it.effects) == (msgspec.structs.replace(before, conditions_open=2), ())


def test_ttl_when_a_job_waits_for_an_event_then_it_counts_from_the_submit() -> None:
    assert waiting("event:a", ttl_ms=50).expires_at == NOW.steady + 50


def test_ttl_when_run_at_comes_before_the_event_then_it_counts_from_run_at() -> None:
    before = job(State.WAITING, asked=spec(wait_for="event:a", ttl_ms=50, run_at=NOW.wall), conditions_open=1)

    woken = step(before, None, ev.Woke(), NOW).job

    assert (woken.state, woken.expires_at) == (State.WAITING, NOW.steady + 50)


def test_why_when_conditions_are_open_then_they_are_named_with_the_time() -> None:
    before = job(State.WAITING, asked=spec(wait_for=NESTED), conditions_open=2 | 8, created_at=NOW.wall - 60_000)

    blocker = explain(before, JobFacts(now=NOW, queue=Queue(name="default")))

    assert blocker.code == "event"
    assert blocker.message == "has waited 1m00s for any of (event:b, workflow:4)"
    assert blocker.hint == "stoker event emit b"
    assert blocker.details == {"conditions": ["event:b", "workflow:4"], "since": NOW.wall - 60_000}


@pytest.mark.parametrize(
    ("tree", "hint"), [("job:3", "stoker why 3"), ("workflow:4", "stoker workflow show 4")], ids=["job", "workflow"]
)
def test_why_when_an_end_is_awaited_then_the_next_command_shows_it(tree: Tree, hint: str) -> None:
    blocker = explain(waiting(tree), JobFacts(now=NOW, queue=Queue(name="default")))

    assert (blocker.code, blocker.hint) == ("needs", hint)


def test_why_when_the_host_is_awaited_then_its_state_is_given() -> None:
    seen = {"idle": "CPU 43 %, must be below 20 % for 1m00s", "charging": "running on battery, 61 %"}
    before = waiting(ConditionGroup(all=("idle", "charging")))

    blocker = explain(before, JobFacts(now=NOW, queue=Queue(name="default"), seen=seen))

    assert (blocker.code, blocker.hint, blocker.details["seen"]) == ("idle", "stoker status", seen)
    assert blocker.message.endswith("for idle and charging: " + "; ".join(seen.values()))


@pytest.mark.parametrize(("ms", "delay"), [(0, 0), (-5, 0), (5, 5)])
def test_delay_when_a_job_has_a_time_then_it_is_what_is_left_of_it(ms: int, delay: int) -> None:
    later = waiting("idle", run_at=NOW.wall + ms)

    assert delay_ms(later, NOW) == delay
    assert delay_ms(msgspec.structs.replace(later, wake_at=NOW.steady + 7), NOW) == 7


# --- events -------------------------------------------------------------------------------------------------


def test_emit_when_the_data_are_too_large_then_it_is_refused() -> None:
    EmitParams(name="a", data="x" * (MAX_DATA_BYTES - 2))

    with pytest.raises(InvalidParams, match=rf"data: {MAX_DATA_BYTES + 1} bytes"):
        EmitParams(name="a", data="x" * (MAX_DATA_BYTES - 1))


def test_digest_when_a_value_differs_then_it_differs() -> None:
    same = EmitParams(name="a", data={"x": 1, "y": 2}, idempotency_key="k").digest

    assert EmitParams(name="a", data={"y": 2, "x": 1}).digest == same
    usual: dict[str, Any] = {"name": "a", "data": {"x": 1, "y": 2}}
    others: list[dict[str, Any]] = [{"name": "b"}, {"data": None}, {"one": True}, {"keep_ms": 1}]
    assert same not in [EmitParams(**(usual | other)).digest for other in others]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [({}, True), ({"keep_until": NOW.wall}, False), ({"one": True}, True), ({"one": True, "reached": 1}, False)],
)
def test_kept_when_its_time_is_over_or_it_is_used_up_then_it_reaches_no_later_job(
    fields: dict[str, Any], *, kept: bool
) -> None:
    usual = {"id": 1, "owner_uid": 0, "name": "a", "data": "1", "emitted_at": 0, "one": False}

    assert NamedEvent(**{**usual, "keep_until": NOW.wall + 1, **fields}).kept(NOW.wall) is kept


def test_event_when_jobs_wait_for_it_then_its_condition_names_it() -> None:
    event = NamedEvent(id=1, owner_uid=0, name="deploy", data="1", emitted_at=0, one=False, keep_until=0)

    assert (event.condition, kind_of(event.condition)) == ("event:deploy", ConditionKind.EVENT)


def test_changes_when_several_jobs_await_the_same_file_then_it_is_named_once() -> None:
    first = ConditionGroup(all=("file-changed:/a", ConditionGroup(any=("file:/b", "file-changed:/c"))))

    assert changes_awaited([first, "file-changed:/a", "idle"]) == ["file-changed:/a", "file-changed:/c"]
