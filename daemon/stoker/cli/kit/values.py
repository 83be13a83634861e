"""The values that people type: durations, sizes, times, lists. Pure except for `moment`, which reads the clock.

Owns the units. A number without a unit is refused: `--timeout 30` could mean seconds or milliseconds, so the error
names both ways to write it.
"""

from __future__ import annotations

import time

from stoker.cli.kit.parser import Option
from stoker.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any

DURATIONS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZES = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SHOWN = 30  # rows of a list
LONGEST_MS = 36_500 * DURATIONS["d"]
PAST_HINT = "write an age like 30d or 12h, or a time like 2026-12-01 or 2026-12-01T10:00"
LARGEST_BYTES = 1 << 62
MOST_DIGITS = 18  # always below 2^63
LONGEST_UMASK = 4
ALL_PERMISSIONS = 0o777
LAST_EXIT_CODE = 255
LIMITS = {
    "memory": "memory_bytes",
    "cpu": "cpu_seconds",
    "processes": "processes",
    "open-files": "open_files",
    "file-size": "file_size_bytes",
}


def duration(text: str) -> int:
    """`90s`, `1.5h`, `500ms`, `1h30m` → milliseconds. Several units must go from the largest to the smallest."""
    milliseconds, smallest = 0.0, float("inf")
    for part in _parts(text):
        number, unit = _quantity(part, "duration", "90s, 15m, 1h30m, 1d or 500ms")
        if not unit:
            raise UsageError(f"{text} has no unit", hint=f"write {text}s for seconds or {text}ms for milliseconds")
        if unit not in DURATIONS:
            raise UsageError(f"{text!r}: no unit {unit!r}", hint="the units are ms s m h d, as in 90s or 1h30m")
        if DURATIONS[unit] >= smallest:
            raise UsageError(f"{text!r}: {unit} follows a smaller or equal unit", hint="write it like 1d2h or 1h30m")
        smallest = DURATIONS[unit]
        milliseconds += number * DURATIONS[unit]
    if milliseconds > LONGEST_MS:
        raise UsageError(f"{text} is more than a hundred years")
    return int(milliseconds)


def duration_option(names: str, description: str) -> Option:
    """An option whose field is in milliseconds: `--base-delay` gives `base_delay_ms`."""
    option = Option(names, "DURATION", description, convert=duration)
    option.to += "_ms"
    return option


def _parts(text: str) -> list[str]:
    """`1h30m` → `1h`, `30m`; any other text stays whole."""
    cuts = [at for at in range(1, len(text)) if text[at - 1].isalpha() and not text[at].isalpha()]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def size(text: str) -> int:
    """`64M`, `1.5G`, `512K` → bytes; units are powers of 1024, `MiB` is `M`."""
    number, unit = _quantity(text, "size", "512K, 64M or 2G")
    if not unit:
        raise UsageError(f"{text} has no unit", hint=f"write {text}M for mebibytes or {text}B for bytes")
    unit = unit.removesuffix("iB").upper()
    if unit not in SIZES:
        raise UsageError(f"{text!r}: no unit {unit!r}", hint="the units are B K M G T, powers of 1024")
    amount = number * SIZES[unit]
    if amount > LARGEST_BYTES:
        raise UsageError(f"{text} is more than any memory or file holds")
    return int(amount)


def moment(text: str) -> int:
    """`+2h`, `2026-12-01T10:00` (local time) or with an offset → UTC epoch milliseconds.

    Raises UsageError for a local time that a change of the clocks skips or repeats: it names no instant, or two.
    """
    if text.startswith("+"):
        return time.time_ns() // 1_000_000 + duration(text[1:])
    from datetime import datetime  # noqa: PLC0415 - slow to load, rarely needed

    try:
        at = datetime.fromisoformat(text)
        seconds = at.timestamp()
        if at.tzinfo is None:
            _check_local(text, at)
    except (ValueError, OverflowError, OSError):
        hint = "write 2026-12-01T10:00 (local time), 2026-12-01T10:00Z, or +2h from now"
        raise UsageError(f"{text!r} is not a time", hint=hint) from None
    return round(seconds * 1_000)


def past(text: str) -> int:
    """`30d` ago, or a time as `moment` reads it → UTC epoch milliseconds."""
    now_ms = time.time_ns() // 1_000_000
    try:
        at = moment(text) if "-" in text.lstrip("-") else now_ms - duration(text)
    except UsageError:
        raise UsageError(f"{text!r} is neither an age nor a time", hint=PAST_HINT) from None
    if at >= now_ms:
        raise UsageError(f"{text} is not in the past", hint=PAST_HINT)
    return at


def _check_local(text: str, at: datetime) -> None:
    """Refuse a local time that does not name exactly one instant. Raises UsageError."""
    first, second = (at.replace(fold=fold).astimezone().isoformat() for fold in (0, 1))
    if first == second:
        return
    if at.astimezone().replace(tzinfo=None) != at:
        raise UsageError(
            f"{text} does not exist here: the clocks skip it",
            hint=f"write {min(first, second)} or {max(first, second)}",
        )
    raise UsageError(f"{text} comes twice here: the clocks are set back", hint=f"write {first} or {second}")


def integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"{text!r} is not a whole number")
    if len(digits) > MOST_DIGITS:
        raise UsageError(f"a number of {len(digits)} digits is out of range")
    return int(text)


def positive(text: str) -> int:
    """A count of at least one."""
    count = integer(text)
    if count < 1:
        raise UsageError(f"{text} is less than 1")
    return count


HOW_MANY = (
    Option("--limit", "N", f"show at most N (default: {SHOWN})", convert=positive),
    Option("--all", None, "show all"),
    Option("-q --ids", None, "print only ids, one per line; all of them unless --limit is given"),
)


def how_many(given: dict[str, Any]) -> int | None:
    """How many rows a list shows; None for all. With `--ids` all, as a program cannot see that some are missing."""
    if given["all"] and given["limit"]:
        raise UsageError("--all and --limit contradict each other")
    return None if given["all"] else given["limit"] or (None if given["ids"] else SHOWN)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number") from None


def optional(convert: Callable[[str], Any]) -> Callable[[str], tuple[Any]]:
    """Convert a value or `none`, in a tuple, so that `none` differs from an option that was not given."""
    return lambda text: (None if text == "none" else convert(text),)


def job_id(text: str) -> int:
    digits = text.removeprefix("#")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS and int(digits)):
        raise UsageError(f"{text!r} is not a job id", hint="stoker ls lists them; a step is 7/STEP")
    return int(digits)


def pair(text: str) -> tuple[str, str]:
    """`K=V`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"{text!r} is not KEY=VALUE")
    return key, value


def label(text: str) -> str:
    """`K=V` as it is; the value may be empty."""
    if not text.partition("=")[1]:
        raise UsageError(f"{text!r} is not KEY=VALUE", hint="a label is named with its value: team=blue")
    return text


def amount(text: str) -> tuple[str, int]:
    """`NAME=N`; a bare NAME takes one."""
    name, equals, count = text.partition("=")
    if not name:
        raise UsageError(f"{text!r} is not NAME=N")
    return name, _converted(name, integer, count) if equals else 1


def limit(text: str) -> tuple[str, int]:
    """`memory=64M`, `cpu=60s`, `processes=100`, `open-files=1000`, `file-size=1G` → field of the spec, value."""
    name, value = pair(text)
    name = _limit_name(name)
    if name == "cpu":
        return LIMITS[name], -(-_converted(name, duration, value) // 1_000)
    return LIMITS[name], _converted(name, size if name in ("memory", "file-size") else integer, value)


def limit_or_none(text: str) -> tuple[str, int | None]:
    """The same, or `memory=none` to take a limit away."""
    name, _, value = text.partition("=")
    return (LIMITS[_limit_name(name)], None) if value == "none" else limit(text)


def _limit_name(name: str) -> str:
    name = name.replace("_", "-")
    if name not in LIMITS:
        raise UsageError(f"no limit {name!r}", hint=f"the limits are {', '.join(LIMITS)}")
    return name


def _converted(name: str, convert: Callable[[str], int], text: str) -> int:
    """The value of a `NAME=VALUE`. Raises UsageError with the name."""
    try:
        return convert(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from None


def exit_codes(text: str) -> list[int]:
    """`0,3,64-78` → each code."""
    codes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = integer(first), integer(last or first)
        if not 0 <= low <= high <= LAST_EXIT_CODE:
            raise UsageError(f"{part!r} is not an exit code or range within 0-255")
        codes.extend(range(low, high + 1))
    return codes


def umask(text: str) -> int:
    """`022`, `0022` or `0o022`: octal, as chmod(1) and umask(1) read it."""
    digits = text.removeprefix("0o")
    if not 1 <= len(digits) <= LONGEST_UMASK or not set(digits) <= set("01234567") or int(digits, 8) > ALL_PERMISSIONS:
        raise UsageError(f"no umask {text!r}", hint="three octal digits, as `umask` prints: 022")
    return int(digits, 8)


def signal_number(text: str) -> int:
    """`USR1`, `SIGUSR1` or `10`."""
    if text.isascii() and text.isdigit():
        return integer(text)
    from signal import Signals  # noqa: PLC0415 - slow to load, rarely needed

    try:
        return Signals["SIG" + text.upper().removeprefix("SIG")].value
    except KeyError:
        raise UsageError(f"no signal {text!r}", hint="kill -l lists them") from None


def _quantity(text: str, noun: str, examples: str) -> tuple[float, str]:
    """The number and the unit; exact for whole numbers."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if not (digits.isascii() and digits.replace(".", "", 1).isdigit() and len(digits) <= MOST_DIGITS):
        raise UsageError(f"{text!r} is not a {noun}", hint=f"write it like {examples}")
    return (float(digits) if "." in digits else int(digits)), text[len(digits) :]
