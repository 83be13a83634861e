"""Logs that are open in browsers, as Server-Sent Events: each line once, in order, whatever breaks meanwhile.

Owns one reader of the daemon for each open log, however many browsers show it, and its newest lines. The id of an
event is the place where reading goes on: a browser that comes back with it gets what follows, and nothing else. The
open line is sent anew with each event, until it is complete.

Invariants: a browser that cannot keep up loses old lines and gets a remark about it; the server keeps no more of them,
and has one event for it under way, of a bounded size.
"""

from __future__ import annotations

import asyncio
import random
from binascii import a2b_base64
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from stoker.cli.pages.changes import FIRST_PAUSE_S, LONGEST_PAUSE_S, Changes
from stoker.cli.pages.live import COMMENT, SIGN_OF_LIFE_S, SentEvent
from stoker.cli.pages.log_style import PLAIN, Style
from stoker.cli.pages.log_text import MOST_LINES, LogLines, ShownLine
from stoker.cli.pages.page import AWAY, LARGEST_ID
from stoker.cli.pages.tasks import start_task
from stoker.core.errors import StokerError, TooManyStreams, UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

MOST_STREAMS: Final = 256
PAUSE_S: Final = 0.25  # between two events of one browser
MOST_EVENT_BYTES: Final = 32 * 1024  # of a log in one event; its markup may be ten times as long
LEFT_OUT = ShownLine(0, b"[lines are left out here: they came faster than they could be shown]", remark=True)


