"""The plan of a resume: a row for each state of a step, strategies, and fingerprints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stoker.core.errors import StrategyFailed, StrategyNotFound
from stoker.core.job.model import NeedOn, Reason, State, When
from stoker.core.workflow import strategies
from stoker.core.workflow.resume import (
    Act,
    ResumeDecision,
    ResumeInputs,
    ResumeOptions,
    ResumeStanding,
    plan,
    stopped_short,
)
from stoker.core.workflow.state import Edge, Step, Strategy
from stoker.core.workflow.strategies import Interrupted

DONE = ResumeStanding(State.SUCCEEDED, Reason.EXIT, 1)
FAILED = ResumeStanding(State.FAILED, Reason.EXIT, 1)
BLOCKED = ResumeStanding(State.SKIPPED, Reason.DEPENDENCY)
RESTART = {"a": ("restart", Strategy.RESTART)}


def steps(*needs: Edge) -> list[Step]:
    """a, and b behind it."""
    return [Step(name="b", job_id=2, needs=needs or (Edge("a"),)), Step(name="a", job_id=1)]


def planned(a: ResumeStanding, b: ResumeStanding = BLOCKED, *needs: Edge, **asked: Any) -> dict[str, ResumeDecision]:
    return {one.step: one for one in plan(steps(*needs), {"a": a, "b": b}, ResumeInputs(**asked))}


@pytest.mark.parametrize(
    ("standing", "act", "runs"),
    [
        (DONE, Act.KEEP, False),
        (ResumeStanding(State.SUPERSEDED, None, 1), Act.KEEP, False),
        (ResumeStanding(State.SKIPPED, Reason.USER), Act.KEEP, False),
        (ResumeStanding(State.WAITING), Act.WAIT, True),
        (ResumeStanding(State.QUEUED, None, 3), Act.WAIT, True),
        (ResumeStanding(State.RUNNING, None, 1, live=True), Act.WAIT, True),
        (ResumeStanding(State.HELD, Reason.STUCK, 1, live=True), Act.WAIT, True),
        (FAILED, Act.RESTART, True),
        (ResumeStanding(State.HELD, Reason.POISON, 3), Act.RESTART, True),
        (ResumeStanding(State.CANCELLED, Reason.USER, 1), Act.RESTART, True),
        (ResumeStanding(State.CANCELLED, Reason.USER), Act.AGAIN, True),
        (ResumeStanding(State.EXPIRED, Reason.TTL), Act.AGAIN, True),
        (ResumeStanding(State.HELD, Reason.USER), Act.AGAIN, True),
        (BLOCKED, Act.AGAIN, True),
    ],
)
def test_plan_when_a_step_stands_anyhow_then_it_runs_only_if_it_did_not_complete(
    standing: ResumeStanding, act: Act, *, runs: bool
) -> None:
    step = planned(standing, chosen=RESTART)["a"]

    assert (step.act, step.runs) == (act, runs)
    assert step.why


@pytest.mark.parametrize(
    ("strategy", "a", "b"),
    [
        (Strategy.RESTART, Act.RESTART, Act.AGAIN),
        (Strategy.FROM_CHECKPOINT, Act.FROM_CHECKPOINT, Act.AGAIN),
        (Strategy.SKIP, Act.SKIP, Act.AGAIN),
        (Strategy.FAIL, Act.FAIL, Act.LEAVE),
    ],
)
def test_strategy_when_chosen_then_it_decides_the_step_and_its_dependents(strategy: Strategy, a: Act, b: Act) -> None:
    plans = planned(FAILED, chosen={"a": ("own", strategy)})

    assert (plans["a"].act, plans["b"].act) == (a, b)
    assert f"strategy own, which chose {strategy.value}" in plans["a"].why


@pytest.mark.parametrize(
    ("on", "a", "b"),
    [
        (NeedOn.FAILED, FAILED, Act.AGAIN),
        (NeedOn.ANY, FAILED, Act.AGAIN),
        (NeedOn.OK, FAILED, Act.LEAVE),
        (NeedOn.FAILED, DONE, Act.LEAVE),
        (NeedOn.OK, DONE, Act.AGAIN),
    ],
)
def test_need_when_it_stays_as_it_is_then_the_step_behind_it_runs_only_if_it_is_met(
    on: NeedOn, a: ResumeStanding, b: Act
) -> None:
    plans = planned(a, BLOCKED, Edge("a", on), chosen={"a": ("fail", Strategy.FAIL)})

    assert plans["b"].act is b


HELD = ResumeStanding(State.HELD, Reason.USER, 1)


@pytest.mark.parametrize(
    ("when", "a", "strategy", "act"),
    [
        (When.ANY_FAILED, FAILED, Strategy.FAIL, Act.AGAIN),
        (When.ANY_FAILED, FAILED, Strategy.SKIP, Act.LEAVE),
        (When.ANY_FAILED, FAILED, Strategy.RESTART, Act.AGAIN),
        (When.ANY_FAILED, HELD, Strategy.FAIL, Act.AGAIN),
        (When.ANY_OK, FAILED, Strategy.FAIL, Act.LEAVE),
        (When.ANY_OK, FAILED, Strategy.SKIP, Act.AGAIN),
    ],
)
def test_set_when_the_needs_stay_then_the_step_runs_only_if_they_meet_it(
    when: When, a: ResumeStanding, strategy: Strategy, act: Act
) -> None:
    two = [Step(name="a", job_id=1), Step(name="b", job_id=2, needs=(Edge("a", NeedOn.ANY),), when=when)]
    inputs = ResumeInputs(chosen={"a": ("own", strategy)})

    plans = {one.step: one for one in plan(two, {"a": a, "b": BLOCKED}, inputs)}

    assert plans["b"].act is act


def test_need_when_it_is_held_and_left_then_the_step_behind_it_may_still_run() -> None:
    held = ResumeStanding(State.HELD, Reason.USER, 1)

    assert planned(held, chosen={"a": ("fail", Strategy.FAIL)})["b"].act is Act.AGAIN


def test_scope_when_a_step_is_named_then_the_others_stay() -> None:
    plans = planned(FAILED, FAILED, Edge("a", NeedOn.FAILED), scope={"b"}, chosen={"b": ("restart", Strategy.RESTART)})

    assert (plans["a"].act, plans["b"].act) == (Act.LEAVE, Act.RESTART)


def test_pause_when_nothing_else_is_asked_then_what_stopped_short_stays() -> None:
    plans = planned(FAILED, ResumeStanding(State.WAITING), pressing=False)

    assert (plans["a"].act, plans["b"].act) == (Act.LEAVE, Act.WAIT)


@pytest.mark.parametrize(
    ("a", "act"),
    [
        (FAILED, Act.AGAIN),
        (ResumeStanding(State.CANCELLED, Reason.USER), Act.AGAIN),
        (ResumeStanding(State.HELD, Reason.POISON, 3), Act.WAIT),
        (ResumeStanding(State.QUEUED), Act.WAIT),
        (DONE, Act.WAIT),
    ],
)
@pytest.mark.parametrize("b", [ResumeStanding(State.WAITING), ResumeStanding(State.QUEUED)])
def test_waiting_step_when_a_need_that_had_ended_runs_again_then_it_waits_for_it(
    a: ResumeStanding, b: ResumeStanding, act: Act
) -> None:
    """Else it would start beside its need. One that has not ended is waited for anyway."""
    assert planned(a, b, Edge("a", NeedOn.ANY), chosen=RESTART)["b"].act is act


def test_fingerprint_when_it_changed_then_the_step_and_those_behind_it_run_again() -> None:
    changed = planned(DONE, DONE, changed={"a": "its environment has changed"}, verified={"b"})
    unproven = planned(DONE, DONE, changed={"a": "its environment has changed"})
    proven = planned(DONE, DONE, verified={"a", "b"})

    assert (changed["a"].act, changed["b"].act) == (Act.RESTART, Act.RESTART)
    assert "its environment has changed" in changed["a"].why
    assert "builds on a, which runs again" in changed["b"].why
    assert (unproven["a"].act, unproven["b"].act) == (Act.RESTART, Act.KEEP)
    assert (proven["a"].act, proven["b"].act) == (Act.KEEP, Act.KEEP)


def test_wish_when_nothing_is_named_then_it_is_plain() -> None:
    assert ResumeOptions(id=7).plain
    assert not ResumeOptions(id=7, strategy="restart").plain
    assert not ResumeOptions(id=7, start="a").plain


def test_stopped_short_when_the_step_never_started_then_no_strategy_is_asked() -> None:
    assert stopped_short(FAILED)
    assert not stopped_short(ResumeStanding(State.SKIPPED, Reason.DEPENDENCY, 2))
    assert not stopped_short(DONE)


# --- the registry -------------------------------------------------------------------------------------------

SHORT = Interrupted(workflow=7, step="a", job=1, state=State.FAILED, reason=Reason.EXIT, attempts=1, failures=1)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(strategies.STRATEGIES)
    yield
    strategies.STRATEGIES.clear()
    strategies.STRATEGIES.update(before)


def test_registry_when_a_strategy_is_registered_then_it_is_known_and_asked() -> None:
    strategies.strategy("by-hand")(lambda step: "skip" if step.failures else Strategy.FAIL)

    assert strategies.all_names()[-1] == "by-hand"
    assert strategies.choose("by-hand", SHORT) is Strategy.SKIP
    assert strategies.choose("restart", SHORT) is Strategy.RESTART


def test_registry_when_adopt_is_chosen_then_it_means_from_checkpoint() -> None:
    strategies.strategy("by-hand")(lambda _: "adopt")

    assert strategies.choose("adopt", SHORT) is Strategy.FROM_CHECKPOINT
    assert strategies.choose("by-hand", SHORT) is Strategy.FROM_CHECKPOINT


@pytest.mark.parametrize("name", ["restart", "by-hand"])
def test_registry_when_a_name_is_taken_then_it_is_refused(name: str) -> None:
    strategies.STRATEGIES["by-hand"] = lambda _: Strategy.FAIL

    with pytest.raises(ValueError, match=name):
        strategies.strategy(name)(lambda _: Strategy.SKIP)


def test_registry_when_a_name_is_unknown_then_the_known_are_listed() -> None:
    with pytest.raises(StrategyNotFound, match=r"'nope' \(there are: restart, from_checkpoint, skip, fail, adopt"):
        strategies.choose("nope", SHORT)


@pytest.mark.parametrize("choice", ["sideways", None])
def test_registry_when_a_strategy_returns_an_unknown_name_then_it_has_failed(choice: Any) -> None:
    strategies.strategy("odd")(lambda _: choice)

    with pytest.raises(StrategyFailed, match="'odd' failed for step a: ValueError"):
        strategies.choose("odd", SHORT)


@pytest.mark.parametrize(
    ("error", "message"), [(SystemExit(7), "SystemExit: 7"), (ValueError("\ud800"), r"ValueError: \\ud800")]
)
def test_choose_when_a_strategy_exits_or_is_no_unicode_then_it_has_failed(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(_step: Interrupted) -> str:
        raise error

    monkeypatch.setitem(strategies.STRATEGIES, "odd", odd)

    with pytest.raises(StrategyFailed, match=message):
        strategies.choose("odd", SHORT)


@pytest.mark.parametrize(("standing", "act"), [(FAILED, Act.AGAIN), (DONE, Act.KEEP)])
def test_plan_when_a_handler_was_not_needed_then_it_waits_only_for_reset_steps(
    standing: ResumeStanding, act: Act
) -> None:
    handler = ResumeStanding(State.SKIPPED, Reason.NOT_NEEDED)

    assert planned(standing, handler, Edge("a", NeedOn.FAILED), chosen=RESTART)["b"].act is act


def test_plan_when_a_watched_step_runs_again_then_its_handlers_do_too() -> None:
    chain = [
        Step(name="a", job_id=1),
        Step(name="alert", job_id=2, needs=(Edge("a", NeedOn.FAILED),)),
        Step(name="ticket", job_id=3, needs=(Edge("alert"),)),
        Step(name="by-hand", job_id=4, needs=(Edge("a", NeedOn.ANY),)),
    ]
    by_hand = ResumeStanding(State.SKIPPED, Reason.USER)
    standings = {"a": FAILED, "alert": DONE, "ticket": DONE, "by-hand": by_hand}

    plans = {one.step: one for one in plan(chain, standings, ResumeInputs(chosen=RESTART))}
    kept = {one.step: one for one in plan(chain, standings, ResumeInputs(chosen={"a": ("fail", Strategy.FAIL)}))}

    assert [plans[name].act for name in ("alert", "ticket", "by-hand")] == [Act.RESTART, Act.RESTART, Act.KEEP]
    assert plans["ticket"].why == "it depends on the end of alert, which runs again"
    assert [kept[name].act for name in ("alert", "ticket", "by-hand")] == [Act.KEEP, Act.KEEP, Act.KEEP]
