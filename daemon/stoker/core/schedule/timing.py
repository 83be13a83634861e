"""The times of a schedule: from `30 2 * * *`, `@daily`, `every 15m` or `at 2026-12-01T03:00` to its slots.

A slot is a time (UTC ms) at which a schedule is due. cronsim reads cron expressions, which have five fields and a time
zone. At a change of the clocks they follow Debian's cron: a time that the change skips comes right after it, a time
that occurs twice counts once, and an expression with a `*` for the minute or the hour follows the clock.
Invariant: `next_slot` is always later than its argument `after`, so that no two slots have the same time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from stoker.core.errors import InvalidParams
from stoker.core.units import DURATIONS, instant

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
CRON_FIELDS = 5
BAD_DAY = "bad day-of-month"  # cronsim says it of 31 February, too
LONGEST = 200  # characters of a timing
PERIOD = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)", re.ASCII)
HINT = (
    "five fields (minute hour day-of-month month day-of-week) as in crontab(5), @daily, every 15m or "
    "at 2026-12-01T03:00"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

Slots = Callable[[int], int | None]  # from a time to the first slot after it


def next_slot(timing: str, zone: str, after: int) -> int | None:
    """The first slot after a time; None if there is no further one. Raises InvalidParams."""
    return slots_of(timing, zone)(after)


def slots_of(timing: str, zone: str) -> Slots:
    """The slots of a timing in a time zone. Raises InvalidParams."""
    word, _, rest = " ".join(timing.split()).partition(" ")
    if word == "every":
        return _every(rest, timing)
    if word == "at":
        return _at(rest, timing, zone_of(zone))
    expression = f"{word} {rest}".strip()
    if word.startswith("@"):
        if word == "@reboot":
            raise _wrong(
                timing,
                "the start of the host is not supported",
                "start it by a unit of systemd: stoker submit -- …",
            )
        if expression not in ALIASES:
            raise _wrong(timing, "there is no such name", f"one of {', '.join(ALIASES)}")
        expression = ALIASES[expression]
    return _cron(expression, timing, zone_of(zone))


def zone_of(name: str) -> tzinfo:
    """A time zone by its name in the database of IANA. Raises InvalidParams."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # an unknown name; a name with `..`; a directory of the database
        message = f"zone: there is no time zone {name[:LONGEST]!r}"
        raise InvalidParams(message, path="zone", hint="a name such as Europe/Berlin, or UTC") from None


def _every(rest: str, timing: str) -> Slots:
    """Multiples of a period since 1970 in UTC, so that restarts do not shift the times."""
    period = PERIOD.fullmatch(rest)
    if period is None:
        raise _wrong(timing, "a period is a number with s, m, h or d", "every 15m")
    period_ms = int(period[1]) * DURATIONS[period[2]]
    return lambda after: (after // period_ms + 1) * period_ms


def _at(rest: str, timing: str, zone: tzinfo) -> Slots:
    try:
        moment = datetime.fromisoformat(rest)
        slot = _milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except (ValueError, OverflowError):
        raise _wrong(timing, "that is not a time", "at 2026-12-01T03:00") from None
    return lambda after: slot if slot > after else None


def _cron(expression: str, timing: str, zone: tzinfo) -> Slots:
    if len(fields := expression.split()) != CRON_FIELDS:
        raise _wrong(timing, f"a cron expression has five fields, this has {len(fields)}", HINT)
    _simulate(expression, EPOCH, timing)

    def following(after: int) -> int | None:
        try:
            start = (EPOCH + timedelta(milliseconds=after)).astimezone(zone)
            # In an hour that the clock repeats, cronsim may return a time of the first pass: take the next one.
            slots = (_milliseconds(moment) for moment in _simulate(expression, start, timing))
            return next((slot for slot in slots if slot > after), None)
        except OverflowError:  # beyond the year 9999
            return None

    return following


def _simulate(expression: str, start: datetime, timing: str) -> CronSim:
    try:
        return CronSim(expression, start)
    except CronSimError as error:
        problem = str(error).lower()
        if problem == BAD_DAY and _has_day_in_some_month(expression, start):
            problem = "never comes: none of its months has that day"
        raise _wrong(timing, problem, HINT) from None


def _has_day_in_some_month(expression: str, start: datetime) -> bool:
    minute, hour, day, _, weekday = expression.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", start)
    except CronSimError:
        return False
    return True


def _milliseconds(moment: datetime) -> int:
    return (moment.astimezone(UTC) - EPOCH) // MILLISECOND


def _wrong(timing: str, problem: str, hint: str) -> InvalidParams:
    return InvalidParams(f"timing: {timing[:LONGEST]!r}: {problem}", path="timing", hint=hint)


def first_slot(timing: str, zone: str, now: int) -> int:
    """The first slot of a new schedule. Raises InvalidParams if it never comes."""
    slot = next_slot(timing, zone, now)
    if slot is None:
        once = timing.split(maxsplit=1)[0] == "at"
        problem = "has passed" if once else "never comes: no day of the next 50 years matches"
        raise _wrong(timing, f"{problem} (it is {instant(now)} now)", HINT)
    return slot
