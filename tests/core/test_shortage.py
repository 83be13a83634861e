"""When dispatch backs off because the host cannot start a process, and when it goes on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job.events import Ended
from stoker.core.job.model import Outcome, OutcomeKind, State
from stoker.core.job.verdict import judge
from stoker.core.shortage import (
    BASE_PAUSE_MS,
    MAX_DELAY_MS,
    MAX_PAUSE_MS,
    NO_SHORTAGE,
    Shortage,
    start_failed,
    startable,
    tried,
)
from tests.support.jobs import running, spec

FREE = 8
LACK = Outcome(kind=OutcomeKind.NEVER_STARTED, transient=True, error="out of processes")


def at(steady: int) -> Now:
    return Now(steady=steady, wall=1_000_000 + steady)


def failed_at(*times: int) -> Shortage:
    shortage = NO_SHORTAGE
    for time in times:
        shortage = start_failed(shortage, "out of processes", at(time))
    return shortage


def test_startable_when_nothing_failed_then_every_slot_may_be_used() -> None:
    assert startable(NO_SHORTAGE, FREE, at(0)) == FREE


def test_startable_when_one_start_failed_then_every_other_job_still_starts() -> None:
    """It may be about a file of that one job."""
    assert startable(failed_at(0), FREE, at(0)) == FREE


def test_startable_when_two_starts_failed_then_it_is_zero_until_the_pause_is_over() -> None:
    shortage = failed_at(0, 1)

    assert startable(shortage, FREE, at(BASE_PAUSE_MS)) == 0
    assert startable(shortage, FREE, at(1 + BASE_PAUSE_MS)) == 1


def test_startable_when_one_is_tried_then_no_other_is_until_the_next_pause_ends() -> None:
    trying = tried(failed_at(0, 1), at(5_000))

    assert startable(trying, FREE, at(5_000)) == 0
    assert startable(trying, FREE, at(5_000 + BASE_PAUSE_MS)) == 1


def test_pause_when_a_whole_batch_fails_then_it_counts_as_one_round() -> None:
    assert failed_at(0, 1, 2, 3, 4, 5).try_at == failed_at(0, 1).try_at


def test_pause_when_rounds_go_on_then_it_doubles_up_to_a_bound() -> None:
    shortage, pauses, now = failed_at(0, 0), [], 0
    for _ in range(8):
        pauses.append(shortage.try_at - now)
        now = shortage.try_at
        shortage = start_failed(shortage, "still", at(now))

    assert pauses[:3] == [BASE_PAUSE_MS, 2 * BASE_PAUSE_MS, 4 * BASE_PAUSE_MS]
    assert pauses[-1] == MAX_PAUSE_MS


def test_shortage_when_it_goes_on_then_its_begin_and_its_newest_error_are_known() -> None:
    shortage = start_failed(failed_at(7, 8), "out of memory", at(9))

    assert (shortage.since, shortage.error) == (at(7).wall, "out of memory")


@pytest.mark.parametrize(("failed", "delay"), [(1, 1_000), (3, 4_000), (99, 60_000)])
def test_delay_when_starts_failed_then_it_grows_with_these_and_not_with_attempts(failed: int, delay: int) -> None:
    job, attempt = running(spec(max_attempts=100))
    end = Ended(outcome=LACK, failed_starts=failed)

    assert judge(replace(job, attempts=500), attempt, end, 0).delay_ms == delay <= MAX_DELAY_MS


def test_verdict_when_the_host_lacked_something_then_the_job_is_queued_uncharged() -> None:
    job, attempt = running(spec(max_attempts=1, base_delay_ms=3_600_000))

    verdict = judge(job, attempt, Ended(outcome=LACK, failed_starts=1), 0)

    assert (verdict.state, verdict.failure, verdict.orphaning) == (State.QUEUED, 0, 0)
    assert verdict.delay_ms == BASE_PAUSE_MS
