"""One job: its facts, the reason of its state, its attempts and its history.

Owns the page, and the actions on a job with the states in which each has a button.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from stoker.cli.kit import outcome
from stoker.cli.pages import texts
from stoker.cli.pages.actions import ActionSubject, PageAction, offered
from stoker.cli.pages.page import Asked, Page
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

LIVE: Final = ("waiting", "queued", "running", "held")


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    job = asked.number("job")
    details, why, history = await asyncio.gather(
        client.call("job.get", id=job), client.call("job.why", id=job), client.call("job.history", id=job)
    )
    return {"job": details, "explanation": why, "history": history, "actions": offered(ACTIONS, details["state"])}


def concerns(change: ChangeShape, asked: Asked) -> bool:
    return change["job"] == asked.number("job")


PAGES = (Page("/jobs/{job}", "job.html", read, concerns),)


async def subject(client: AsyncClient, asked: Asked) -> ActionSubject:
    number = asked.number("job")
    details = await client.call("job.get", id=number)
    return ActionSubject(f"job {number}", details["state"], texts.title(details), f"/jobs/{number}")


def _of_job(verb: str, label: str, effect: str, states: tuple[str, ...]) -> PageAction:
    return PageAction(
        f"/jobs/{{job}}/{verb}",
        label,
        effect,
        states,
        f"job.{verb}",
        subject,
        lambda asked: {"id": asked.number("job")},
    )


ACTIONS: Final = (
    _of_job(
        "cancel",
        "Cancel",
        "A running job is stopped: it gets SIGTERM, and SIGKILL after its grace. A job that has not started is taken "
        "out of its queue.",
        LIVE,
    ),
    _of_job("retry", "Retry", "The job is queued again, with a fresh number of attempts.", (*outcome.FINAL, "held")),
    _of_job("hold", "Hold", "The job does not start until it is released.", ("waiting", "queued")),
    _of_job("release", "Release", "The job may start.", ("held",)),
    _of_job(
        "skip",
        "Skip",
        "The job counts as done without a run: jobs that need it start.",
        ("waiting", "queued", "held", "failed", "cancelled", "expired"),
    ),
)
