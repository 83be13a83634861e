"""The two clocks: wall time may jump, steady time is CLOCK_BOOTTIME with an anchor that looks like an epoch."""

from __future__ import annotations

import time

from stoker.core.clock import Now, SystemClock, boot_ms, wall_ms


def between(before: int, value: int, after: int) -> bool:
    return before <= value <= after


def test_wall_when_read_then_it_is_utc_in_milliseconds() -> None:
    before = int(time.time() * 1_000)

    assert between(before, wall_ms(), int(time.time() * 1_000) + 1)


def test_boot_when_read_then_it_is_the_time_since_boot_in_milliseconds() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    assert between(before, boot_ms(), time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000)


def test_clock_when_it_is_the_first_of_a_boot_then_steady_time_looks_like_wall_time() -> None:
    now = SystemClock().now()

    assert abs(now.wall - now.steady) < 1_000


def test_clock_when_the_boot_has_an_anchor_then_steady_time_ignores_the_wall_clock() -> None:
    clock = SystemClock(anchor=5_000_000)

    before, now, after = boot_ms(), clock.now(), boot_ms()

    assert between(before + 5_000_000, now.steady, after + 5_000_000)
    assert clock.steady_from_boot(17) == 5_000_017


def test_now_when_one_clock_is_ahead_then_the_other_is_the_earlier() -> None:
    assert Now(wall=5, steady=3).earlier == Now(wall=3, steady=5).earlier == 3


def test_skew_when_the_wall_clock_is_ahead_or_behind_then_it_has_that_sign() -> None:
    assert [Now(wall=wall, steady=1_000).skew for wall in (1_500, 1_000, 400)] == [500, 0, -600]
