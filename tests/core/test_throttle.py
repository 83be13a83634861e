"""Pressure: hysteresis, smoothing, and gauges that cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import InvalidParams
from stoker.core.throttle import (
    Band,
    Gauge,
    Narrowing,
    Pressure,
    Sample,
    ThrottlePolicy,
    check_floor,
    narrow,
    observe,
)

POLICY = ThrottlePolicy(bands={Gauge.CPU: Band(90, 80), Gauge.MEMORY: Band(95, 90)}, smoothing=1.0)
SLOW = ThrottlePolicy(bands=POLICY.bands, smoothing=0.4)


def after(policy: ThrottlePolicy, *samples: Sample) -> Pressure:
    pressure = Pressure()
    for at, sample in enumerate(samples):
        pressure, _ = observe(policy, pressure, sample, at)
    return pressure


@pytest.mark.parametrize(
    ("levels", "throttled"),
    [
        ([50], False),
        ([90], False),
        ([90.1], True),
        ([95, 85], True),
        ([95, 80], True),
        ([95, 79.9], False),
        ([85, 89, 85], False),
        ([95, 79, 85], False),
    ],
)
def test_observe_when_the_level_crosses_a_band_then_throttling_begins_or_ends(
    levels: list[float],
    throttled: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert after(POLICY, *[Sample(cpu=level) for level in levels]).throttled is throttled


def test_observe_when_throttled_changes_then_one_change_comes_with_its_time() -> None:
    hot, changed = observe(POLICY, Pressure(), Sample(cpu=99), 1_000)
    assert (hot.throttled, hot.causes, hot.since, hot.events, changed) == (True, (Gauge.CPU,), 1_000, 1, True)
    still, changed = observe(POLICY, hot, Sample(cpu=99), 2_000)
    assert (still.since, still.events, changed) == (1_000, 1, False)
    cool, changed = observe(POLICY, still, Sample(cpu=10), 3_000)
    assert (cool.throttled, cool.since, cool.events, changed) == (False, 3_000, 1, True)


def test_observe_when_one_cause_follows_another_then_there_is_no_new_event() -> None:
    pressure = after(POLICY, Sample(cpu=99, memory=50), Sample(cpu=99, memory=99), Sample(cpu=10, memory=99))
    assert (pressure.causes, pressure.events, pressure.since) == ((Gauge.MEMORY,), 1, 0)


def test_observe_when_a_single_sample_peaks_then_smoothing_absorbs_it() -> None:
    assert not after(SLOW, Sample(cpu=20), Sample(cpu=100)).throttled
    assert after(SLOW, Sample(cpu=20), *[Sample(cpu=100)] * 5).throttled


def test_observe_when_the_first_sample_is_hot_then_nothing_waits_for_a_second() -> None:
    assert after(SLOW, Sample(cpu=100)).throttled


def test_observe_when_a_gauge_can_no_longer_be_read_then_it_is_no_cause() -> None:
    pressure = after(POLICY, Sample(cpu=99), Sample(cpu=None))
    assert not pressure.throttled
    assert pressure.level(Gauge.CPU) is None


def test_observe_when_a_gauge_has_no_band_then_it_is_shown_and_never_a_cause() -> None:
    pressure = after(POLICY, Sample(io_full=100.0))
    assert not pressure.throttled
    assert pressure.level(Gauge.IO_FULL) == 100


def test_observe_when_the_kernel_smooths_a_gauge_itself_then_it_is_taken_as_it_is() -> None:
    policy = ThrottlePolicy(bands={Gauge.IO_FULL: Band(20, 16)}, smoothing=0.1)
    pressure = after(policy, Sample(io_full=0), Sample(io_full=21))
    assert pressure.causes == (Gauge.IO_FULL,)


def test_observe_when_the_threshold_is_100_then_nothing_throttles() -> None:
    never = ThrottlePolicy(bands={Gauge.CPU: Band(100, 80)}, smoothing=1.0)
    assert not after(never, Sample(cpu=100)).throttled
    pressure, changed = observe(never, after(POLICY, Sample(cpu=100)), Sample(cpu=100), 7)
    assert (pressure.throttled, changed) == (False, True)


percents = st.floats(0, 100)


@given(st.lists(percents, min_size=1), st.floats(0.01, 1))
def test_observe_when_samples_are_any_then_the_level_stays_in_their_range(levels: list[float], weight: float) -> None:
    policy = ThrottlePolicy(bands=POLICY.bands, smoothing=weight)
    level = after(policy, *[Sample(cpu=level) for level in levels]).level(Gauge.CPU)
    assert level is not None
    assert min(levels) - 1e-9 <= level <= max(levels) + 1e-9


@given(percents, st.lists(st.floats(80, 90), min_size=1))
def test_observe_when_levels_stay_between_the_thresholds_then_nothing_changes(
    first: float, levels: list[float]
) -> None:
    before = after(POLICY, Sample(cpu=first))
    pressure = before
    for level in levels:
        pressure, changed = observe(POLICY, pressure, Sample(cpu=level), 1)
        assert not changed
    assert pressure.throttled is before.throttled


# --- queues with a floor ------------------------------------------------------------------------------------

NARROW: list[tuple[int | None, int, bool, int | None]] = [
    # limit before, running, throttled, limit after; the floor is 2 and the ceiling 16
    (None, 16, False, None),
    (None, 16, True, 8),
    (None, 9, True, 4),
    (None, 0, True, 2),
    (8, 8, True, 4),
    (8, 6, True, 3),
    (4, 4, True, 2),
    (2, 2, True, 2),
    (2, 9, True, 2),
    (2, 2, False, 3),
    (14, 3, False, 15),
    (15, 15, False, None),
]


@pytest.mark.parametrize(("limit", "running", "throttled", "expected"), NARROW)
def test_narrow_when_a_step_is_due_then_the_limit_halves_or_grows_by_one(
    limit: int | None,
    running: int,
    throttled: bool,  # noqa: FBT001 - a column of the table
    expected: int | None,
) -> None:
    before = None if limit is None else Narrowing(limit, 0)

    after = narrow(before, 2, 16, running, 5_000, 5_000, throttled=throttled)

    assert (None if after is None else after.limit) == expected


@pytest.mark.parametrize("throttled", [False, True])
def test_narrow_when_the_last_step_was_just_now_then_it_waits_for_its_effect(*, throttled: bool) -> None:
    before = Narrowing(8, 1)

    assert narrow(before, 2, 16, 8, 5_000, 5_000, throttled=throttled) is before


def test_narrow_when_the_floor_is_above_the_ceiling_then_the_usual_limit_stays() -> None:
    assert narrow(None, 9, 4, 4, 0, 0, throttled=True) is None


def test_narrow_when_pressure_ends_then_it_takes_a_step_for_each_job_to_grow() -> None:
    narrowing = narrow(None, 1, 8, 8, 0, 10, throttled=True)
    limits = []
    at_ms = 0
    while narrowing is not None:
        limits.append(narrowing.limit)
        at_ms += 10
        narrowing = narrow(narrowing, 1, 8, 8, at_ms, 10, throttled=False)

    assert limits == [4, 5, 6, 7]


@pytest.mark.parametrize(("floor", "ceiling"), [(None, None), (None, 2), (2, None), (2, 2), (1, 2)])
def test_floor_when_it_is_within_the_limit_or_one_is_missing_then_it_is_taken(
    floor: int | None, ceiling: int | None
) -> None:
    check_floor(floor, ceiling)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("min_running", "min_running: 3 is above max_running, which is 2"),
        ("max_running", "max_running: 2 is below min_running, which is 3"),
    ],
)
def test_floor_when_it_is_above_the_limit_then_the_one_that_was_set_is_named(path: str, problem: str) -> None:
    with pytest.raises(InvalidParams, match=problem) as refused:
        check_floor(3, 2, path)
    assert refused.value.details["path"] == path
