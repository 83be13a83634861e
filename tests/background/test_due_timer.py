"""The timer of what is due next, on a clock that the test sets. The timers of the event loop are real."""

from __future__ import annotations

import asyncio

import pytest

from stoker.background import due_timer
from stoker.background.due_timer import DueTimer
from tests.support.clocks import SetClock
from tests.support.facts import until_async


def timer_of(clock: SetClock) -> tuple[DueTimer, list[int]]:
    """A timer, and how late it was each time that it was due."""
    late: list[int] = []
    return DueTimer(clock, late.append), late


async def test_timer_when_its_time_has_passed_then_it_says_once_how_late() -> None:
    clock = SetClock()
    timer, late = timer_of(clock)
    timer.set(400)

    await until_async(lambda: late)

    assert (late, timer.due_at) == ([600], None)


async def test_timer_when_the_host_slept_then_a_check_makes_it_due() -> None:
    clock = SetClock()
    timer, late = timer_of(clock)
    timer.set(clock.steady + 3_000_000)
    clock.steady += 3_000_007

    timer.check()

    await until_async(lambda: late)
    assert late == [7]


async def test_timer_when_the_loop_fires_before_the_time_then_it_waits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_timer, "LONGEST_MS", 1)
    clock = SetClock()
    timer, late = timer_of(clock)
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, fired.set)
    timer.set(clock.steady + 5_000)
    await fired.wait()
    early, clock.steady = list(late), clock.steady + 5_000

    await until_async(lambda: late)

    assert (early, late) == ([], [0])


async def test_timer_when_it_is_set_later_then_only_the_later_time_counts() -> None:
    clock = SetClock()
    timer, late = timer_of(clock)
    timer.set(400)
    timer.set(900)

    await until_async(lambda: late)

    assert late == [100]


async def test_timer_when_it_is_stopped_twice_then_it_is_never_due() -> None:
    clock = SetClock()
    stopped, late = timer_of(clock)
    other, done = timer_of(clock)
    stopped.set(400)
    stopped.stop()
    stopped.stop()
    other.set(500)

    await until_async(lambda: done)

    assert (late, stopped.due_at) == ([], None)
