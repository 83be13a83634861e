"""The list of jobs: a filter, a search, pages in both directions, and one action on the chosen ones.

Owns the fields of the filter and the number of rows; the daemon filters, and its cursors lead on. The order is that of
the ids, in which a million rows cost no more than a few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stoker.cli.kit.selection import STATES
from stoker.cli.pages import texts
from stoker.cli.pages.actions import PageAction, reason, sent_form
from stoker.cli.pages.endpoints import Endpoint, Parts
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects import job as one_job
from stoker.core.errors import StokerError, UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import JobPage

ROWS: Final = 50
MOST_ROWS: Final = 200
MOST_CHOSEN: Final = MOST_ROWS
LIVE_STATES: Final = ("running", "queued", "waiting", "held")
ACTIONS: Final = {action.method: action for action in one_job.ACTIONS}


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    filters = {
        "states": _states(asked.texts("state")),
        "queue": asked.text("queue"),
        "name": asked.text("name"),
        "label": asked.text("label"),
        "workflow": asked.optional_number("workflow"),
        "search": asked.text("search"),
        "ended_since": asked.optional_number("ended_since"),
    }
    rows = _rows(asked)
    page, links = await _page(client, asked, {**filters, "limit": rows})
    status, queues = await asyncio.gather(client.call("system.status"), client.call("queue.list"))
    return {
        "jobs": page,
        "links": links,
        "rows": rows,
        "row_counts": (ROWS, MOST_ROWS),
        "filters": filters,
        "states": STATES,
        "counts": [(state, status[state]) for state in LIVE_STATES],
        "queues": [queue["name"] for queue in queues["queues"]],
        "actions": ACTIONS,
        "settled": not any(job["state"] == "running" for job in page),
    }


def _states(given: list[str]) -> list[str]:
    wrong = next((state for state in given if state not in STATES), None)
    if wrong is not None:
        raise UsageError(f"state: {wrong!r} is no state of a job", hint=f"one of {', '.join(STATES)}")
    return given


def _rows(asked: Asked) -> int:
    rows = asked.optional_number("rows") or ROWS
    if rows > MOST_ROWS:
        raise UsageError(f"rows: {rows} rows; the limit is {MOST_ROWS}", hint="links below the rows lead on")
    return rows


class PageLinks(NamedTuple):
    """Where newer and older jobs are, as changes of the query; None if there are none."""

    newer: dict[str, int | None] | None
    older: dict[str, int | None] | None


async def _page(client: AsyncClient, asked: Asked, filters: dict[str, Any]) -> tuple[list[Any], PageLinks]:
    """Newest first, whichever way the page was reached."""
    before, after = asked.optional_number("before"), asked.optional_number("after")
    if after is None:
        page: JobPage = await client.call("job.list", **filters, before=before)
        newest = page["jobs"][0]["id"] if page["jobs"] else before and before - 1
        newer = {"after": newest, "before": None} if before and newest else None
        older = {"before": page["next"], "after": None} if page["next"] else None
        return page["jobs"], PageLinks(newer, older)
    page = await client.call("job.list", **filters, after=after)
    oldest = page["jobs"][0]["id"] if page["jobs"] else after + 1
    newer = {"after": page["next"], "before": None} if page["next"] else None
    return page["jobs"][::-1], PageLinks(newer, {"before": oldest, "after": None})


PAGES = (Page("/jobs", "job_list.html", read),)


# --- one action on many jobs --------------------------------------------------------------------------------


class ChosenJob(NamedTuple):
    """A job of the form. `fate`: what would happen to it, or what happened."""

    id: int
    state: str
    title: str
    fate: str


async def act(parts: Parts, request: Request, asked: Asked) -> Response:
    """A form that shows what would happen to each, and asks once; then what happened to each."""
    action, ids = _action(asked), _ids(asked)
    if request.method == "POST":
        why = reason(await sent_form(request), request.state.user)
        chosen = await asyncio.gather(*(_done(parts.client, action, number, why) for number in ids))
    else:
        chosen = await asyncio.gather(*(_planned(parts.client, action, number) for number in ids))
    form = {"action": action, "chosen": chosen, "done": request.method == "POST"}
    csrf = parts.access.csrf(request.state.user)
    return HTMLResponse(parts.pages.plain("chosen_jobs.html", asked, **form, csrf=csrf))


def _action(asked: Asked) -> PageAction:
    method = asked.text("act") or ""
    if method not in ACTIONS:
        raise UsageError(f"act: {method[:40]!r} is no action", hint=f"one of {', '.join(ACTIONS)}")
    return ACTIONS[method]


def _ids(asked: Asked) -> Sequence[int]:
    ids = dict.fromkeys(Asked("", (("id", text),), ()).number("id") for text in asked.texts("id"))
    if not ids or len(ids) > MOST_CHOSEN:
        raise UsageError(f"id: {len(ids)} jobs are chosen; 1 to {MOST_CHOSEN} can be", hint="choose jobs in the list")
    return list(ids)


async def _planned(client: AsyncClient, action: PageAction, number: int) -> ChosenJob:
    try:
        job = await client.call("job.get", id=number, limit=1)
    except StokerError as error:
        return ChosenJob(number, "", "", error.message)
    fits = job["state"] in action.states
    fate = action.label.lower() if fits else f"nothing: {action.label.lower()} is for {', '.join(action.states)}"
    return ChosenJob(number, job["state"], texts.title(job), fate)


async def _done(client: AsyncClient, action: PageAction, number: int, why: str | None) -> ChosenJob:
    try:
        await client.call(action.method, id=number, reason=why)
    except StokerError as error:
        perhaps = "; it may have been done all the same" if error.perhaps_done else ""
        return ChosenJob(number, "", "", error.message + perhaps)
    try:
        job = await client.call("job.get", id=number, limit=1)
    except StokerError as error:
        return ChosenJob(number, "", "", f"done; its state is not known: {error.message}")
    return ChosenJob(number, "stopping" if job["stopping"] else job["state"], texts.title(job), "done")


ENDPOINTS = (Endpoint("/jobs/chosen", act, ("GET", "POST")),)
