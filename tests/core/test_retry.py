"""Backoff: the formula to the millisecond, its jitter, and which failures are permanent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.job.model import Outcome, OutcomeKind
from stoker.core.job.retry import GIVE_UP, RetryDecision, RetryPolicy
from tests.support.jobs import exited, outcome, spec

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("failures", "delay_ms"), [(1, 1_000), (2, 2_000), (3, 4_000), (12, 2_048_000), (13, HOUR_MS), (5_000, HOUR_MS)]
)
def test_delay_when_failures_grow_then_it_doubles_up_to_an_hour(failures: int, delay_ms: int) -> None:
    assert RetryPolicy.of(spec()).delay_ms(failures, luck=0.5) == delay_ms


@pytest.mark.parametrize(("luck", "delay_ms"), [(0.0, 900), (0.25, 950), (0.5, 1_000), (0.75, 1_050), (1.0, 1_100)])
def test_delay_when_luck_differs_then_it_is_spread_over_a_tenth_each_way(luck: float, delay_ms: int) -> None:
    assert RetryPolicy.of(spec()).delay_ms(1, luck) == delay_ms


def test_delay_when_the_power_is_beyond_every_number_then_the_longest_delay_holds() -> None:
    policy = RetryPolicy.of(spec(backoff_factor=1_000.0, max_delay_ms=77))

    assert policy.delay_ms(1_000_000, luck=0.5) == 77


@pytest.mark.parametrize("failures", [1, 103, 104, 1_025, 1_000_000])
@pytest.mark.parametrize("factor", [1.0, 2.0, 1_000.0])
def test_delay_when_the_base_is_zero_then_it_stays_zero(failures: int, factor: float) -> None:
    policy = RetryPolicy.of(spec(base_delay_ms=0, backoff_factor=factor))

    assert policy.delay_ms(failures, luck=0.5) == 0


@given(
    failures=st.integers(1, 10**6),
    base=st.integers(0, 10**12),
    factor=st.floats(1, 1_000),
    longest=st.integers(0, 10**12),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_delay_when_computed_then_it_is_between_zero_and_the_longest(
    failures: int, base: int, factor: float, longest: int, luck: float
) -> None:
    policy = RetryPolicy.of(spec(base_delay_ms=base, backoff_factor=factor, max_delay_ms=longest))

    delay_ms = policy.delay_ms(failures, luck)

    assert 0 <= delay_ms <= longest * 1.1 + 1
    assert delay_ms >= min(base, longest) * 0.9 - 1


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, RetryDecision(1_000)), (2, RetryDecision(2_000)), (3, GIVE_UP), (4, GIVE_UP)]
)
def test_decide_when_failures_are_counted_then_max_attempts_is_the_budget(
    failures: int, expected: RetryDecision
) -> None:
    assert RetryPolicy.of(spec(max_attempts=3)).after_failure(failures, exited(1), luck=0.5) == expected


@pytest.mark.parametrize(
    ("end", "permanent"),
    [
        (exited(1), False),
        (exited(64), True),
        (Outcome(kind=OutcomeKind.SIGNAL, signal=64, exit_code=64), False),
        (outcome(OutcomeKind.SIGNAL), False),
        (outcome(OutcomeKind.OOM), False),
        (outcome(OutcomeKind.SPAWN_ERROR), True),
        (outcome(OutcomeKind.EXCEPTION), True),
        (outcome(OutcomeKind.EXCEPTION, transient=True), False),
    ],
)
def test_decide_when_the_failure_is_permanent_then_it_is_never_tried_again(end: Outcome, permanent: bool) -> None:  # noqa: FBT001 - a column of the table
    policy = RetryPolicy.of(spec(max_attempts=99, no_retry_exit_codes=(64,)))

    assert (policy.after_failure(1, end, luck=0.5) == GIVE_UP) is permanent
