"""Commands of a person: cancel, skip, hold, release, retry, restart and edit.

A retry counts attempts, needs and the ttl afresh. Commands that a state refuses are in test_lifecycle.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.errors import (
    InvalidParams,
    NotAllowed,
)
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import (
    Actor,
    Reason,
    State,
)
from stoker.core.job.transition import Transitioned
from tests.support.jobs import NOW, job, spec


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.HELD])
@pytest.mark.parametrize(
    ("event", "end"), [(ev.Cancel(), State.CANCELLED), (ev.Skip(), State.SKIPPED)], ids=["cancel", "skip"]
)
def test_verb_when_nothing_runs_then_the_job_ends_at_once_and_releases_dependents(
    state: State, event: ev.Event, end: State
) -> None:
    after = step(job(state, wake_at=5, expires_at=6), None, event, NOW)

    assert after == Transitioned(job(end, reason=Reason.USER), effects=(ev.ReleaseDependents(7),))


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_skip_when_the_job_has_ended_badly_then_dependents_are_released_again(state: State) -> None:
    after = step(job(state, finished_at=1), None, ev.Skip(), NOW)

    assert after == Transitioned(job(State.SKIPPED, reason=Reason.USER), effects=(ev.ReleaseDependents(7),))


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
def test_hold_when_the_job_is_pending_then_only_its_state_changes(state: State) -> None:
    before = job(state, needs_open=1, wake_at=5, expires_at=6)

    assert step(before, None, ev.Hold(), NOW) == Transitioned(replace(before, state=State.HELD, reason=Reason.USER))
    doubted = step(before, None, ev.Hold(reason=Reason.LOST), NOW)
    assert doubted == Transitioned(replace(before, state=State.HELD, reason=Reason.LOST))


@pytest.mark.parametrize(
    "still",
    [{"needs_open": 1}, {"wake_at": NOW.steady + 1}, {"asked": spec(run_at=NOW.wall + 1)}],
    ids=["needs", "backoff", "run_at"],
)
def test_release_when_something_still_holds_the_job_then_it_waits(still: dict[str, Any]) -> None:
    after = step(job(State.HELD, **still), None, ev.Release(), NOW)

    assert after == Transitioned(job(State.WAITING, **still))


def test_release_when_nothing_holds_the_job_then_it_keeps_budgets_and_is_queued() -> None:
    after = step(job(State.HELD, failures=2, orphanings=3, attempts=5, expires_at=9), None, ev.Release(), NOW)

    assert after == Transitioned(job(State.QUEUED, failures=2, orphanings=3, attempts=5, expires_at=9))


def test_release_when_the_job_is_poison_then_its_unseen_ends_are_counted_afresh() -> None:
    before = job(State.HELD, reason=Reason.POISON, failures=2, orphanings=3, attempts=5)

    assert step(before, None, ev.Release(), NOW) == Transitioned(job(State.QUEUED, failures=2, attempts=5))


@pytest.mark.parametrize("event", [ev.Retry(), ev.Restart(yes=True)], ids=["retry", "restart"])
def test_retry_when_the_job_has_ended_then_budgets_needs_and_ttl_start_afresh(event: ev.Event) -> None:
    asked = spec(ttl_ms=50)
    before = job(
        State.FAILED, asked=asked, attempts=4, failures=3, orphanings=2, needs_open=1, exit_code=3, signal=9, wake_at=8
    )

    after = step(before, None, event, NOW)

    assert after == Transitioned(job(State.QUEUED, asked=asked, attempts=4, expires_at=NOW.steady + 50))


def test_retry_when_run_at_is_ahead_then_it_waits_and_the_ttl_does_not_count() -> None:
    asked = spec(run_at=NOW.wall + 1_000, ttl_ms=50)

    after = step(job(State.CANCELLED, asked=asked), None, ev.Retry(), NOW)

    assert after == Transitioned(job(State.WAITING, asked=asked))


@pytest.mark.parametrize("event", [ev.Retry(), ev.Restart(yes=True)])
def test_retry_when_a_person_holds_the_job_then_only_a_release_is_named(event: ev.Event) -> None:
    with pytest.raises(NotAllowed, match="held by a person") as refused:
        step(job(State.HELD, reason=Reason.USER), None, event, NOW)

    assert refused.value.hint == "stoker release 7"


@pytest.mark.parametrize("deadline", [NOW.wall, NOW.wall - 1])
@pytest.mark.parametrize("state", [State.EXPIRED, State.HELD])
def test_retry_when_the_deadline_has_passed_then_it_asks_for_a_new_one(deadline: int, state: State) -> None:
    before = job(state, asked=spec(deadline=deadline), reason=Reason.ORPHANED)

    with pytest.raises(InvalidParams) as refused:
        step(before, None, ev.Retry(), NOW)

    assert refused.value.details["path"] == "deadline"


def test_retry_when_deadline_and_timeout_are_given_then_they_replace_the_old() -> None:
    before = job(State.EXPIRED, asked=spec(deadline=NOW.wall - 1, timeout_ms=5))

    after = step(before, None, ev.Retry(deadline=NOW.wall + 1, timeout_ms=9), NOW)

    assert after.job.spec == spec(deadline=NOW.wall + 1, timeout_ms=9)


def test_retry_when_the_deadline_is_still_ahead_then_it_stays() -> None:
    before = job(State.FAILED, asked=spec(deadline=NOW.wall + 1, timeout_ms=5))

    assert step(before, None, ev.Retry(), NOW).job.spec == before.spec


@pytest.mark.parametrize(("attempts", "expires_at"), [(0, NOW.steady + 7), (1, 5)])
def test_edit_when_the_ttl_changes_before_the_first_start_then_it_counts_from_now(
    attempts: int, expires_at: int
) -> None:
    before = job(State.QUEUED, asked=spec(ttl_ms=5), attempts=attempts, expires_at=5)

    after = step(before, None, ev.Edit(changes={"ttl_ms": 7}, moved_ms=0), NOW)

    assert (after.job.spec.ttl_ms, after.job.expires_at) == (7, expires_at)


def test_event_when_a_person_causes_it_then_it_carries_the_actor() -> None:
    assert ev.Cancel(actor=Actor(1000, "mistyped")).actor == Actor(1000, "mistyped")
    assert ev.Cancel().actor == Actor(None, None)
