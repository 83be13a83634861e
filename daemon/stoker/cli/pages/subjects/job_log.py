"""The log of a job: its last lines, followed as it grows, a search in all of it, and all of it as a file.

Owns the page of the log and its endpoints; the page of the job shows the same lines. Nothing here holds a whole log: it
passes through in pieces, and is read no further once the browser has left.
"""

from __future__ import annotations

import asyncio
import time
from binascii import a2b_base64
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from stoker.cli.kit import render
from stoker.cli.pages.endpoints import Endpoint, Parts, download
from stoker.cli.pages.log_search import LogSearch, Match
from stoker.cli.pages.log_stream import LogPlace
from stoker.cli.pages.log_text import LogLines, ShownLine
from stoker.cli.pages.page import Asked, Page, of_this_job
from stoker.cli.pages.tasks import start_task
from stoker.core.errors import StokerError, UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import JobView
    from stoker.core.wire_types import LogPiece

FIRST_LINES: Final = 200
FIRST_BYTES: Final = 32 * 1024
MOST_MATCHES: Final = 100
LONGEST_SEARCH_S: Final = 10.0
LONGEST_TEXT: Final = 200


class LogEnd(NamedTuple):
    """The last lines of a log. `chosen`: it is about that attempt only; `after`: where the stream goes on.

    `whole`: there are no earlier lines.
    """

    attempt: int
    chosen: bool
    lines: list[ShownLine]
    open_line: ShownLine
    after: str
    whole: bool


async def log_end(client: AsyncClient, job: JobView, attempt: int | None) -> LogEnd:
    """The end of the log of that attempt, else of the newest one. Raises StokerError."""
    if not job["attempts"]:
        return LogEnd(1, attempt is not None, [], ShownLine(0, b""), LogPlace(1, 0).text, whole=True)
    wanted = attempt or job["attempts"]
    text: LogLines | None = None
    lines: list[ShownLine] = []
    begin = 0
    tail = {"tail_lines": FIRST_LINES, "tail_bytes": FIRST_BYTES}
    async with aclosing(_pieces(client, job["id"], wanted, **tail)) as pieces:
        async for piece in pieces:
            if text is None:
                begin = piece["offset"]
                text = LogLines(begin)
            data = _bytes(piece)
            lines += text.hole(piece["hole"]) if data is None else text.feed(data)
    text = text or LogLines(0)
    after = LogPlace(wanted, text.offset, text.style).text
    return LogEnd(wanted, attempt is not None, lines, text.open, after, whole=not begin)


async def _pieces(client: AsyncClient, job: int, attempt: int, **more: int) -> AsyncGenerator[LogPiece, None]:
    async with aclosing(client.stream("job.logs", id=job, attempt=attempt, **more)) as pieces:
        await anext(pieces)
        async for piece in pieces:
            yield piece  # type: ignore[misc]


def _bytes(piece: LogPiece) -> bytes | None:
    """None for a hole."""
    return a2b_base64(piece["data"]) if "data" in piece else None


# --- the page -----------------------------------------------------------------------------------------------


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    job = await client.call("job.get", id=asked.number("job"), limit=100)
    return {"job": job, "attempt": asked.optional_number("attempt")}


