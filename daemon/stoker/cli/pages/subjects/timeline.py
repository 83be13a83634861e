"""When attempts ran: a Gantt chart of a time, and the same as a table.

Owns the times that can be chosen, how many attempts are fetched, and the sign of an attempt. The chart is looked at
anew every few seconds instead of at each change: it shows hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stoker.cli.pages.gantt import SIGNS, RanFor, layout
from stoker.cli.pages.page import Asked, Page
from stoker.core.errors import UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.overview_views import TimelineAttempt
    from stoker.core.wire_types import ChangeShape

MINUTE_MS: Final = 60_000
RANGES: Final = {"15m": 15 * MINUTE_MS, "1h": 60 * MINUTE_MS, "6h": 360 * MINUTE_MS, "24h": 1440 * MINUTE_MS}
USUAL: Final = "1h"
LONGEST_MS: Final = 366 * 1440 * MINUTE_MS
STEPS: Final = 240  # the end of a time that ends now moves in such a part of it
EVERY_S: Final = 5.0
PAGE: Final = 1_000
MOST_PAGES: Final = 3
ROWS: Final = 50
ROWS_BY: Final = ("queue", "workflow", "all")


class Chosen(NamedTuple):
    """A time. `name`: of one that ends now."""

    begin: int
    end: int
    name: str | None


def chosen(asked: Asked, now: int) -> Chosen:
    """The time of an address: `range=1h`, or `from` and `to` as a form sends them. Raises UsageError."""
    since, until = asked.text("from"), asked.text("to")
    if since is None and until is None:
        name = asked.text("range") or USUAL
        if name not in RANGES:
            raise UsageError(f"range: {name!r} is none of {', '.join(RANGES)}", hint="choose one on /attempts")
        length = RANGES[name]
        step = length // STEPS
        end = -(-now // step) * step
        return Chosen(end - length, end, name)
    end = now if until is None else _instant("to", until)
    begin = end - RANGES[USUAL] if since is None else _instant("from", since)
    if not 0 < end - begin <= LONGEST_MS:
        raise UsageError(
            f"from {since} to {until} is no time: to must be later, by at most 366 days", hint="choose other times"
        )
    return Chosen(begin, end, None)


def _instant(field: str, text: str) -> int:
    """Milliseconds since 1970 as in our own links, or local time as a form sends it."""
    if text.isascii() and text.isdigit() and len(text) <= 14:  # noqa: PLR2004 - the year 5138
        return int(text)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{field}: {text!r} is no time", hint="write it as 2026-11-30T09:00") from error


def sign_of(one: TimelineAttempt) -> str:
    """One of SIGNS."""
    if one["ended_at"] is None:
        return "running"
    if one["is_last"] and one["job_state"] == "succeeded":
        return "succeeded"
    if one["stop_reason"] is not None or one["outcome"] == "never_started":
        return "stopped"
    if one["outcome"] == "unseen":
        return "unseen"
    return "succeeded" if one["outcome"] == "exit" and one["exit_code"] == 0 else "failed"


def how_it_ended(one: TimelineAttempt) -> str:
    """`exit 3`, `signal 9`, or another outcome, and who stopped it."""
    if one["ended_at"] is None:
        return ""
    code = f"exit {one['exit_code']}" if one["exit_code"] is not None else None
    killed = f"signal {one['signal']}" if one["signal"] is not None else None
    outcome = code or killed or (one["outcome"] or "").replace("_", " ")
    return f"{outcome}, stopped: {one['stop_reason']}" if one["stop_reason"] else outcome


def what(one: TimelineAttempt) -> str:
    return one["step"] or one["name"] or one["queue"]


def _group(one: TimelineAttempt, by: str) -> str:
    workflow = "no workflow" if one["workflow"] is None else f"workflow {one['workflow']}"
    return {"queue": one["queue"], "workflow": workflow}.get(by, "all")


async def _fetched(client: AsyncClient, within: dict[str, int]) -> tuple[list[TimelineAttempt], bool]:
    """The newest attempts of that time, and whether there are older ones."""
    found: list[TimelineAttempt] = []
    before = None
    for _ in range(MOST_PAGES):
        page = await client.call("attempt.list", **within, before=before, limit=PAGE)
        found += page["attempts"]
        before = page["next"]
        if before is None:
            return found, False
    return found, True


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    time_ = chosen(asked, time.time_ns() // 1_000_000)
    by = asked.text("by") or ROWS_BY[0]
    if by not in ROWS_BY:
        raise UsageError(f"by: {by!r} is none of {', '.join(ROWS_BY)}", hint="choose one on /attempts")
    within = {"since": time_.begin, "until": time_.end}
    (attempts, more), page = await asyncio.gather(
        _fetched(client, within), client.call("attempt.list", **within, before=asked.text("before"), limit=ROWS)
    )
    return {
        "time": time_,
        "by": by,
        "ways": ROWS_BY,
        "ranges": tuple(RANGES),
        "signs": SIGNS,
        "gantt": layout([_ran(one, by) for one in attempts], time_.begin, time_.end),
        "fetched": len(attempts),
        "more": more,
        "rows": [(one, sign_of(one), what(one), how_it_ended(one)) for one in page["attempts"]],
        "next": page["next"],
    }


def _ran(one: TimelineAttempt, by: str) -> RanFor:
    begin = one["started_at"] or one["created_at"]
    return RanFor(one["job"], _group(one, by), begin, one["ended_at"], sign_of(one), what(one))


def no_change(_change: ChangeShape, _asked: Asked) -> bool:
    return False


PAGES = (Page("/attempts", "timeline.html", read, no_change, EVERY_S),)
