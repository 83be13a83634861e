"""Jobs before a start: their first state, needs, times to wait for, ttl and deadline.

A ttl counts from the moment when the job waits for nothing else, on the steady clock.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import (
    Need,
    NeedOn,
    Reason,
    State,
    StopReason,
)
from stoker.core.job.run_if import Decision, RunIf
from stoker.core.job.transition import Transitioned, awaits_decision, blocked, submitted
from tests.support.jobs import NEVER_STARTED, NOW, attempt, exited, job, running, spec

# --- the first state, and waiting -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "asked", "state"),
    [
        ({}, {}, State.QUEUED),
        ({"needs_open": 1}, {}, State.WAITING),
        ({"undecided": True}, {"run_if": RunIf(text="true")}, State.WAITING),
        ({}, {"run_at": NOW.wall + 1}, State.WAITING),
        ({}, {"run_at": NOW.wall}, State.QUEUED),
        ({"wake_at": NOW.steady + 1}, {}, State.WAITING),
        ({"wake_at": NOW.steady}, {}, State.QUEUED),
    ],
)
def test_submitted_when_something_must_happen_first_then_it_waits(
    fields: dict[str, Any], asked: dict[str, Any], state: State
) -> None:
    accepted = submitted(job(State.WAITING, asked=spec(**asked), **fields), NOW)

    assert accepted.state is state
    assert blocked(accepted, NOW) is (state is State.WAITING)


@pytest.mark.parametrize(
    "still",
    [{"needs_open": 1}, {"wake_at": NOW.steady + 1}, {"asked": spec(run_at=NOW.wall + 1)}],
    ids=["needs", "backoff", "run_at"],
)
def test_woke_when_something_else_holds_the_job_then_nothing_changes(still: dict[str, Any]) -> None:
    before = job(State.WAITING, **still)

    assert step(before, None, ev.Woke(), NOW) == Transitioned(before)


def test_woke_when_the_backoff_is_over_then_it_is_forgotten() -> None:
    after = step(job(State.WAITING, wake_at=NOW.steady), None, ev.Woke(), NOW)

    assert after == Transitioned(job(State.QUEUED, wake_at=None))


def test_need_met_when_another_need_is_open_then_it_waits_on() -> None:
    after = step(job(State.WAITING, needs_open=2), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.WAITING, needs_open=1))


def test_need_met_when_run_at_is_still_ahead_then_it_waits_on() -> None:
    asked = spec(run_at=NOW.wall + 1)

    after = step(job(State.WAITING, asked=asked, needs_open=1), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.WAITING, asked=asked, needs_open=0))


def test_need_met_when_the_job_is_held_then_a_person_still_decides() -> None:
    after = step(job(State.HELD, needs_open=1), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.HELD, needs_open=0))


def test_need_failed_when_the_job_waits_then_it_is_skipped_and_releases_dependents() -> None:
    after = step(job(State.WAITING, needs_open=2), None, ev.NeedFailed(needed=3, on=NeedOn.OK), NOW)

    expected = job(State.SKIPPED, needs_open=2, reason=Reason.DEPENDENCY, finished_at=NOW.wall)
    assert after == Transitioned(expected, effects=(ev.ReleaseDependents(7),))


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_unneeded_when_other_needs_are_open_then_they_decide(state: State) -> None:
    after = step(job(state, needs_open=2), None, ev.Unneeded(), NOW)

    assert after == Transitioned(job(state, needs_open=1, not_needed=True))


@pytest.mark.parametrize("event", [ev.Retry(needs_open=1), ev.Reset(needs_open=1)])
def test_unneeded_when_the_job_runs_again_then_it_is_forgotten(event: ev.Event) -> None:
    before = job(State.SKIPPED, reason=Reason.NOT_NEEDED, not_needed=True, finished_at=NOW.wall)

    assert not step(before, None, event, NOW).job.not_needed


def test_unneeded_when_its_needs_are_changed_then_it_is_forgotten() -> None:
    changed = ev.Rewired(needs=(), when=None, needs_open=0)

    assert step(job(State.WAITING, not_needed=True, needs_open=1), None, changed, NOW).job == job(State.QUEUED)


# --- ttl and deadline -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fields", "expires_at"),
    [
        ({"ttl_ms": 50}, {}, NOW.steady + 50),
        ({}, {}, None),
        ({"ttl_ms": 50, "run_at": NOW.wall + 1_000}, {}, None),
        ({"ttl_ms": 50, "run_at": NOW.wall - 1_000}, {}, NOW.steady + 50),
        ({"ttl_ms": 50}, {"needs_open": 1}, None),
    ],
    ids=["from submission", "no ttl", "run_at first", "run_at has passed", "needs first"],
)
def test_ttl_when_the_job_is_submitted_then_it_counts_from_whatever_is_last(
    asked: dict[str, Any], fields: dict[str, Any], expires_at: int | None
) -> None:
    assert submitted(job(State.WAITING, asked=spec(**asked), **fields), NOW).expires_at == expires_at


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_ttl_when_the_last_need_is_met_then_it_counts_from_then(state: State) -> None:
    before = submitted(job(state, asked=spec(ttl_ms=50), needs_open=2), NOW)
    before = replace(before, state=state)
    later = Now(NOW.wall + 500, NOW.steady + 500)

    first = step(before, None, ev.NeedMet(), NOW).job
    last = step(first, None, ev.NeedMet(), later).job

    assert (first.expires_at, last.expires_at) == (None, later.steady + 50)


@pytest.mark.parametrize("jump", [0, -3_600_000, 86_400_000])
def test_ttl_when_run_at_has_come_then_it_counts_from_then_on_steady_time(jump: int) -> None:
    run_at = NOW.wall + 1_000 + jump
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50, run_at=NOW.wall + 1_000)), NOW)
    later = Now(max(run_at, NOW.wall + 1_000), NOW.steady + 700)

    after = step(before, None, ev.Woke(), later).job

    assert (before.expires_at, after.state, after.expires_at) == (None, State.QUEUED, later.steady + 50)


def test_ttl_when_the_job_was_held_over_its_run_at_then_it_counts_from_the_release() -> None:
    before = job(State.HELD, asked=spec(ttl_ms=50, run_at=NOW.wall - 1))

    assert step(before, None, ev.Release(), NOW).job.expires_at == NOW.steady + 50


def test_ttl_when_a_backoff_is_over_then_it_does_not_begin_again() -> None:
    before = job(State.WAITING, asked=spec(ttl_ms=50, max_attempts=2), attempts=1, failures=1, wake_at=NOW.steady)

    assert step(before, None, ev.Woke(), NOW).job == replace(before, state=State.QUEUED, wake_at=None)


def test_ttl_when_the_job_has_started_once_then_it_is_over() -> None:
    opened = attempt()
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50, max_attempts=2)), NOW)
    going = step(before, None, ev.Dispatched(attempt=opened), NOW)

    after = step(going.job, opened, ev.Ended(outcome=exited(1)), NOW).job

    assert (after.state, after.expires_at) == (State.WAITING, None)


def test_ttl_when_the_job_never_started_after_all_then_it_still_counts() -> None:
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50)), NOW)
    opened = attempt()
    going = step(before, None, ev.Dispatched(attempt=opened), NOW)

    after = step(going.job, opened, ev.Ended(outcome=NEVER_STARTED), NOW).job

    assert after.state is State.QUEUED
    assert after.expires_at == NOW.steady + 50


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
@pytest.mark.parametrize(
    ("event", "reason"), [(ev.TtlPassed(), Reason.TTL), (ev.DeadlinePassed(), Reason.DEADLINE)], ids=["ttl", "deadline"]
)
def test_limit_when_the_job_never_started_then_it_expires_for_that_reason(
    state: State, event: ev.Event, reason: Reason
) -> None:
    before = job(state, wake_at=NOW.steady, expires_at=NOW.steady)

    after = step(before, None, event, NOW)

    assert after == Transitioned(
        job(State.EXPIRED, reason=reason, wake_at=None, expires_at=None), effects=(ev.ReleaseDependents(7),)
    )


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
def test_deadline_when_the_job_has_run_before_but_does_not_now_then_it_expires(state: State) -> None:
    before = job(state, attempts=1, failures=1, asked=spec(max_attempts=3))

    after = step(before, None, ev.DeadlinePassed(), NOW)

    assert (after.job.state, after.job.reason) == (State.EXPIRED, Reason.DEADLINE)


def test_deadline_when_the_job_runs_then_it_is_stopped_and_fails_without_a_retry() -> None:
    of, live = running(spec(max_attempts=5, grace_ms=33))

    stopping = step(of, live, ev.DeadlinePassed(), NOW)
    assert stopping == Transitioned(of, replace(live, stop_reason=StopReason.DEADLINE), (ev.Stop(live.run_id, 33),))
    ended = step(of, stopping.attempt, ev.Ended(outcome=exited(0, stopped=True)), NOW)

    assert (ended.job.state, ended.job.reason) == (State.FAILED, Reason.DEADLINE)


# --- the `if` of a step -------------------------------------------------------------------------------------

ASKED = spec(run_if=RunIf(text="true"))


@pytest.mark.parametrize(
    "still",
    [{}, {"needs_open": 1}, {"conditions_open": 1}, {"wake_at": NOW.steady + 1}],
    ids=["nothing", "needs", "conditions", "backoff"],
)
def test_decided_when_something_else_holds_the_step_then_it_waits_on(still: dict[str, Any]) -> None:
    before = job(State.WAITING, asked=replace(ASKED, wait_for="event:go"), undecided=True, **still)

    after = step(before, None, ev.Decided(decision=Decision.RUN), NOW).job

    assert (after.state, after.undecided) == (State.WAITING if still else State.QUEUED, False)


@pytest.mark.parametrize("event", [ev.Retry(), ev.Reset()], ids=["retry", "reset"])
def test_step_when_it_is_to_run_again_then_its_if_is_decided_again(event: ev.Event) -> None:
    ended = job(State.SKIPPED, reason=Reason.NOT_NEEDED, asked=ASKED, finished_at=NOW.wall)

    after = step(ended, None, event, NOW).job

    assert (after.state, after.undecided, awaits_decision(after)) == (State.WAITING, True, True)
    assert not awaits_decision(replace(after, needs_open=1))


def test_step_when_it_gets_new_needs_then_its_if_is_decided_again() -> None:
    decided = job(State.QUEUED, asked=ASKED)

    after = step(decided, None, ev.Rewired(needs=(Need(3),), when=None, needs_open=1), NOW).job

    assert (after.state, after.undecided) == (State.WAITING, True)
