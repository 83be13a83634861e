"""The layout of the Gantt chart: no attempt is missing, no two bars of a row overlap, and there are never too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from stoker.cli.pages.gantt import HEAD, MOST_TICKS, NAMES, SIGNS, WIDTH, RanFor, layout

HOUR = 3_600_000
SIXTY_YEARS = 60 * 366 * 24 * HOUR


def run(job: int, begin: int, end: int | None, sign: str = "succeeded", group: str = "default") -> RanFor:
    return RanFor(job, group, begin, end, sign, "make")


def runs() -> some.SearchStrategy[list[RanFor]]:
    one = some.builds(
        lambda job, begin, length, sign, group: run(
            job, begin, None if sign == "running" else begin + length, sign, group
        ),
        some.integers(1, 10**6),
        some.integers(0, HOUR),
        some.integers(0, HOUR),
        some.sampled_from(SIGNS),
        some.sampled_from([f"queue-{number}" for number in range(40)]),
    )
    return some.lists(one, max_size=200)


@given(runs(), some.integers(70, 300))
def test_layout_when_attempts_are_any_then_each_is_in_one_bar(given_runs: list[RanFor], most: int) -> None:
    gantt = layout(given_runs, 0, HOUR, most)

    assert sum(bar.attempts for bar in gantt.bars) == len(given_runs)
    assert len(gantt.bars) <= most
    assert all(bar.x >= NAMES and bar.x + bar.width <= WIDTH for bar in gantt.bars)
    assert all(HEAD <= bar.y < gantt.height for bar in gantt.bars)
    rows: dict[int, int] = {}
    for bar in gantt.bars:
        assert bar.x >= rows.get(bar.y, 0), "it overlaps the bar before it"
        rows[bar.y] = bar.x + bar.width


def test_layout_when_attempts_ran_at_once_then_they_lie_below_each_other() -> None:
    gantt = layout([run(1, 0, HOUR), run(2, 0, HOUR), run(3, 0, HOUR)], 0, HOUR)

    assert len({bar.y for bar in gantt.bars}) == 3


def test_layout_when_an_attempt_follows_another_then_it_takes_its_row() -> None:
    gantt = layout([run(1, 0, HOUR // 2), run(2, HOUR // 2, HOUR)], 0, HOUR)

    assert len({bar.y for bar in gantt.bars}) == 1
    assert [bar.job for bar in gantt.bars] == [1, 2]


def test_layout_when_a_joined_attempt_failed_then_the_bar_looks_failed() -> None:
    gantt = layout([run(job, job, job + 1, "failed" if job == 500 else "succeeded") for job in range(1000)], 0, HOUR)

    (bar,) = gantt.bars
    assert (bar.sign, bar.attempts, bar.job) == ("failed", 1000, None)
    assert "1 failed, 999 succeeded" in bar.text
    assert gantt.joined == 1


def test_layout_when_an_attempt_runs_then_its_bar_reaches_the_end() -> None:
    gantt = layout([run(1, HOUR // 2, None, "running")], 0, HOUR)

    assert gantt.bars[0].x + gantt.bars[0].width == WIDTH
    assert gantt.bars[0].text.endswith("to now")


def test_layout_when_an_attempt_lies_outside_of_the_time_then_it_is_left_out() -> None:
    gantt = layout([run(1, 0, 10), run(2, 3 * HOUR, None, "running")], HOUR, 2 * HOUR)

    assert gantt.bars == ()
    assert "0 attempts" in gantt.text


@pytest.mark.parametrize("length", [5_000, 60_000, HOUR, 6 * HOUR, 24 * HOUR, 30 * 24 * HOUR, SIXTY_YEARS])
def test_ticks_when_the_time_is_short_or_long_then_they_are_few(length: int) -> None:
    gantt = layout([], HOUR, HOUR + length)

    assert 1 <= len(gantt.ticks) <= MOST_TICKS + 1
    assert all(NAMES <= tick.x <= WIDTH for tick in gantt.ticks)
