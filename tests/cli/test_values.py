"""Units as people type them: the values, and that each error names the fix."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from stoker.cli.kit import spec, values
from stoker.cli.kit.addresses import StepAddress
from stoker.core import units
from stoker.core.clock import wall_ms
from stoker.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("90s", 90_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1.5h", 5_400_000),
        ("0s", 0),
        ("0.25s", 250),
        ("1h30m", 5_400_000),
        ("3d04h", 273_600_000),
        ("1m0.5s", 60_500),
        ("2s500ms", 2_500),
    ],
)
def test_duration_when_it_has_a_unit_then_it_is_milliseconds(text: str, milliseconds: int) -> None:
    assert values.duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "1e3s", "nan", "inf", "٣s", "1..5s", "5 s", "9" * 19 + "s"])
def test_duration_when_the_text_is_no_duration_then_the_error_shows_examples(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.duration(text)

    assert "90s" in (caught.value.hint or "")


def test_duration_when_the_number_is_bare_then_the_error_names_both_fixes() -> None:
    with pytest.raises(UsageError) as caught:
        values.duration("30")

    assert caught.value.message == "30 has no unit"
    assert caught.value.hint == "write 30s for seconds or 30ms for milliseconds"
    assert caught.value.exit_status == 64


@pytest.mark.parametrize("text", ["30m1h", "1h1h", "5ms1s"])
def test_duration_when_its_units_do_not_fall_then_it_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="follows a smaller or equal unit"):
        values.duration(text)


@pytest.mark.parametrize("milliseconds", [59_900, 192_000, 5_400_000, 273_600_000])
def test_duration_when_stoker_printed_it_then_it_is_read(milliseconds: int) -> None:
    assert values.duration(units.span(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["5w", "5S", "5sec", "1h5w"])
def test_duration_when_the_unit_is_unknown_then_the_units_are_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.duration(text)

    assert caught.value.hint == "the units are ms s m h d, as in 90s or 1h30m"


def test_duration_when_it_is_absurd_then_it_is_refused() -> None:
    with pytest.raises(UsageError, match="hundred years"):
        values.duration("99999d")


@pytest.mark.parametrize(
    ("text", "count"),
    [("64M", 64 << 20), ("1.5G", 3 << 29), ("512K", 512 << 10), ("100B", 100), ("2GiB", 2 << 30), ("64m", 64 << 20)],
)
def test_size_when_it_has_a_unit_then_it_is_bytes(text: str, count: int) -> None:
    assert values.size(text) == count


@pytest.mark.parametrize(
    ("text", "hint"), [("64", "write 64M"), ("64MB", "powers of 1024"), ("64X", "powers of 1024"), ("M", "64M or 2G")]
)
def test_size_when_the_text_is_no_size_then_the_hint_names_the_fix(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.size(text)

    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("convert", "text", "name"),
    [(values.amount, "gpu=x", "gpu"), (values.amount, "gpu=", "gpu"), (values.limit, "processes=x", "processes")],
)
def test_pair_when_its_value_is_no_number_then_the_error_has_its_name(
    convert: Callable[[str], object], text: str, name: str
) -> None:
    with pytest.raises(UsageError, match=f"^{name}: '.?' is not a whole number$"):
        convert(text)


def test_moment_when_it_is_relative_then_it_counts_from_now() -> None:
    before = wall_ms()

    moment = values.moment("+2h")

    assert before + 7_200_000 <= moment <= wall_ms() + 7_200_000


def test_moment_when_it_has_an_offset_then_it_is_that_instant() -> None:
    assert values.moment("2026-12-01T10:00+02:00") == values.moment("2026-12-01T08:00Z") == 1_796_112_000_000


def test_moment_when_it_has_no_offset_then_it_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert values.moment("2026-12-01T11:00") == 1_796_112_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone that skips 02:00 to 03:00 on 2027-03-28 and repeats it on 2027-10-31."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("2027-03-28T02:30", "does not exist here", "write 2027-03-28T01:30:00+01:00 or 2027-03-28T03:30:00+02:00"),
        ("2027-10-31T02:30", "comes twice here", "write 2027-10-31T02:30:00+02:00 or 2027-10-31T02:30:00+01:00"),
    ],
)
def test_moment_when_the_clocks_skip_or_repeat_it_then_it_is_refused(text: str, problem: str, hint: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        values.moment(text)

    assert caught.value.hint == hint


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("text", ["2027-03-28T01:59", "2027-03-28T03:00", "2027-10-31T01:59", "2027-10-31T02:30+02:00"])
def test_moment_when_it_is_beside_a_change_of_the_clocks_then_it_is_taken(text: str) -> None:
    assert values.moment(text) > 1_796_112_000_000


@pytest.mark.parametrize("text", ["tomorrow", "10:00", "1796112000", "+2", ""])
def test_moment_when_the_text_is_no_time_then_it_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.moment(text)


def test_limit_when_it_is_known_then_it_is_a_field_of_the_spec() -> None:
    texts = ("memory=64M", "cpu=1500ms", "processes=9", "open-files=99", "file_size=1G")
    limits = dict(map(values.limit, texts))

    sizes = {"memory_bytes": 64 << 20, "file_size_bytes": 1 << 30}
    assert limits == {**sizes, "cpu_seconds": 2, "processes": 9, "open_files": 99}


@pytest.mark.parametrize("text", ["memory", "memory=64", "cpu=60", "threads=1", "processes=x"])
def test_limit_when_it_is_wrong_then_it_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.limit(text)


def test_need_when_an_end_is_named_then_it_is_kept_else_it_is_ok() -> None:
    assert spec.need("42") == {"job": 42, "on": "ok"}
    assert spec.need("42:any") == {"job": 42, "on": "any"}
    assert spec.need("7/compile[a:b]:failed") == {"job": StepAddress((7, "compile[a:b]")), "on": "failed"}
    assert spec.need("7/job:41") == {"job": StepAddress((7, "job:41")), "on": "ok"}
    with pytest.raises(UsageError, match="done"):
        spec.need("42:done")


def test_exit_codes_when_there_are_ranges_then_each_code_is_listed() -> None:
    assert values.exit_codes("0,3,64-66") == [0, 3, 64, 65, 66]
    for wrong in ("256", "5-3", "-1", "a", ""):
        with pytest.raises(UsageError):
            values.exit_codes(wrong)


def test_signal_number_when_it_is_a_name_or_a_number_then_both_work() -> None:
    assert values.signal_number("USR1") == values.signal_number("sigusr1") == values.signal_number("10") == 10
    with pytest.raises(UsageError, match="NOPE"):
        values.signal_number("NOPE")


@pytest.mark.parametrize("text", ["0x1", "", "-", "1.0", "²", "9" * 19, "--1"])
def test_integer_when_the_text_is_no_number_then_it_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.integer(text)


def test_amount_when_the_number_is_left_out_then_it_is_one() -> None:
    assert values.amount("gpu") == ("gpu", 1)
    assert values.amount("gpu=2") == ("gpu", 2)


def test_job_id_when_it_is_written_with_a_hash_then_it_is_read() -> None:
    assert values.job_id("#42") == 42
    with pytest.raises(UsageError, match="'x' is not a job id"):
        values.job_id("x")
