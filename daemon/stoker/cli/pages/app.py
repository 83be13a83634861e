"""The application: the routes of all pages, forms and streams, and the page of an error.

Owns the wiring, and the answer to every error: a StokerError becomes a page with its message and the next command, with
the status code that fits. An error of our own becomes one line and is logged with its traceback.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from stoker.cli.pages.access import HOME, LOGIN, Access, AccessControl, local_address
from stoker.cli.pages.actions import PageAction, reason, sent_fields, sent_form
from stoker.cli.pages.changes import Changes
from stoker.cli.pages.endpoints import Endpoint, Parts
from stoker.cli.pages.live import Views
from stoker.cli.pages.log_stream import LogViews
from stoker.cli.pages.page import AWAY, Asked, Page, Pages
from stoker.cli.pages.subjects.tables import ALL_ACTIONS, ALL_ENDPOINTS, ALL_PAGES
from stoker.core.errors import EX_DATAERR, EX_USAGE, StokerError
from stoker.rpc.async_client import AsyncClient

LIVE_PREFIX = "/live"

# By code of an error, the status of the answer; `status_of` has the others.
STATUS = {
    **dict.fromkeys(AWAY, 503),
    "too_many_streams": 503,
    "permission_denied": 403,
    "not_allowed": 409,
    "usage": 400,
    "invalid_params": 400,
}
NOT_FOUND = "_not_found"


class WebPage:
    """The application for one daemon. `app` is the ASGI application; `close` ends every open stream."""

    def __init__(self, client: AsyncClient, access: Access) -> None:
        self._client = client
        self._access = access
        self._pages = Pages(client, read_only=access.read_only)
        changes = Changes(client)
        self._views, self._logs = Views(self._pages, changes), LogViews(client, changes)
        self._parts = Parts(client, self._pages, self._logs, access)
        self.app = Starlette(
            routes=self._routes(),
            middleware=[
                Middleware(AccessControl, access=access, refused=self._refused),
                Middleware(GZipMiddleware, minimum_size=1000),
            ],
            exception_handlers={StokerError: self._failed, HTTPException: self._missing, Exception: self._broken},
            lifespan=self._life,
        )
        self.app.router.redirect_slashes = False  # its redirects name http, also behind a proxy with TLS

    def close(self) -> None:
        self._views.close()
        self._logs.close()

    @asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncGenerator[None, None]:
        yield
        self.close()
        await self._client.close()

    def _routes(self) -> list[Route | Mount]:
        shown = [Route(page.path, partial(self._show, page)) for page in ALL_PAGES]
        live = [Route(f"{LIVE_PREFIX}{page.path}", partial(self._stream, page)) for page in ALL_PAGES]
        act = [Route(one.path, partial(self._act, one), methods=["GET", "POST"]) for one in ALL_ACTIONS]
        other = [Route(one.path, partial(self._respond, one), methods=list(one.methods)) for one in ALL_ENDPOINTS]
        static = Mount("/static", StaticFiles(directory=Path(str(files("stoker.cli.pages") / "static"))))
        login = Route(LOGIN, self._login, methods=["POST"])
        return [*live, *other, *shown, *act, login, static]

    async def _show(self, page: Page, request: Request) -> Response:
        return HTMLResponse(await self._pages.whole(page, asked_by(request), user=request.state.user))

    async def _stream(self, page: Page, request: Request) -> Response:
        self._views.check_room()
        events = self._views.events(page, asked_by(request, LIVE_PREFIX))
        return StreamingResponse(events, media_type="text/event-stream")

    async def _respond(self, endpoint: Endpoint, request: Request) -> Response:
        return await endpoint.respond(self._parts, request, asked_by(request))

    async def _act(self, action: PageAction, request: Request) -> Response:
        asked, user = asked_by(request), request.state.user
        subject = await action.subject(self._client, asked)
        if request.method == "POST":
            fields = await sent_form(request)
            request.state.sent = True
            await self._client.call(action.method, **action.params(asked), reason=reason(fields, user))
            return RedirectResponse(subject.back, status_code=303)
        preview = await action.preview(self._client, asked) if action.preview else []
        form = {"action": action, "subject": subject, "preview": preview, "csrf": self._access.csrf(user)}
        return HTMLResponse(self._pages.plain("action.html", asked, **form))

    async def _failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, StokerError)
        return self._error(request, error, status_of(error))

    def _error(self, request: Request, error: StokerError, status: int) -> Response:
        form = request.method == "POST"
        perhaps = form and error.perhaps_done and request.state.sent
        shown = self._pages.plain("error.html", asked_by(request), error=error, form=form, perhaps_done=perhaps)
        return HTMLResponse(shown, status)

    def _refused(self, status: int, text: str, back: str = HOME) -> Response:
        login = status == HTTPStatus.UNAUTHORIZED
        shown = self._pages.plain("refused.html", Asked("", (), ()), text=text, login=login, back=back)
        return HTMLResponse(shown, status)

    async def _missing(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._error(request, StokerError("there is no such page"), error.status_code)

    async def _login(self, request: Request) -> Response:
        fields = await sent_fields(request)
        back = local_address(fields.get("back", HOME))
        if self._access.is_token(fields.get("token", "").strip()):
            return self._access.welcomed(back)
        return self._refused(401, "that is not the token", back)

    async def _broken(self, _request: Request, error: Exception) -> Response:
        """The server logs it with its traceback."""
        return self._refused(500, f"a fault of this page ({type(error).__name__}); the log of `stoker web` has more")


def status_of(error: StokerError) -> int:
    if error.code.endswith(NOT_FOUND):
        return 404
    wrong, passes = error.exit_status in (EX_USAGE, EX_DATAERR), error.transient
    return STATUS.get(error.code) or (400 if wrong else 503 if passes else 500)


def asked_by(request: Request, prefix: str = "") -> Asked:
    names = tuple(sorted((name, str(value)) for name, value in request.path_params.items()))
    return Asked(request.url.path.removeprefix(prefix), names, tuple(request.query_params.multi_items()))
