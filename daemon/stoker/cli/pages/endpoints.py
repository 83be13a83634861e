"""An address that answers with something other than a page: a file to keep, a stream, a form for many things.

Owns the row of an endpoint, and the answer that is a file: it is never shown as a page, whatever is in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stoker.cli.pages.access import Access
from stoker.cli.pages.log_stream import LogViews
from stoker.cli.pages.page import Asked, Pages
from stoker.rpc.async_client import AsyncClient


class Parts(NamedTuple):
    """The parts of the running server that an endpoint may need."""

    client: AsyncClient
    pages: Pages
    logs: LogViews
    access: Access


class Endpoint(NamedTuple):
    """`respond` checks the form of a POST itself (`actions.sent_form`)."""

    path: str
    respond: Callable[[Parts, Request, Asked], Awaitable[Response]]
    methods: tuple[str, ...] = ("GET",)


def download(name: str, content: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """A file to keep. `name` is of ours: letters, digits, dots and dashes."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type="text/plain; charset=utf-8", headers=headers)
