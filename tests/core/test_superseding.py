"""A newer job of the same key: jobs that have not started end, one that runs is not followed by another attempt.

It is stopped only if the submitter of the newer job asked for that.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import Job, OnOrphan, Outcome, Reason, Spec, State, StopReason
from stoker.core.job.transition import debounce_by, submitted
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, attempt, exited, job, running, spec


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.HELD])
def test_superseded_when_nothing_runs_then_the_job_ends_and_names_the_newer_one(state: State) -> None:
    after = step(job(state), None, ev.Superseded(by=9, stop=True), NOW)

    assert (after.job.state, after.job.reason) == (State.SUPERSEDED, Reason.SUPERSEDED)
    assert (after.job.superseded_by, after.job.finished_at) == (9, NOW.wall)
    assert after.effects == (ev.ReleaseDependents(7),)


@pytest.mark.parametrize("stop", [False, True])
def test_superseded_when_the_job_runs_then_it_is_stopped_only_if_that_was_asked(*, stop: bool) -> None:
    of, live = running()

    after = step(of, live, ev.Superseded(by=9, stop=stop), NOW)

    assert (after.job.state, after.job.superseded_by) == (State.RUNNING, 9)
    assert after.attempt is not None
    assert after.attempt.stop_reason is (StopReason.SUPERSEDED if stop else None)
    assert len(after.effects) == stop


def test_superseded_when_it_happens_twice_then_the_first_of_the_newer_ones_stays() -> None:
    of, live = running(superseded_by=8)

    assert step(of, live, ev.Superseded(by=9), NOW).job.superseded_by == 8


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (exited(0), State.SUCCEEDED),
        (exited(1), State.SUPERSEDED),
        (UNSEEN, State.SUPERSEDED),
        (NEVER_STARTED, State.SUPERSEDED),
    ],
)
@pytest.mark.parametrize("on_orphan", [OnOrphan.HOLD, OnOrphan.REQUEUE])
def test_ended_when_a_newer_job_came_then_no_attempt_follows(end: Outcome, state: State, on_orphan: OnOrphan) -> None:
    of, live = running(spec(max_attempts=3, on_orphan=on_orphan), superseded_by=9)

    assert step(of, live, ev.Ended(outcome=end), NOW).job.state is state


@pytest.mark.parametrize("event", [ev.Ended(outcome=UNSEEN), ev.Refused(why="log_exists")])
def test_ended_when_the_superseded_job_was_stuck_then_it_is_no_longer_held(event: ev.Event) -> None:
    of = job(State.HELD, attempts=1, superseded_by=9)

    assert step(of, attempt(of), event, NOW).job.state is State.SUPERSEDED


def test_retry_when_the_job_was_superseded_then_it_is_no_longer_replaced() -> None:
    assert step(job(State.SUPERSEDED, superseded_by=9), None, ev.Retry(), NOW).job.superseded_by is None


def test_submitted_when_it_is_debounced_then_it_waits_on_the_steady_clock() -> None:
    debounced = job(State.WAITING, asked=spec(supersede_key="k", debounce_ms=5), debounce_by=NOW.steady + 50)

    waiting = submitted(debounced, NOW)

    assert (waiting.state, waiting.wake_at) == (State.WAITING, NOW.steady + 5)
    assert submitted(replace(debounced, debounce_by=NOW.steady + 2), NOW).wake_at == NOW.steady + 2
    assert submitted(replace(debounced, debounce_by=NOW.steady), NOW).state is State.QUEUED


LATEST = [
    ("without a debounce", spec(), [], None),
    ("the first one", spec(debounce_ms=5), [], 50),
    ("a bound of its own", spec(debounce_ms=5, debounce_max_ms=7), [], 7),
    ("after one that waits", spec(debounce_ms=5), [job(State.WAITING, debounce_by=NOW.steady + 20)], 20),
    ("after one that is queued", spec(debounce_ms=5), [job(State.QUEUED, debounce_by=NOW.steady - 3)], -3),
    ("after one with a later bound", spec(debounce_ms=5), [job(State.WAITING, debounce_by=NOW.steady + 90)], 50),
    ("after one without", spec(debounce_ms=5), [job(State.QUEUED)], 50),
    ("after one that runs", spec(debounce_ms=5), [job(State.RUNNING, attempts=1, debounce_by=NOW.steady)], 50),
    ("after one that is tried again", spec(debounce_ms=5), [job(State.WAITING, attempts=1, debounce_by=2)], 50),
    ("after one that is held", spec(debounce_ms=5), [job(State.HELD, debounce_by=NOW.steady)], 50),
]


@pytest.mark.parametrize(("asked", "older", "latest_ms"), [pytest.param(*row[1:], id=row[0]) for row in LATEST])
def test_debounce_when_newer_jobs_come_then_they_delay_the_start_until_a_bound(
    asked: Spec, older: list[Job], latest_ms: int | None
) -> None:
    by = debounce_by(asked, older, NOW)

    assert by == (None if latest_ms is None else NOW.steady + latest_ms)
