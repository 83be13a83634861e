"""Values with their units: exact, and as the command line reads them."""

from __future__ import annotations

import pytest

from stoker.cli.kit import values
from stoker.core.units import duration, exit_codes, instant, period, size, span, spoken, volume


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0ms"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (7_200_000, "2h"), (316_224_000_000, "3660d")],
)
def test_duration_when_shown_then_it_is_exact_and_can_be_typed(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text
    assert values.duration(text) == milliseconds


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-5, "0.00s"),
        (250, "0.25s"),
        (12_000, "12.0s"),
        (59_940, "59.9s"),
        (192_999, "3m12s"),
        (7_500_000, "2h05m"),
        (3_600_000, "1h00m"),
        (273_600_000, "3d04h"),
    ],
)
def test_span_when_shown_then_two_figures_matter(milliseconds: int, text: str) -> None:
    assert span(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (1_023, "1023B"), (4_096, "4K"), (3 << 29, "1536M"), (1 << 40, "1T")]
)
def test_size_when_shown_then_it_is_exact_and_can_be_typed(count: int, text: str) -> None:
    assert size(count) == text
    assert values.size(text) == count


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (1_796_112_000_000, "2026-12-01T08:00:00Z"),
        (1_796_112_000_001, "2026-12-01T08:00:00.001Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (-2_208_988_800_000, "1900-01-01T00:00:00Z"),
        (1_900_000_000_000_000, "1900000000000000"),
        (10**30, str(10**30)),
    ],
)
def test_instant_when_shown_then_it_is_a_time_or_a_number_beyond_the_calendar(at_ms: int, text: str) -> None:
    assert instant(at_ms) == text


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("timeout_ms", 60_000, "1m"),
        ("memory_bytes", 1 << 20, "1M"),
        ("cpu_seconds", 60, "60s"),
        ("deadline", 1_796_112_000_000, "2026-12-01T08:00:00Z"),
        ("run_at", 1_796_112_000_000, "2026-12-01T08:00:00Z"),
        ("priority", 60_000, "60000"),
        ("backoff_factor", 0.5, "0.5"),
    ],
)
def test_spoken_when_a_field_has_a_unit_then_its_value_has_it(field: str, value: float, text: str) -> None:
    assert spoken(field, value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1_023, "1023B"), (1_978_368, "1.9M"), (64 << 20, "64.0M"), (5 << 30, "5.0G"), (3 << 50, "3072.0T")],
)
def test_volume_when_shown_then_it_is_short(count: int, text: str) -> None:
    assert volume(count) == text


@pytest.mark.parametrize(
    ("codes", "text"), [((0,), "0"), ((3, 0, 3), "0,3"), ((0, 64, 65, 66, 78), "0,64-66,78"), (range(256), "0-255")]
)
def test_exit_codes_when_shown_then_runs_are_ranges_and_can_be_typed(codes: list[int], text: str) -> None:
    assert exit_codes(codes) == text
    assert values.exit_codes(text) == sorted(set(codes))


@pytest.mark.parametrize(("text", "milliseconds"), [("never", None), ("6h", 21_600_000)])
def test_period_when_it_is_never_then_it_is_null(text: str, milliseconds: int | None) -> None:
    assert period(text) == milliseconds