class LogPlace(NamedTuple):
    """A place in the log of a job: the start of a line, and its style."""

    attempt: int
    offset: int
    style: Style = PLAIN

    @property
    def text(self) -> str:
        return ".".join((str(self.attempt), str(self.offset), *self.style.names))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError."""
        numbers, names = text.split(".")[:2], text.split(".")[2:]
        if len(numbers) != 2 or not all(_is_offset(number) for number in numbers):  # noqa: PLR2004 - attempt, offset
            raise UsageError(f"after: {text[:40]!r} is no place in a log", hint="load the page of the job again")
        return cls(max(1, int(numbers[0])), int(numbers[1]), Style.named(names))


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_ID  # noqa: PLR2004 - digits


class LogView:
    """The log of one job, from `start` on: of one attempt, or with `on` of each later one too.

    `over`: the log is complete; `closed`: its reading has ended, complete or not.
    """

    def __init__(self, client: AsyncClient, changes: Changes, job: int, start: LogPlace, *, on: bool) -> None:
        self.job = job
        self.on = on
        self.readers = 0
        self.over = False
        self.closed = False
        self.away: str | None = None
        self.changed = asyncio.Event()
        self._client = client
        self._changes = changes
        self._attempt = start.attempt
        self._text = LogLines(start.offset, start.style)
        self._lines: deque[tuple[int, ShownLine]] = deque(maxlen=MOST_LINES)
        self._first = start
        self._job_changed = asyncio.Event()

    @property
    def place(self) -> LogPlace:
        return LogPlace(self._attempt, self._text.offset, self._text.style)

    @property
    def open_line(self) -> ShownLine:
        return self._text.open

    def covers(self, place: LogPlace) -> bool:
        """Whether it has all that follows that place."""
        return self._first[:2] <= place[:2] <= self.place[:2]

    def since(self, place: LogPlace) -> tuple[list[ShownLine], LogPlace]:
        """The lines that follow, as many as one event may have, and the place behind them."""
        found: list[ShownLine] = [] if self.covers(place) else [LEFT_OUT]
        size = 0
        for attempt, line in self._lines:
            if (attempt, line.offset) < place[:2]:
                continue
            if size > MOST_EVENT_BYTES and not (line.remark or found[-1].remark):  # a remark has no place of its own
                return found, LogPlace(attempt, line.offset, line.style)
            found.append(line)
            size += len(line.raw)
        return found, self.place

    def close(self) -> None:
        self.closed = True
        self._tell()

    async def follow(self) -> None:
        """Read until the log is complete: with `on`, as long as the view is open."""
        pause_s = FIRST_PAUSE_S
        with self._changes.listening(self._notice):
            while not self.over:
                try:
                    await self._read_on()
                    pause_s = FIRST_PAUSE_S
                except StokerError as error:
                    if error.code not in AWAY:
                        self._finish(self._text.remark(error.message))
                        return
                    self.away = error.message
                    self._tell()
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                    pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _notice(self, changes: Sequence[ChangeShape]) -> None:
        if not changes or any(change["job"] == self.job for change in changes):
            self._job_changed.set()

    def _finish(self, *lines: ShownLine) -> None:
        self.over = True
        self._add(*lines)

    async def _read_on(self) -> None:
        where = {"id": self.job, "attempt": self._attempt, "offset": self._text.end_offset, "follow": True}
        async with aclosing(self._client.stream("job.logs", **where)) as pieces:
            await anext(pieces)
            self.away = None
            self._tell()
            async for piece in pieces:
                self._take(piece)
        job = await self._client.call("job.get", id=self.job, limit=1)
        if job["attempts"] == self._attempt and job["state"] == "running":  # the daemon ends its streams when it stops
            await asyncio.sleep(FIRST_PAUSE_S)
            return
        self._add(*self._text.end())
        if self.on:
            await self._next_attempt(job["attempts"])
        else:
            self._finish()

    def _take(self, piece: Mapping[str, Any]) -> None:
        """A piece of the daemon's answer."""
        hole = piece.get("hole")
        self._add(*(self._text.feed(a2b_base64(piece["data"])) if hole is None else self._text.hole(hole)))

    async def _next_attempt(self, attempts: int) -> None:
        """Wait for the next attempt of the job, which had so many."""
        wanted = self._attempt + 1 if attempts >= self._attempt else self._attempt
        while attempts < wanted:
            self._job_changed.clear()
            attempts = (await self._client.call("job.get", id=self.job, limit=1))["attempts"]
            if attempts < wanted:
                await self._job_changed.wait()
        if wanted > self._attempt:
            self._add(self._text.remark(f"attempt {wanted}"))
            self._attempt, self._text = wanted, LogLines(0)

    def _add(self, *lines: ShownLine) -> None:
        for line in lines:
            if len(self._lines) == MOST_LINES:
                attempt, oldest = self._lines[1]
                self._first = LogPlace(attempt, oldest.offset)
            self._lines.append((self._attempt, line))
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class LogViews:
    """All logs that are open. `close` ends every stream."""

    def __init__(self, client: AsyncClient, changes: Changes) -> None:
        self._client = client
        self._changes = changes
        self._views: dict[LogView, asyncio.Task[None]] = {}

    async def events(self, job: int, after: LogPlace, *, on: bool) -> AsyncGenerator[str, None]:
        """The events for one browser, which has all before `after`. Raises TooManyStreams."""
        view = self._view(job, after, on=on)
        view.readers += 1
        try:
            async with aclosing(_events(view, after)) as events:
                async for event in events:
                    yield event
        finally:
            view.readers -= 1
            if not view.readers and (task := self._views.pop(view, None)) is not None:
                task.cancel()

    def check_room(self) -> None:
        """Raises TooManyStreams."""
        if sum(view.readers for view in self._views) >= MOST_STREAMS:
            raise TooManyStreams(f"{MOST_STREAMS} logs are open, the most that one server follows")

    def _view(self, job: int, after: LogPlace, *, on: bool) -> LogView:
        """An open one that has all that this browser lacks, else a new one."""
        for view in self._views:
            if view.job == job and view.on == on and not view.over and view.covers(after):
                return view
        view = LogView(self._client, self._changes, job, after, on=on)
        self._views[view] = start_task(view.follow())
        self._views[view].add_done_callback(lambda _: self._ended(view))
        return view

    def _ended(self, view: LogView) -> None:
        """A view that failed ends its streams: the browsers come back."""
        self._views.pop(view, None)
        view.close()

    def close(self) -> None:
        for task in tuple(self._views.values()):
            task.cancel()


async def _events(view: LogView, place: LogPlace) -> AsyncGenerator[SentEvent, None]:
    sent: tuple[object, ...] | None = None
    while True:
        changed, over, closed = view.changed, view.over, view.closed
        if view.away is not None and sent != (view.away,):
            sent = (view.away,)
            yield SentEvent.of("away", view.away)
        elif view.away is None and sent != (view.place, view.open_line.raw):
            lines, place = view.since(place)
            more, newest = place != view.place, view.open_line
            sent = (place, newest.raw)
            yield SentEvent.of("show", _markup(lines, ShownLine(0, b"") if more else newest), place.text)
            if more:
                continue
        if over:
            yield SentEvent.of("end", "")
        if over or closed:
            return
        try:
            async with asyncio.timeout(SIGN_OF_LIFE_S):
                await changed.wait()
        except TimeoutError:
            yield COMMENT
        else:
            await asyncio.sleep(PAUSE_S)


def _markup(lines: Sequence[ShownLine], newest: ShownLine) -> str:
    return "".join([*(line.markup for line in lines), *([newest.open_markup] if newest.raw else [])])
