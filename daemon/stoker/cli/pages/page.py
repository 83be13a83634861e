"""A page: an address, a template, and the questions to the daemon that fill it.

Owns the row of a page (`Page`) and its rendering: the whole document for a browser that opens it, and its block `live`
alone for one that has it open. Both come from the same template and the same answers, so a page reads the same with and
without JavaScript.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from stoker import __version__
from stoker.cli.pages.texts import FILTERS
from stoker.core.errors import UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

LARGEST_ID = 2**63 - 1
AWAY = ("daemon_unreachable", "no_answer", "draining", "too_many_connections")  # codes of errors that pass


class Asked(NamedTuple):
    """The address that a browser asked for: the variables of the path and the query. Equal ones share a view."""

    path: str
    names: tuple[tuple[str, str], ...]
    query: tuple[tuple[str, str], ...]

    def number(self, name: str) -> int:
        """An id of the path. Raises UsageError."""
        return _number(name, dict(self.names)[name])

    def name(self, variable: str) -> str:
        """A name of the path."""
        return dict(self.names)[variable]

    def text(self, name: str) -> str | None:
        """A value of the query; None if it is missing or empty, as a field of a form is that was left empty."""
        return dict(self.query).get(name) or None

    def texts(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name and value]

    def optional_number(self, name: str) -> int | None:
        text = self.text(name)
        return None if text is None else _number(name, text)

    def link(self, **changes: object) -> str:
        """The same address with other values in its query; None takes one out."""
        kept = [(name, value) for name, value in self.query if name not in changes]
        added = [(name, str(value)) for name, value in changes.items() if value is not None]
        query = urlencode([*kept, *added])
        return f"{self.path}?{query}" if query else self.path


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) <= LARGEST_ID):  # noqa: PLR2004
        raise UsageError(f"{name}: {text!r} is no id", hint="an id is a whole number from 1")
    return int(text)


def any_change(_change: ChangeShape, _asked: Asked) -> bool:
    return True


def of_this_job(change: ChangeShape, asked: Asked) -> bool:
    """For a page whose path names a job."""
    return change["job"] == asked.number("job")


class Page(NamedTuple):
    """`read` gives the variables of the template. `concerns`: which changes call for a new look; `every_s`: how often
    it looks without one, for what changes without a change of a job, such as progress and load. A variable `settled`
    that is true says that only a change can make it differ. `once` gives further variables that only the document
    needs, not its live part.
    """

    path: str
    template: str
    read: Callable[[AsyncClient, Asked], Awaitable[Mapping[str, Any]]]
    concerns: Callable[[ChangeShape, Asked], bool] = any_change
    every_s: float | None = 2.0
    once: Callable[[AsyncClient, Asked], Awaitable[Mapping[str, Any]]] | None = None


# Those of the navigation: address, text, and the first part of the paths that belong to it.
NAVIGATION = (
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/workflows", "Workflows"),
    ("/attempts", "Timeline"),
    ("/schedules", "Schedules"),
    ("/triggers", "Triggers"),
    ("/resources", "Resources"),
    ("/recovery", "Recovery"),
    ("/health", "Health"),
    ("/doctor", "Doctor"),
)


class Pages:
    """Renders pages. `read_only`: no page offers an action."""

    def __init__(self, client: AsyncClient, *, read_only: bool) -> None:
        self.client = client
        self._shared = {"read_only": read_only, "away_codes": AWAY, "navigation": NAVIGATION, "version": __version__}

    async def whole(self, page: Page, asked: Asked, **more: Any) -> str:
        """The document."""
        once = await page.once(self.client, asked) if page.once is not None else {}
        return self._render(page.template, {**await page.read(self.client, asked), **once, **more}, asked)

    async def live(self, page: Page, asked: Asked) -> tuple[str, float | None]:
        """The part that changes while it is open, and when to look again without a change, in seconds."""
        template = environment().get_template(page.template)
        variables = {**self._shared, **await page.read(self.client, asked), "asked": asked}
        shown = "".join(template.blocks["live"](template.new_context(variables)))
        return shown, None if variables.get("settled") else page.every_s

    def plain(self, template: str, asked: Asked, **variables: Any) -> str:
        """A document that needs no answer of the daemon."""
        return self._render(template, variables, asked)

    def _render(self, template: str, variables: Mapping[str, Any], asked: Asked) -> str:
        now = time.time_ns() // 1_000_000
        return environment().get_template(template).render(**self._shared, asked=asked, now_ms=now, **variables)


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("stoker.cli.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.globals["ui"] = made.get_template("ui.html").module  # macros, for the block `live` as well
    return made
