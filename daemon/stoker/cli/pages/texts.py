"""How values become text on a page: times, sizes, names from outside. Pure.

Owns the filters of the templates. Jinja escapes markup; these make control characters and direction marks visible, so
that a name cannot reorder the page or pretend to be something else.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from stoker.cli import jobs
from stoker.cli.kit import outcome, render

if TYPE_CHECKING:
    from stoker.core.views import JobView

LONGEST_TITLE = 160


def visible(value: object) -> str:
    return render.visible(str(value))


def moment(at_ms: int | None) -> Markup:
    """Local time; a script of the page adds how long ago that is."""
    if at_ms is None:
        return Markup("-")
    exact = datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return Markup('<relative-time><time datetime="{}">{}</time></relative-time>').format(exact, render.when(at_ms))


def clock(at_ms: int) -> str:
    """The local time of day."""
    return time.strftime("%H:%M", time.localtime(at_ms / 1_000))


def local_input(at_ms: int) -> str:
    """As the value of a field for a date and a time."""
    return time.strftime("%Y-%m-%dT%H:%M", time.localtime(at_ms / 1_000))


def running_since(at_ms: int | None) -> Markup:
    """A duration that grows while the page is open."""
    if at_ms is None:
        return Markup("-")
    exact = datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return Markup('<relative-time plain><time datetime="{}">since {}</time></relative-time>').format(
        exact, render.when(at_ms)
    )


def title(job: JobView) -> str:
    return render.visible(render.cut(jobs.title(job), LONGEST_TITLE))


def why(job: JobView) -> str:
    return render.visible(outcome.result(job) or outcome.awaited(job))


def ran(job: JobView) -> Markup | str:
    """How long it ran, or has run so far."""
    if job["started_at"] is None or job["state"] == "skipped":
        return "-"
    if job["state"] == "running":
        return running_since(job["started_at"])
    return render.span(max(0, job["finished_at"] - job["started_at"])) if job["finished_at"] else "-"


FILTERS: dict[str, Any] = {
    "visible": visible,
    "moment": moment,
    "clock": clock,
    "local_input": local_input,
    "running_since": running_since,
    "span": render.span,
    "size": render.size,
    "title": title,
    "why": why,
    "ran": ran,
    "reports": lambda job: render.visible(outcome.reports(job)),
    "command_line": lambda job: render.visible(jobs.command_line(job)),
}
