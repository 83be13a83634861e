"""Token buckets: how a rate is read, how many jobs may start when, and that no clock breaks the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from stoker.core.errors import InvalidParams
from stoker.core.rate import NANOSECONDS, Rate, changed, is_possible, next_token_ms, read_rate, take, tokens

NOW = 1_700_000_000_000
TEXTS = [
    ("10/s", Rate(10, 1_000)),
    ("100/m", Rate(100, 60_000)),
    ("1/90s", Rate(1, 90_000)),
    ("3/500ms", Rate(3, 500)),
    ("5000/d", Rate(5_000, 86_400_000)),
]
WRONG = [
    ("fast", 1, "rate: 'fast' is not a rate"),
    ("0/s", 1, "rate: '0/s' is not a rate: the number of starts is at least 1"),
    ("-1/s", 1, "rate: '-1/s' is not a rate: the number of starts is at least 1"),
    ("1/0s", 1, "rate: '1/0s' is not a rate: the time is longer than 0"),
    ("1/-5m", 1, "rate: '1/-5m' is not a rate: the time is longer than 0"),
    ("1/s/s", 1, "rate: '1/s/s' is not a rate: a number of starts, and a time"),
    ("10", 1, "rate: '10' is not a rate"),
    ("10/s ", 1, "is not a rate"),
    ("100001/s", 1, "rate: '100001/s' is more than 100000 in a second"),
    ("9999999999/s", 1, "rate: '9999999999/s' is more than 100000 in a second"),
    ("1/s", 0, "burst: 0 is not between 1 and 1000000"),
    ("1/d", 400, "burst: at 1/d it takes more than 366 days until 400 may start at once"),
]


@pytest.mark.parametrize(("text", "rate"), TEXTS)
def test_rate_when_it_is_written_then_it_is_read_and_shown_as_it_was(text: str, rate: Rate) -> None:
    assert read_rate(text) == rate
    assert str(rate) == text


@pytest.mark.parametrize(("text", "burst", "problem"), WRONG)
def test_rate_when_it_makes_no_sense_then_the_problem_is_named(text: str, burst: int, problem: str) -> None:
    with pytest.raises(InvalidParams, match=problem):
        read_rate(text, burst)


CHANGES: list[tuple[Rate | None, str | UnsetType | None, int | UnsetType, Rate | None]] = [
    (None, UNSET, UNSET, None),
    (None, "5/s", UNSET, Rate(5, 1_000)),
    (None, "5/s", 3, Rate(5, 1_000, 3)),
    (Rate(5, 1_000, 3), UNSET, 7, Rate(5, 1_000, 7)),
    (Rate(5, 1_000, 3), "9/s", UNSET, Rate(9, 1_000, 3)),
    (Rate(5, 1_000, 3), None, UNSET, None),
]


@pytest.mark.parametrize(("before", "rate", "burst", "after"), CHANGES)
def test_changed_when_a_part_is_given_then_the_other_stays_as_it_was(
    before: Rate | None, rate: str | UnsetType | None, burst: int | UnsetType, after: Rate | None
) -> None:
    assert changed(before, rate, burst) == after


@pytest.mark.parametrize("rate", [None, UNSET])
def test_changed_when_there_is_no_rate_then_a_burst_is_refused(rate: UnsetType | None) -> None:
    with pytest.raises(InvalidParams, match="burst: it has no effect without a rate"):
        changed(None, rate, 3)


def test_tokens_when_a_burst_was_used_up_then_they_come_back_one_by_one() -> None:
    rate = Rate(4, 1_000, burst=2)
    full_at = take(rate, take(rate, 0, NOW), NOW)

    assert [tokens(rate, full_at, NOW + ms) for ms in (0, 249, 250, 499, 500, 9_000)] == [0, 0, 1, 1, 2, 2]
    assert [next_token_ms(rate, full_at, NOW + ms) for ms in (0, 249, 250)] == [250, 1, 0]


def test_tokens_when_the_clock_was_behind_then_the_wait_is_that_of_an_empty_bucket() -> None:
    rate = Rate(1, 1_000, burst=3)
    full_at = take(rate, 0, NOW)

    assert tokens(rate, full_at, NOW - 86_400_000) == 0
    assert next_token_ms(rate, full_at, NOW - 86_400_000) == 1_000
    assert take(rate, full_at, NOW - 86_400_000) == (NOW - 86_400_000 + 4_000) * NANOSECONDS


@given(
    rate=st.builds(Rate, st.integers(1, 50), st.integers(10, 5_000), st.integers(1, 5)),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4)), max_size=60),
)
def test_take_when_jobs_start_whenever_they_may_then_no_window_has_too_many(
    rate: Rate, steps: list[tuple[int, int]]
) -> None:
    now, full_at = NOW, 0
    starts: list[int] = []

    for passed, wanted in steps:
        now += passed
        for _ in range(min(wanted, tokens(rate, full_at, now))):
            full_at = take(rate, full_at, now)
            starts.append(now)

    for first, began in enumerate(starts):
        for last in range(first, len(starts)):
            allowed = rate.burst + rate.count * (starts[last] - began) / rate.per_ms
            assert last - first + 1 <= allowed


@pytest.mark.parametrize("rate", [Rate(0, 1_000, 1), Rate(1, 0, 1), Rate(1, 1_000, 0), Rate(1, 10**12, 10**6)])
def test_rate_when_no_text_can_make_it_then_it_is_not_possible(rate: Rate) -> None:
    assert is_possible(Rate(1, 1_000, 1))
    assert not is_possible(rate)
