"""One queue, and the row that it has in a table.

Owns the page, and pause and resume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stoker.cli import queues, rates
from stoker.cli.pages.actions import ActionSubject, PageAction, offered
from stoker.cli.pages.charts import Chart
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects.load import LoadCharts
from stoker.core.errors import QueueNotFound
from stoker.core.units import counted
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.daemon_views import QueueView

ROWS: Final = 20


class QueueRow(NamedTuple):
    """`state`: open, paused, throttled, away (its backend) or narrowed. `bound`: how many may run, in words."""

    view: QueueView
    state: str
    bound: str
    settings: list[tuple[str, object]]
    chart: Chart
    actions: list[PageAction]


def row(view: QueueView, charts: LoadCharts) -> QueueRow:
    state = queues.state_of(view)
    bound = str(queues.running_bound(view))
    return QueueRow(view, state, bound, settings(view), charts.queue(view["name"]), offered(ACTIONS, state))


def settings(view: QueueView) -> list[tuple[str, object]]:
    """Its settings in words; None for what it has none of."""
    return [
        ("class", view["class"]),
        ("at most running", queues.running_bound(view)),
        ("at least running under pressure", view["min_running"]),
        ("at most queued", view["max_queued"]),
        ("rate", view["rate"] and rates.in_words(view["rate"])),
        ("backend", queues.backend_in_words(view)),
        ("overflow", queues.overflow_in_words(view)),
        ("defaults of its jobs", queues.defaults_in_words(view) or None),
    ]


async def found(client: AsyncClient, name: str) -> QueueView:
    """Raises QueueNotFound."""
    listed = (await client.call("queue.list"))["queues"]
    view: QueueView | None = next((one for one in listed if one["name"] == name), None)
    if view is None:
        raise QueueNotFound(f"there is no queue {name!r}", hint="stoker queue ls")
    return view


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    name = asked.name("queue")
    view = await found(client, name)
    load, page = await asyncio.gather(client.call("system.load"), client.call("job.list", queue=name, limit=ROWS))
    return {"queue": row(view, LoadCharts(load)), "jobs": page["jobs"], "more": page["next"]}


PAGES = (Page("/queues/{queue}", "queue.html", read),)


async def subject(client: AsyncClient, asked: Asked) -> ActionSubject:
    name = asked.name("queue")
    view = await found(client, name)
    about = f"{view['running']} running, {view['queued']} queued, {view['waiting']} waiting"
    return ActionSubject(f"queue {name}", queues.state_of(view), about, f"/queues/{name}")


async def would_pause(client: AsyncClient, asked: Asked) -> list[str]:
    view = await found(client, asked.name("queue"))
    return [
        f"{counted(view['queued'], 'queued job')} would not start",
        f"{counted(view['running'], 'running job')} would go on to the end",
    ]


async def would_resume(client: AsyncClient, asked: Asked) -> list[str]:
    view = await found(client, asked.name("queue"))
    at_once = "" if view["max_running"] is None else f", at most {queues.running_bound(view)} at once"
    return [f"{counted(view['queued'], 'queued job')} may start{at_once}"]


def _of_queue(verb: str, effect: str, states: tuple[str, ...], preview: Any) -> PageAction:
    return PageAction(
        f"/queues/{{queue}}/{verb}",
        verb.capitalize(),
        effect,
        states,
        f"queue.{verb}",
        subject,
        lambda asked: {"name": asked.name("queue")},
        preview,
    )


ACTIONS: Final = (
    _of_queue(
        "pause",
        "No further job of this queue starts, until it is resumed.",
        ("open", "narrowed", "throttled", "away"),
        would_pause,
    ),
    _of_queue("resume", "Jobs of this queue start again.", ("paused",), would_resume),
)
