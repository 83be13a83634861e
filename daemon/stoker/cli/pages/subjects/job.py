"""One job: the reason of its state, its attempts, its facts, the end of its log and its history.

Owns the page and that of its history, and the actions on a job with the states in which each has a button.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stoker.cli import history, jobs
from stoker.cli.kit import outcome, render, values
from stoker.cli.pages import texts
from stoker.cli.pages.actions import ActionSubject, PageAction, offered
from stoker.cli.pages.page import Asked, Page, of_this_job
from stoker.cli.pages.subjects.job_log import log_end
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobDetails, RecordedChange

LIVE: Final = ("waiting", "queued", "running", "held")
ATTEMPTS: Final = 10
CHANGES: Final = 20
CHANGES_OF_HISTORY: Final = 100
CHECKPOINTS: Final = 5
IN_THE_HEADING: Final = ("job", "state", "command")  # not in the list of facts again


class AttemptRow(NamedTuple):
    """An attempt in the words of the command line."""

    view: AttemptView
    took: str
    outcome: str
    ended_badly: bool
    cpu: str
    memory: str
    log: str
    limits: list[LimitRow]
    remark: str


class LimitRow(NamedTuple):
    """A limit that was wanted; `value` is what is in force, `by` whom."""

    name: str
    wanted: str
    value: str
    by: str


class ChangeRow(NamedTuple):
    """A change in the words of the command line."""

    at: int
    before: str
    after: str
    cause: str
    actor: str
    details: str


def attempt_row(view: AttemptView) -> AttemptRow:
    started, ended, rss_kib = view["started_at"], view["ended_at"], view["max_rss_kib"]
    return AttemptRow(
        view,
        render.span(ended - started if started is not None and ended is not None else None),
        history.attempt_outcome(view),
        view["outcome"] is not None and view["exit_code"] != 0,
        render.span(None if view["user_ms"] is None else view["user_ms"] + (view["system_ms"] or 0)),
        render.size(rss_kib and rss_kib * 1024),
        render.size(view["log_bytes"]),
        list(_limits(view)),
        history.remark(view),
    )


def _limits(view: AttemptView) -> Iterator[LimitRow]:
    for name, field in values.LIMITS.items():
        limit = (view["limits"] or {}).get(field)
        if limit is not None:
            wanted, value = (dict(history.typed_limits({field: limit[which]})) for which in ("wanted", "value"))
            yield LimitRow(name, str(wanted.get(name)), str(value.get(name, "not limited")), limit["by"])


def change_row(change: RecordedChange) -> ChangeRow:
    _, _, before, after, cause, actor, details = map(str, history.change_row(change))
    return ChangeRow(change["at"], before, after, cause, actor, details)


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    number = asked.number("job")
    details, why, changes, kept = await asyncio.gather(
        client.call("job.get", id=number, limit=ATTEMPTS),
        client.call("job.why", id=number),
        client.call("job.history", id=number, limit=CHANGES),
        client.call("checkpoint.list", job=number, limit=CHECKPOINTS),
    )
    return {
        "job": details,
        "explanation": why,
        "facts": _facts(details),
        "attempts": [attempt_row(view) for view in reversed(details["attempts_list"])],
        "changes": [change_row(change) for change in changes["changes"]],
        "more_changes": changes["next"],
        "older_removed": changes["older_removed"],
        "checkpoints": kept["checkpoints"],
        "actions": offered(ACTIONS, details["state"]),
        "settled": details["state"] != "running",
    }


def _facts(job: JobDetails) -> list[tuple[str, str]]:
    """Those of `stoker show` that are not in the heading."""
    facts = [(name, value) for name, value in jobs.facts(job) if name not in IN_THE_HEADING and value is not None]
    return [(name, texts.visible(value)) for name, value in facts]


async def read_log(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    return {"log": await log_end(client, await client.call("job.get", id=asked.number("job"), limit=1), None)}


async def read_history(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    number, after = asked.number("job"), asked.optional_number("after") or 0
    page = await client.call("job.history", id=number, after=after, limit=CHANGES_OF_HISTORY)
    return {
        "job": number,
        "changes": [change_row(change) for change in page["changes"]],
        "next": page["next"],
        "older_removed": page["older_removed"],
    }


PAGES = (
    Page("/jobs/{job}", "job.html", read, of_this_job, once=read_log),
    Page("/jobs/{job}/history", "job_history.html", read_history, of_this_job, None),
)


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