async def read_end(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    job = await client.call("job.get", id=asked.number("job"), limit=1)
    return {"log": await log_end(client, job, asked.optional_number("attempt"))}


PAGES = (Page("/jobs/{job}/log", "job_log.html", read, of_this_job, None, read_end),)


# --- the stream ---------------------------------------------------------------------------------------------


async def follow(parts: Parts, request: Request, asked: Asked) -> Response:
    parts.logs.check_room()
    after = LogPlace.parse(request.headers.get("last-event-id") or asked.text("after") or "1.0")
    job = await parts.client.call("job.get", id=asked.number("job"), limit=1)
    events = parts.logs.events(job["id"], after, on=asked.text("attempt") is None)
    return StreamingResponse(events, media_type="text/event-stream")


# --- the file -----------------------------------------------------------------------------------------------


async def raw(parts: Parts, _request: Request, asked: Asked) -> Response:
    """All that the attempt has printed so far."""
    job, attempt = await _attempt(parts.client, asked)
    pieces = _pieces(parts.client, job, attempt)
    try:
        first = await anext(pieces, None)  # an error is a page, not a file
    except StokerError:
        await pieces.aclose()
        raise
    return download(f"job-{job}-attempt-{attempt}.log", _content(first, pieces))


async def _content(first: LogPiece | None, pieces: AsyncGenerator[LogPiece, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        if first is None:
            return
        yield _as_bytes(first)
        try:
            async for piece in pieces:
                yield _as_bytes(piece)
        except StokerError as error:
            yield f"\n[stoker: the rest is missing: {error.message}]\n".encode()


def _as_bytes(piece: LogPiece) -> bytes:
    data = _bytes(piece)
    return (
        f"\n[stoker: {render.size(piece['hole'])} of this log were dropped here]\n".encode() if data is None else data
    )


async def _attempt(client: AsyncClient, asked: Asked) -> tuple[int, int]:
    """The job, and the attempt that was asked for, else its newest."""
    job, attempt = asked.number("job"), asked.optional_number("attempt")
    if attempt is None:
        attempt = max(1, (await client.call("job.get", id=job, limit=1))["attempts"])
    return job, attempt


# --- the search ---------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """`next`: where to go on, as query of the address; None if all was searched."""

    matches: list[Match]
    next: dict[str, int] | None


async def search(parts: Parts, request: Request, asked: Asked) -> Response:
    job, attempt = await _attempt(parts.client, asked)
    text = asked.text("find") or ""
    if len(text) > LONGEST_TEXT:
        raise UsageError(f"find: {len(text)} characters; the limit is {LONGEST_TEXT}", hint="search for a shorter text")
    looking = _search(parts.client, job, attempt, _start(text, asked))
    found = await _while_connected(request, looking) if text else Found([], None)
    if found is None:
        return Response(status_code=204)  # the browser has left
    shown = {"job": job, "attempt": attempt, "text": text, "found": found}
    return HTMLResponse(parts.pages.plain("log_search.html", asked, **shown))


def _start(text: str, asked: Asked) -> LogSearch:
    """The search from the beginning, or from where the one before ended."""
    if asked.text("line") is None:
        return LogSearch(text)
    return LogSearch(text, asked.optional_number("offset") or 0, asked.optional_number("line") or 1)


async def _search(client: AsyncClient, job: int, attempt: int, log: LogSearch) -> Found:
    until, matches = time.monotonic() + LONGEST_SEARCH_S, list[Match]()
    async with aclosing(_pieces(client, job, attempt, offset=log.offset)) as pieces:
        async for piece in pieces:
            data = _bytes(piece)
            for match in log.hole(piece["hole"]) if data is None else log.feed(data):
                if len(matches) == MOST_MATCHES:
                    return Found(matches, {"offset": match.offset, "line": match.number})
                matches.append(match)
            if time.monotonic() > until:
                return Found(matches, {"offset": log.offset, "line": log.number})
    for match in log.finish():
        if len(matches) == MOST_MATCHES:
            return Found(matches, {"offset": match.offset, "line": match.number})
        matches.append(match)
    return Found(matches, None)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Found]) -> Found | None:
    """The result; None if the browser left before: then the work is cancelled."""
    try:
        async with asyncio.timeout(None) as limit:
            watch = start_task(_end_when_gone(request, limit))
            try:
                return await work
            finally:
                watch.cancel()
    except TimeoutError:
        return None


async def _end_when_gone(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0)


ENDPOINTS = (
    Endpoint("/jobs/{job}/log/stream", follow),
    Endpoint("/jobs/{job}/log/raw", raw),
    Endpoint("/jobs/{job}/log/search", search),
)
