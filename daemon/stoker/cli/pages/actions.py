"""Actions on a page: one form for each, which shows its effect before anything happens.

Owns the row of an action; each subject has its own table of them. The form is a page of its own with a field for the
reason, so it needs no script; the daemon decides whether the action is allowed, and the audit trail has the reason.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote

from starlette.requests import Request

from stoker.cli.pages.page import Asked
from stoker.core.errors import PermissionDenied, UsageError
from stoker.rpc.async_client import AsyncClient

MOST_FORM_BYTES: Final = 64 * 1024


class ActionSubject(NamedTuple):
    """The job, queue or other thing of an action: a heading, its state, a line about it, and the page to go back to."""

    title: str
    state: str
    about: str
    back: str


class Toggle(NamedTuple):
    """A choice that an action has: a value of the query, which is there or not."""

    name: str
    label: str


class PageAction(NamedTuple):
    """A form at `path`, below the page of its subject, that sends `method` with what `params` gives.

    `states`: those of the subject in which the page shows the button. `preview` gives the lines that say what would
    happen to this one; the address may have a query, which the form keeps, and which `toggles` change.
    """

    path: str
    label: str
    effect: str
    states: tuple[str, ...]
    method: str
    subject: Callable[[AsyncClient, Asked], Awaitable[ActionSubject]]
    params: Callable[[Asked], dict[str, Any]]
    preview: Callable[[AsyncClient, Asked], Awaitable[list[str]]] | None = None
    toggles: tuple[Toggle, ...] = ()

    def address(self, names: Mapping[str, object]) -> str:
        """The address of the form of one subject."""
        return self.path.format_map({name: quote(str(value), safe="") for name, value in names.items()})


def offered(actions: Sequence[PageAction], state: str) -> list[PageAction]:
    """The actions with a button on a page."""
    return [action for action in actions if state in action.states]


async def sent_fields(request: Request) -> dict[str, str]:
    """The fields of a form. Raises UsageError if it is too large."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_FORM_BYTES:
            raise UsageError(f"the form is larger than {MOST_FORM_BYTES} bytes", hint="give a shorter reason")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


async def sent_form(request: Request) -> dict[str, str]:
    """The fields of a form of ours. Raises UsageError, PermissionDenied without our hidden field or if read-only."""
    fields = await sent_fields(request)
    access, user = request.state.access, request.state.user
    if access.read_only:
        raise PermissionDenied("this page only shows: `stoker web` runs with --read-only")
    if not hmac.compare_digest(fields.pop("csrf", "").encode(), access.csrf(user).encode()):
        raise PermissionDenied("the form is not one of this page, or is from before a restart", hint="load it again")
    return fields


def reason(fields: Mapping[str, str], user: str | None) -> str | None:
    """The reason in the audit trail: as typed, after the user whom a proxy named."""
    given = fields.get("reason", "").strip()
    if user is None:
        return given or None
    return f"{user} on the web page" + (f": {given}" if given else "")
