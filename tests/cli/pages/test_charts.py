"""The small charts: paths, gaps, scales, and what they say in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from stoker.cli.pages.charts import HEIGHT, MARGIN, WIDTH, Frame, Plateau, Series, chart, nice_top, path

HOUR = 3_600_000
FRAME = Frame(0, WIDTH, HEIGHT - 2 * MARGIN)  # one unit of the drawing for each millisecond and each unit of the value
FLOOR = HEIGHT - MARGIN


def test_path_when_values_follow_each_other_then_it_has_steps() -> None:
    assert path([Plateau(0, 10, 0), Plateau(10, 30, 5)], FRAME) == f"M0 {FLOOR}H10V{FLOOR - 5}H30"


def test_path_when_nothing_was_measured_for_a_while_then_it_has_a_gap() -> None:
    assert path([Plateau(0, 10, 0), Plateau(40, 50, 0)], FRAME) == f"M0 {FLOOR}H10M40 {FLOOR}H50"


def test_path_when_a_value_stays_then_its_line_goes_on() -> None:
    assert path([Plateau(0, 10, 3), Plateau(10, 20, 3), Plateau(20, 30, 3)], FRAME) == f"M0 {FLOOR - 3}H30"


@given(
    some.lists(some.tuples(some.integers(0, 2 * HOUR), some.integers(1, HOUR), some.floats(0, 1e9)), max_size=50),
    some.integers(0, HOUR),
)
def test_chart_when_values_are_any_then_its_lines_stay_inside(raw: list[tuple[int, int, float]], begin: int) -> None:
    plateaus, at = [], 0
    for gap, length, value in raw:
        plateaus.append(Plateau(at + gap, at + gap + length, value))
        at = plateaus[-1].end

    drawn = chart("load", [Series("CPU", plateaus)], begin, begin + HOUR, marked=plateaus)

    for x, y in re.findall(r"M(\d+) (\d+)", drawn.lines[0].path):
        assert 0 <= int(x) <= WIDTH
        assert MARGIN <= int(y) <= FLOOR
    assert all(0 <= int(x) <= WIDTH for x in re.findall(r"H(\d+)", drawn.lines[0].path))
    assert all(MARGIN <= int(y) <= FLOOR for y in re.findall(r"V(\d+)", drawn.lines[0].path))
    assert re.fullmatch(r"(M\d+ \d+(H\d+|V\d+)+)*", drawn.lines[0].path)
    assert all(0 <= band.x <= WIDTH and band.width >= 1 for band in drawn.bands)


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (1, 1), (1.5, 2), (3, 5), (7, 10), (10, 10), (11, 20), (450, 500), (501, 1000)]
)
def test_scale_when_the_highest_value_is_known_then_its_top_is_round(highest: float, top: float) -> None:
    assert nice_top(highest) == top


def test_scale_when_a_top_is_given_then_higher_values_end_at_it() -> None:
    drawn = chart("CPU", [Series("CPU", [Plateau(0, HOUR, 130)])], 0, HOUR, top=100, unit="%")

    assert drawn.lines[0].path == f"M0 {MARGIN}H{WIDTH}"


def test_words_when_values_changed_then_they_say_the_last_lowest_and_highest() -> None:
    drawn = chart("CPU", [Series("CPU", [Plateau(0, 10, 90), Plateau(10, HOUR, 12)])], 0, HOUR, unit="%")

    assert "CPU 12%, lowest 12%, highest 90%" in drawn.text


def test_words_when_a_part_was_not_measured_then_they_say_how_long() -> None:
    drawn = chart("CPU", [Series("CPU", [Plateau(0, 10, 1), Plateau(HOUR - 10, HOUR, 1)])], 0, HOUR, unit="%")

    assert "59m59s in between not measured" in drawn.text


def test_words_when_nothing_was_measured_then_they_say_not_measured() -> None:
    drawn = chart("CPU", [Series("CPU", [Plateau(2 * HOUR, 3 * HOUR, 1)])], 0, HOUR)

    assert "CPU not measured" in drawn.text
    assert drawn.lines[0].path == ""


def test_bands_when_a_value_is_zero_then_they_leave_that_time_out() -> None:
    drawn = chart("CPU", [], 0, HOUR, marked=[Plateau(0, HOUR // 2, 0), Plateau(HOUR // 2, HOUR, 1)])

    assert [(band.x, band.width) for band in drawn.bands] == [(WIDTH // 2, WIDTH // 2)]
