"""Rates of starts: token buckets for the jobs of a queue and for the jobs of a key.

Owns the arithmetic of a bucket, how a rate is written (`100/m`), and the names of buckets. A bucket is one number, the
time at which it is full again (steady time, in nanoseconds), as the cell rate algorithm of ATM has it (ITU-T I.371). A
start moves it by the interval of one token; as time passes the bucket fills by itself. So it costs no timer,
and a full bucket, whose time has passed, need not be kept at all.

Invariant: in any span of steady time t at most `burst` + rate * t jobs start, whatever the clock does: a time that lies
further ahead than an empty bucket needs is taken for that of an empty bucket.
"""

from __future__ import annotations

import re

from msgspec import UNSET, Struct, UnsetType

from stoker.core.errors import InvalidParams
from stoker.core.units import DURATIONS, duration

NANOSECONDS = 1_000_000  # in a millisecond
MOST_BURST = 1_000_000
MOST_A_SECOND = 100_000
LONGEST_FILL_MS = 366 * 86_400_000
EVERY_KEY = "*"  # the rate of each key without its own
KEY_PREFIX, QUEUE_PREFIX = "rate/", "queue/"  # no resource has a slash in its name
RATE = re.compile(r"(?P<count>[1-9][0-9]{0,17})/(?P<number>[1-9][0-9]{0,5})?(?P<unit>ms|s|m|h|d)")
NUMBERS = re.compile(r"(?P<count>[-+]?[0-9]+)/(?P<number>[-+]?[0-9]*)(ms|s|m|h|d)")
HINT = "write 10/s, 100/m, 1/90s, 5000/d"


class Rate(Struct, frozen=True):
    """`count` starts in `per_ms`; after a pause `burst` jobs may start at once."""

    count: int
    per_ms: int
    burst: int = 1

    @property
    def interval(self) -> int:
        """Nanoseconds from one token to the next, rounded up: no rate is exceeded."""
        return -(-self.per_ms * NANOSECONDS // self.count)

    def __str__(self) -> str:
        one_unit = {ms: unit for unit, ms in DURATIONS.items()}.get(self.per_ms)
        return f"{self.count}/{one_unit or duration(self.per_ms)}"


def read_rate(text: str, burst: int = 1) -> Rate:
    """A rate as it is written. Raises InvalidParams."""
    match = RATE.fullmatch(text)
    if match is None:
        raise InvalidParams(f"rate: {text!r} is not a rate: {_fault(text)}", hint=HINT, path="rate")
    rate = Rate(int(match["count"]), int(match["number"] or 1) * DURATIONS[match["unit"]], burst)
    if rate.count * 1_000 > MOST_A_SECOND * rate.per_ms:
        raise InvalidParams(f"rate: {text!r} is more than {MOST_A_SECOND} in a second", hint=HINT, path="rate")
    if not 1 <= burst <= MOST_BURST:
        raise InvalidParams(f"burst: {burst} is not between 1 and {MOST_BURST}", path="burst")
    if _fill(rate) > LONGEST_FILL_MS * NANOSECONDS:
        problem = f"burst: at {text} it takes more than 366 days until {burst} may start at once"
        raise InvalidParams(problem, hint="a smaller burst, or a higher rate", path="burst")
    return rate


def is_possible(rate: Rate) -> bool:
    """Whether `read_rate` can make such a rate; one that is stored may be damaged."""
    return min(rate.count, rate.per_ms, rate.burst) >= 1 and _fill(rate) <= LONGEST_FILL_MS * NANOSECONDS


def _fault(text: str) -> str:
    numbers = NUMBERS.fullmatch(text)
    if numbers is not None and int(numbers["count"]) < 1:
        return "the number of starts is at least 1"
    if numbers is not None and int(numbers["number"] or 1) < 1:
        return "the time is longer than 0"
    return "a number of starts, and a time"


def changed(before: Rate | None, rate: str | UnsetType | None, burst: int | UnsetType) -> Rate | None:
    """The rate after a request; UNSET keeps a value, None ends the rate. Raises InvalidParams."""
    if rate is None or (rate is UNSET and before is None):
        if burst is not UNSET:
            raise InvalidParams("burst: it has no effect without a rate", hint="give a rate, too: 10/s", path="burst")
        return None
    text = str(before) if rate is UNSET else rate
    kept = 1 if before is None else before.burst
    return read_rate(text, kept if burst is UNSET else burst)


def _fill(rate: Rate) -> int:
    """Nanoseconds in which an empty bucket becomes full."""
    return rate.burst * rate.interval


def bounded(rate: Rate, full_at: int, now_ms: int) -> int:
    """The bucket, at most empty: its time may lie too far ahead after a change of the rate, or on another host."""
    return min(full_at, now_ms * NANOSECONDS + _fill(rate))


def _lag(rate: Rate, full_at: int, now_ms: int) -> int:
    """Nanoseconds until the bucket is full."""
    return max(0, bounded(rate, full_at, now_ms) - now_ms * NANOSECONDS)


def tokens(rate: Rate, full_at: int, now_ms: int) -> int:
    """How many jobs may start now. `full_at`: 0 for a full bucket; `now_ms`: steady time."""
    return (_fill(rate) - _lag(rate, full_at, now_ms)) // rate.interval


def take(rate: Rate, full_at: int, now_ms: int) -> int:
    """The bucket after one start, as the time at which it is full again."""
    return now_ms * NANOSECONDS + _lag(rate, full_at, now_ms) + rate.interval


def next_token_ms(rate: Rate, full_at: int, now_ms: int) -> int:
    """Milliseconds until at least one job may start; 0 if one may now."""
    missing = _lag(rate, full_at, now_ms) - (_fill(rate) - rate.interval)
    return max(0, -(-missing // NANOSECONDS))
