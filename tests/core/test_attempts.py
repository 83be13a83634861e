"""Events of an attempt: its start, the requests to stop it, its end, and an end that could not be proven.

The first reason for a stop stays. A worker that may live keeps its attempt open.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import (
    OnOrphan,
    Outcome,
    OutcomeKind,
    Reason,
    State,
    StopReason,
)
from stoker.core.job.transition import Transitioned
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, attempt, exited, job, running, spec

# --- start and stop ---------------------------------------------------------------------------------------


def test_dispatched_when_the_job_is_queued_then_its_attempt_is_opened_and_launched() -> None:
    opened = attempt(ordinal=4, run_id="7.4.d")

    after = step(job(State.QUEUED, attempts=3, wake_at=5), None, ev.Dispatched(attempt=opened), NOW)

    assert after == Transitioned(job(State.RUNNING, attempts=4), opened, (ev.Launch(opened),))


STOPS: list[tuple[ev.Event, StopReason]] = [
    *[(ev.StopWanted(reason=reason), reason) for reason in StopReason],
    (ev.DeadlinePassed(), StopReason.DEADLINE),
    (ev.Cancel(), StopReason.CANCEL),
    (ev.Restart(yes=True), StopReason.RESTART),
]


@pytest.mark.parametrize(("event", "reason"), STOPS)
def test_stop_when_it_is_the_first_then_the_intent_is_kept_and_the_ladder_follows(
    event: ev.Event, reason: StopReason
) -> None:
    of, live = running(spec(grace_ms=42))

    after = step(of, live, event, NOW)

    assert after == Transitioned(of, replace(live, stop_reason=reason), (ev.Stop(live.run_id, 42),))


@pytest.mark.parametrize("first", StopReason)
@pytest.mark.parametrize(("event", "_reason"), STOPS)
def test_stop_when_another_came_first_then_the_first_reason_stays(
    first: StopReason, event: ev.Event, _reason: StopReason
) -> None:
    of, live = running(stop_reason=first)

    after = step(of, live, event, NOW)

    assert after.job == of
    assert after.effects == ()
    assert after.attempt in (None, live)


def test_refused_when_the_disk_knows_more_then_the_job_is_held_uncharged() -> None:
    of, live = running(spec(on_orphan=OnOrphan.REQUEUE, max_attempts=9))

    after = step(of, live, ev.Refused(why="log_exists"), NOW)

    end = Outcome(kind=OutcomeKind.NEVER_STARTED, error="log_exists", ended_at=NOW.wall)
    closed = replace(live, outcome=end, ended_at=NOW.wall)
    assert after == Transitioned(replace(of, state=State.HELD, reason=Reason.LOST), closed, (ev.Settled(live.run_id),))


def test_adopted_when_the_job_runs_then_only_the_attempt_remembers() -> None:
    of, live = running()

    assert step(of, live, ev.Adopted(), NOW) == Transitioned(of, replace(live, adopted=1))


# --- the end of an attempt --------------------------------------------------------------------------------


def test_ended_when_the_job_ends_then_attempt_job_and_dependents_follow_in_order() -> None:
    of, live = running(pid=123, wake_at=4, expires_at=5)

    after = step(of, live, ev.Ended(outcome=exited(0, ended_at=99, user_ms=5)), NOW)

    end = exited(0, ended_at=99, user_ms=5)
    finished = job(State.SUCCEEDED, attempts=1, reason=Reason.EXIT, exit_code=0, finished_at=99)
    assert after.job == finished
    assert after.attempt == replace(live, outcome=end, ended_at=99)
    assert after.effects == (ev.Settled(live.run_id), ev.ReleaseDependents(7))


def test_ended_when_the_time_was_not_seen_then_now_is_the_time() -> None:
    of, live = running()

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.attempt is not None
    assert after.attempt.ended_at == NOW.wall


def test_ended_when_a_retry_follows_then_it_waits_out_the_delay_on_the_steady_clock() -> None:
    of, live = running(spec(max_attempts=2, base_delay_ms=1_000), pid=5)

    after = step(of, live, ev.Ended(outcome=exited(3), luck=0.5), NOW)

    assert after.job == job(
        State.WAITING, asked=of.spec, attempts=1, failures=1, exit_code=3, wake_at=NOW.steady + 1_000
    )
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_the_delay_is_nothing_then_the_job_is_queued_at_once() -> None:
    of, live = running(spec(max_attempts=2, base_delay_ms=0))

    assert step(of, live, ev.Ended(outcome=exited(3)), NOW).job.state is State.QUEUED


def test_ended_when_a_safe_job_ends_unseen_then_it_is_queued_and_charged() -> None:
    of, live = running(spec(on_orphan=OnOrphan.REQUEUE))

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.job == job(State.QUEUED, asked=of.spec, attempts=1, orphanings=1)
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_a_person_must_decide_then_dependents_are_not_released() -> None:
    of, live = running(spec(on_orphan=OnOrphan.HOLD), pid=5)

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.job == job(State.HELD, asked=of.spec, attempts=1, orphanings=1, reason=Reason.ORPHANED)
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_the_job_was_stuck_then_the_attempt_closes_and_a_person_decides() -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1, pid=44)
    live = attempt(stuck)

    after = step(stuck, live, ev.Ended(outcome=exited(2, ended_at=8)), NOW)

    assert (after.job.state, after.job.reason, after.job.pid) == (State.HELD, Reason.EXIT, None)
    assert after.job.exit_code == 2
    assert after.attempt == replace(live, outcome=exited(2, ended_at=8), ended_at=8)
    assert after.effects == (ev.Settled(live.run_id),)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (UNSEEN, Reason.LOST),
        (NEVER_STARTED, Reason.LOST),
        (Outcome(kind=OutcomeKind.OOM), Reason.OOM),
        (Outcome(kind=OutcomeKind.SIGNAL, signal=9), Reason.SIGNAL),
    ],
)
def test_ended_when_the_job_was_stuck_then_its_reason_names_its_known_end(end: Outcome, reason: Reason) -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1)

    after = step(stuck, attempt(stuck), ev.Ended(outcome=end), NOW)

    assert (after.job.state, after.job.reason) == (State.HELD, reason)


def test_ended_when_a_cancel_came_before_the_attempt_got_stuck_then_it_counts() -> None:
    of, live = running()
    wanted = step(of, live, ev.Cancel(), NOW).attempt
    stuck = step(of, wanted, ev.Stuck(), NOW)

    after = step(stuck.job, wanted, ev.Ended(outcome=UNSEEN), NOW)

    assert (after.job.state, after.job.reason) == (State.CANCELLED, Reason.USER)


def test_ended_when_the_stuck_attempt_is_closed_then_every_way_out_of_held_is_open() -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1)
    freed = step(stuck, attempt(stuck), ev.Ended(outcome=UNSEEN), NOW).job

    ways = {verb: step(freed, None, event(), NOW).job.state for verb, event in ev.VERBS.items() if verb in WAYS_OUT}

    assert ways == WAYS_OUT


WAYS_OUT = {"cancel": State.CANCELLED, "retry": State.QUEUED, "skip": State.SKIPPED, "release": State.QUEUED}


def test_stuck_when_the_worker_may_live_then_the_attempt_stays_open() -> None:
    of, live = running(pid=5)

    after = step(of, live, ev.Stuck(), NOW)

    assert after.job == replace(of, state=State.HELD, reason=Reason.STUCK)
    assert after.attempt in (None, live)
    assert after.effects == ()
