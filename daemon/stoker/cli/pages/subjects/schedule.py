"""One schedule: its times, its template, its last and its next runs.

Owns the actions on it. The daemon computes its times, whether it is paused or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from stoker.cli.kit import render
from stoker.cli.pages.actions import ActionSubject, PageAction, offered
from stoker.cli.pages.page import Asked, Page
from stoker.cli.schedules import COMING, state_of, submits_words
from stoker.core.units import duration, span
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.schedule.views import ComingSlots, ScheduleDetails

MISFIRES: Final = {
    "skip": "those that came while no daemon ran are left out",
    "latest": "the newest one that came while no daemon ran is made up for",
    "all": "all that came while no daemon ran are made up for",
}
OVERLAPS: Final = {
    "allow": "a run begins beside the last one",
    "skip": "no run begins while the last one goes on",
    "queue": "a run waits for the end of the last one",
    "supersede": "a run stops the last one",
}


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    name = asked.name("schedule")
    schedule, coming = await asyncio.gather(
        client.call("schedule.get", name=name), client.call("schedule.next", name=name, count=COMING)
    )
    state = state_of(schedule)
    return {
        "schedule": schedule,
        "state": state,
        "facts": _facts(schedule),
        "template": render.visible(_template(schedule), keep="\n"),
        "runs": [{**run, "slot_ms": _milliseconds(run["scheduled_for"])} for run in schedule["runs"]],
        "coming": _coming(coming),
        "actions": offered(ACTIONS, state),
    }


def _facts(schedule: ScheduleDetails) -> list[tuple[str, object]]:
    misfire, limit = MISFIRES[schedule["misfire"]], duration(schedule["catch_up_ms"])
    return [
        ("times", schedule["timing"]),
        ("time zone", schedule["zone"]),
        ("slots that were missed", misfire if schedule["misfire"] == "skip" else f"{misfire}, up to {limit} old"),
        ("overlap", OVERLAPS[schedule["overlap"]]),
        ("jitter", duration(schedule["jitter_ms"]) if schedule["jitter_ms"] else None),
        ("owner", f"uid {schedule['owner_uid']}"),
        ("declared", "in the settings file" if schedule["declared"] else None),
        ("submits", render.visible(submits_words(schedule))),
    ]


def _template(schedule: ScheduleDetails) -> str:
    return render.sorted_text(schedule["flow"] if schedule["job"] is None else schedule["job"])


def _coming(coming: ComingSlots) -> list[dict[str, Any]]:
    return [{**slot, "later": span(max(0, slot["submitted_at"] - slot["slot"]))} for slot in coming["slots"]]


def _milliseconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1_000)


PAGES = (Page("/schedules/{schedule}", "schedule.html", read),)


async def subject(client: AsyncClient, asked: Asked) -> ActionSubject:
    schedule = await client.call("schedule.get", name=asked.name("schedule"))
    name = schedule["name"]
    return ActionSubject(f"schedule {name}", state_of(schedule), schedule["submits"], f"/schedules/{name}")


async def _running(client: AsyncClient, asked: Asked) -> list[str]:
    """The runs that go on."""
    schedule = await client.call("schedule.get", name=asked.name("schedule"))
    runs = [run for run in schedule["runs"] if run["state"] in ("running", "queued", "waiting", "paused")]
    return [
        (f"job {run['job']}" if run["workflow"] is None else f"workflow {run['workflow']}") + f" is {run['state']}"
        for run in runs
    ]


def _of_schedule(verb: str, label: str, effect: str, states: tuple[str, ...], **more: Any) -> PageAction:
    return PageAction(
        f"/schedules/{{schedule}}/{verb}",
        label,
        effect,
        states,
        f"schedule.{verb}",
        subject,
        lambda asked: {"name": asked.name("schedule")},
        **more,
    )


ACTIONS: Final = (
    _of_schedule("pause", "Pause", "It submits no further runs until it is resumed. Runs that began go on.", ("on",)),
    _of_schedule(
        "resume",
        "Resume",
        "It submits runs again, from its next time on. What came meanwhile is left out.",
        ("paused",),
    ),
    _of_schedule(
        "run",
        "Run now",
        "A run is submitted at once, beside its times. Its overlap policy holds.",
        ("on", "paused", "ended"),
        preview=_running,
    ),
)
