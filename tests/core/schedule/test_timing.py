"""The times of a schedule: against a table of clock changes, cronsim itself, and a clock that counts minutes.

Owns the promises about slots; test_slots.py has the runs that follow from them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import InvalidParams
from stoker.core.schedule.timing import ALIASES, first_slot, next_slot, slots_of, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEAR_MS = 366 * DAY_MS
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")  # the last one changes by half an hour


def at(text: str) -> int:
    """A time in UTC as milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def slots(timing: str, zone: str, after: int, before: int) -> Iterator[int]:
    slot = next_slot(timing, zone, after)
    while slot is not None and slot < before:
        yield slot
        slot = next_slot(timing, zone, slot)


# In Berlin clocks go from 02:00 to 03:00 at 2026-03-29T01:00Z, and from 03:00 back to 02:00 at 2026-10-25T01:00Z.
SPRING, AUTUMN = "2026-03-29", "2026-10-25"


@pytest.mark.parametrize(
    ("timing", "day", "expected"),
    [
        ("30 2 * * *", SPRING, ["01:00"]),  # a time that is left out comes at once
        ("0,30 2 * * *", SPRING, ["01:00"]),  # two of them are one slot
        ("0 3 * * *", SPRING, ["01:00"]),
        ("0 2,3 * * *", SPRING, ["01:00"]),
        ("30 * * * *", SPRING, [*(f"{hour:02}:30" for hour in range(24))]),
        ("0 */2 * * *", SPRING, [*(f"{hour:02}:00" for hour in range(2, 24, 2))]),
        ("30 2 * * *", AUTUMN, ["00:30"]),  # a time that comes twice counts once
        ("0 3 * * *", AUTUMN, ["02:00"]),
        ("*/30 2 * * *", AUTUMN, ["00:00", "00:30", "01:00", "01:30"]),  # * follows the clock
        ("0,30 2 * * *", AUTUMN, ["00:00", "00:30"]),
        ("0 * * * *", AUTUMN, [*(f"{hour:02}:00" for hour in range(24))]),
        ("every 6h", AUTUMN, ["00:00", "06:00", "12:00", "18:00"]),
        ("at 2026-10-25T02:30", AUTUMN, ["00:30"]),
        ("at 2026-03-29T02:30", SPRING, ["01:30"]),
        ("at 2026-10-25T02:30+01:00", AUTUMN, ["01:30"]),
    ],
)
def test_slots_when_the_clocks_change_then_they_are_those_of_the_table(
    timing: str, day: str, expected: list[str]
) -> None:
    midnight = at(day)

    found = [*slots(timing, "Europe/Berlin", midnight - 1, midnight + DAY_MS)]

    wanted = [at(f"{day}T{time}") for time in expected]
    assert [slot for slot in found if slot < midnight + 22 * HOUR_MS] == [
        slot for slot in wanted if slot < midnight + 22 * HOUR_MS
    ]


def test_slot_when_an_hour_is_in_its_second_pass_then_it_is_of_the_next_day() -> None:
    second_pass = at(f"{AUTUMN}T01:15")  # 02:15 in Berlin, for the second time

    assert next_slot("30 2 * * *", "Europe/Berlin", second_pass) == at("2026-10-26T01:30")


EXPRESSIONS = (
    "30 2 * * *", "0 0 * * 0", "0 4 1 * *", "*/20 1-4 * * *", "15 1,2,3 * * 1-5", "0 3 L * *", "0 2 * * 1#2",
    "59 1 29 2 *", "17 * * * *", "25 6 * * *", "47 6 * * 7", "52 6 1 * *", "5-55/10 3 * * *",
)  # fmt: skip


@pytest.mark.no_cover  # it would take three times as long, and reaches no line of its own
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_slots_when_a_year_passes_then_they_are_those_of_cronsim(expression: str, zone: str) -> None:
    start = at("2026-01-01")

    found = [*slots(expression, zone, start, start + YEAR_MS)]

    oracle: list[int] = []
    for moment in CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC).astimezone(ZoneInfo(zone))):
        slot = int(moment.timestamp() * 1_000)
        if slot >= start + YEAR_MS:
            break
        if not oracle or slot > oracle[-1]:  # where hours are left out, cronsim gives a time twice
            oracle.append(slot)
    assert found == oracle


FIELDS = st.tuples(
    st.sampled_from(["*", "*/7", "0", "5,50", "10-20", "59"]),
    st.sampled_from(["*", "0", "*/5", "3-6", "23"]),
    st.sampled_from(["*", "1", "31", "*/9", "28-30"]),
    st.sampled_from(["*", "2", "1-6", "12", "*/4"]),
    st.sampled_from(["*", "0", "7", "1-5", "SAT"]),
)


