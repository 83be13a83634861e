"""Durations, sizes and instants as the command line reads them: `90s`, `64M`, `2026-12-01T10:00:00Z`.

Values are exact, so that an error shows what was sent; only `span` and `volume`, for measured values, are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DURATIONS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
SIZES = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "B": 1}
FOREVER = "forever"
NEVER = "never"
AGE = r"^(forever|[1-9][0-9]{0,8}(d|h|m|s|ms))\Z"
PERIOD = AGE.replace(FOREVER, NEVER)
INSTANTS = ("deadline", "run_at")


def spoken(field: str, value: float) -> str:
    """The value of a field with its unit, as in `timeout_ms`, `memory_bytes`, `deadline`."""
    if not isinstance(value, int):
        return repr(value)
    unit = field.rpartition("_")[2]
    if unit == "ms":
        return duration(value)
    if unit == "bytes":
        return size(value)
    if unit == "seconds":
        return f"{value}s"
    return instant(value) if field in INSTANTS else str(value)


def duration(milliseconds: int) -> str:
    return _largest(milliseconds, DURATIONS)


def age(text: str) -> int | None:
    """`30d` as milliseconds; None for `forever`. The text matches AGE."""
    if text == FOREVER:
        return None
    digits = text.rstrip("dhms")
    return int(digits) * DURATIONS[text.removeprefix(digits)]


def period(text: str) -> int | None:
    """`6h` as milliseconds; None for `never`. The text matches PERIOD."""
    return None if text == NEVER else age(text)


def span(milliseconds: float) -> str:
    """Rounded for reading: `0.25s`, `12.0s`, `3m12s`, `2h05m`, `3d04h`."""
    seconds = max(0, milliseconds) / 1_000
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s"  # noqa: PLR2004 - figures that matter
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    return f"{hour}h{minute:02}m" if hour else f"{minute}m{second:02}s"


def size(count: int) -> str:
    return _largest(count, SIZES)


def volume(count: float) -> str:
    """Rounded for reading: `812B`, `64.0M`, in powers of 1024."""
    for unit in "BKMG":
        if count < 1024:  # noqa: PLR2004 - the next unit
            return f"{count:.0f}B" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


def instant(at_ms: int) -> str:
    """UTC epoch milliseconds as a time; the bare number if it is beyond the calendar."""
    from datetime import datetime, timedelta  # noqa: PLC0415 - slow to load, and the client imports this module

    try:
        at = datetime(1970, 1, 1) + timedelta(milliseconds=at_ms)  # noqa: DTZ001 - UTC, as every time here
    except OverflowError:
        return str(at_ms)
    return at.isoformat(timespec="milliseconds" if at_ms % 1_000 else "seconds") + "Z"


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def few(names: Sequence[object], most: int) -> str:
    """The first names, and the number of the others: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def exited_with(code: int, success_codes: Sequence[int]) -> str:
    return f"exited with {code} (success codes: {exit_codes(success_codes)})"


def exit_codes(codes: Sequence[int]) -> str:
    """Codes and ranges as the command line reads them: `0,64-78`."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(set(codes)):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _largest(count: int, units: Mapping[str, int]) -> str:
    """In the largest unit that needs no fraction."""
    *_, smallest = units
    unit = next((unit for unit, factor in units.items() if count and count % factor == 0), smallest)
    return f"{count // units[unit]}{unit}"