def matching(fields: tuple[str, ...]) -> Callable[[datetime], bool]:
    """The rule of crontab(5), written anew for the words of FIELDS."""
    ranges = (range(60), range(24), range(1, 32), range(1, 13), range(8))

    def numbers(field: str, values: range) -> set[int]:
        if field.startswith("*"):
            return {*values[:: int(field[2:] or 1)]}
        if field == "SAT":
            return {6}
        if "-" in field:
            first, last = map(int, field.split("-"))
            return {*range(first, last + 1)}
        return {*map(int, field.split(","))}

    minute, hour, day, month, weekday = (numbers(*pair) for pair in zip(fields, ranges, strict=True))
    starred = fields[2].startswith("*") or fields[4].startswith("*")

    def matches(moment: datetime) -> bool:
        if moment.minute not in minute or moment.hour not in hour or moment.month not in month:
            return False
        by_date, by_name = moment.day in day, bool({moment.isoweekday(), moment.isoweekday() % 7} & weekday)
        return (by_date and by_name) if starred else (by_date or by_name)

    return matches


@given(FIELDS, st.integers(0, 525_000))
def test_slot_when_minutes_are_counted_then_it_is_the_first_that_matches(fields: tuple[str, ...], start: int) -> None:
    begin = datetime(2028, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    try:
        slot = next_slot(" ".join(fields), "UTC", int(begin.timestamp() * 1_000))
    except InvalidParams:
        assert fields[2:4] == ("31", "2")
        return

    end = begin + timedelta(days=7)
    minutes = (begin + timedelta(minutes=count) for count in range(1, 7 * 24 * 60))
    expected = next(filter(matching(fields), minutes), None)
    if expected is None:
        assert slot is None or slot >= int(end.timestamp() * 1_000)
    else:
        assert slot == int(expected.timestamp() * 1_000)


@given(st.text(max_size=40) | st.text(alphabet="*/,-#LW0123456789 MON", max_size=40), st.integers(0, 2**52))
def test_timing_when_it_is_any_text_then_it_is_refused_or_has_later_slots(text: str, after: int) -> None:
    try:
        slot = next_slot(text, "UTC", after)
    except InvalidParams as error:
        assert error.message.startswith("timing: ")  # noqa: PT017 - either way is right
    else:
        assert slot is None or slot > after


@pytest.mark.parametrize("name", ALIASES)
def test_name_when_it_begins_with_at_then_it_has_the_slots_of_its_expression(name: str) -> None:
    start = at("2026-05-05")
    assert next_slot(name, "Europe/Berlin", start) == next_slot(ALIASES[name], "Europe/Berlin", start)


@pytest.mark.parametrize("period", ["1s", "7m", "2h", "3d"])
def test_every_when_a_period_is_given_then_slots_are_its_multiples(period: str) -> None:
    found = [*islice(slots(f"every {period}", "UTC", at("2026-05-05"), at("2026-06-05")), 10)]

    assert {later - earlier for earlier, later in pairwise(found)} == {found[1] - found[0]}
    assert found[0] % (found[1] - found[0]) == 0


@pytest.mark.parametrize(
    ("timing", "zone", "words"),
    [
        ("0 0 31 2 *", "UTC", "never comes: none of its months has that day"),
        ("0 0 31 4,6 *", "UTC", "never comes: none of its months has that day"),
        ("0 0 32 1 *", "UTC", "bad day-of-month"),
        ("0 0 1 13 *", "UTC", "bad month"),
        ("0 0 */29 2 MON#5", "UTC", "never comes"),
        ("at 2025-01-01", "UTC", "has passed"),
        ("at noon", "UTC", "not a time"),
        ("at 9999-12-31T23:00-23:00", "UTC", "not a time"),
        ("@reboot", "UTC", "the start of the host is not supported"),
        ("@fortnightly", "UTC", "no such name"),
        ("* * * * * *", "UTC", "five fields, this has 6"),
        ("every fortnight", "UTC", "a period is"),
        ("@daily", "Europe", "no time zone"),
        ("@daily", "../../etc/passwd", "no time zone"),
        ("@daily", "Europe/Atlantis", "no time zone"),
    ],
)
def test_timing_when_it_is_wrong_then_the_message_says_why(timing: str, zone: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        first_slot(timing, zone, at("2026-05-05"))


def test_slot_when_the_calendar_ends_then_no_slot_follows() -> None:
    assert next_slot("0 0 1 1 *", "UTC", at("9999-06-01")) is None
    assert slots_of("@daily", "UTC")(2**60) is None


def test_zone_when_it_is_utc_then_no_database_is_asked() -> None:
    assert zone_of("UTC") is UTC
