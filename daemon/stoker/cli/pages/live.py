"""The parts of open pages that change, sent as Server-Sent Events (HTML Living Standard, section 9.2).

Owns the pace: a view is rendered at most once a second, once for all browsers that show the same address, and sent only
if it differs. A browser that is slow gets the newest state and none in between. Each event has the number of the newest
change as its id; a browser that comes back gets the state of now, so it misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from stoker.cli.pages.changes import Changes
from stoker.cli.pages.page import AWAY, Asked, Page, Pages
from stoker.cli.pages.tasks import start_task
from stoker.core.errors import StokerError, TooManyStreams

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

MOST_STREAMS = 512
SHORTEST_PAUSE_S = 1.0
PAUSE_FACTOR = 4.0
LOOK_AGAIN_S = 2.0  # after an error
SIGN_OF_LIFE_S = 15.0  # between two comments on a quiet stream: a connection that is gone is noticed


class SentEvent(str):
    """One complete event as it stands on the wire."""

    __slots__ = ()

    @classmethod
    def of(cls, kind: str, data: str, number: object = None) -> SentEvent:
        name = "" if number is None else f"id: {number}\n"
        lines = "".join(f"data: {line}\n" for line in data.replace("\r", "").split("\n"))
        return cls(f"event: {kind}\n{name}{lines}\n")


COMMENT = SentEvent(":\n\n")


class Slot:
    """The newest event for one browser. `end` ends its stream."""

    def __init__(self) -> None:
        self._event: SentEvent | None = None
        self._filled = asyncio.Event()

    def put(self, event: SentEvent) -> None:
        self._event = event
        self._filled.set()

    def end(self) -> None:
        self._event = None
        self._filled.set()

    async def take(self) -> SentEvent | None:
        """The newest event, a comment if none comes for a while, or None at the end."""
        try:
            async with asyncio.timeout(SIGN_OF_LIFE_S):
                await self._filled.wait()
        except TimeoutError:
            return COMMENT
        self._filled.clear()
        return self._event


class View:
    """One address that is open in at least one browser."""

    def __init__(self, page: Page, asked: Asked, pages: Pages, changes: Changes) -> None:
        self._page = page
        self._asked = asked
        self._pages = pages
        self._changes = changes
        self._slots: set[Slot] = set()
        self._stale = asyncio.Event()
        self._stale.set()
        self._newest: SentEvent | None = None
        self._shown = ("", "")

    def add(self, slot: Slot) -> None:
        self._slots.add(slot)
        if self._newest is not None:
            slot.put(self._newest)

    def remove(self, slot: Slot) -> bool:
        """Returns whether no browser is left."""
        self._slots.discard(slot)
        return not self._slots

    def end(self) -> None:
        for slot in self._slots:
            slot.end()

    async def keep_current(self) -> None:
        """Render when there is reason to. Runs as long as the view is open."""
        with self._changes.listening(self._notice):
            while True:
                self._stale.clear()
                began = time.monotonic()
                every_s = await self._look()
                # What takes long is done less often: one view never keeps the server busy.
                await asyncio.sleep(max(SHORTEST_PAUSE_S, PAUSE_FACTOR * (time.monotonic() - began)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        await self._stale.wait()

    def _notice(self, changes: Sequence[ChangeShape]) -> None:
        if not changes or any(self._page.concerns(change, self._asked) for change in changes):
            self._stale.set()

    async def _look(self) -> float | None:
        """Send the state of now if it differs. Returns when to look again without a change, in seconds."""
        number = self._changes.seq
        try:
            shown, every_s = await self._pages.live(self._page, self._asked)
        except StokerError as error:
            away = "The daemon does not answer: " if error.code in AWAY else ""
            kind, shown, every_s = "trouble", away + error.message, LOOK_AGAIN_S
        else:
            kind = "show"
        if (kind, shown) != self._shown:
            self._shown = (kind, shown)
            self._send(SentEvent.of(kind, shown, number))
        return every_s

    def _send(self, event: SentEvent) -> None:
        self._newest = event
        for slot in self._slots:
            slot.put(event)


class Views:
    """All views that are open. `close` ends every stream."""

    def __init__(self, pages: Pages, changes: Changes) -> None:
        self._pages = pages
        self._changes = changes
        self._views: dict[tuple[str, Asked], View] = {}
        self._tasks: dict[asyncio.Task[None], View] = {}
        self._streams = 0

    def check_room(self) -> None:
        """Raises TooManyStreams if so many streams are open that another one would cost the others."""
        if self._streams >= MOST_STREAMS:
            raise TooManyStreams(f"{MOST_STREAMS} pages are open, the most that one server keeps current")

    async def events(self, page: Page, asked: Asked) -> AsyncGenerator[str, None]:
        """The events for one browser, until it leaves."""
        view, slot = self._views.get((page.path, asked)), Slot()
        if view is None:
            view = self._views[page.path, asked] = self._opened(page, asked)
        view.add(slot)
        self._streams += 1
        try:
            while (event := await slot.take()) is not None:
                yield event
        finally:
            self._streams -= 1
            if view.remove(slot) and self._views.get((page.path, asked)) is view:
                del self._views[page.path, asked]
                self._cancel(view)

    def _opened(self, page: Page, asked: Asked) -> View:
        view = View(page, asked, self._pages, self._changes)
        task = start_task(view.keep_current())
        self._tasks[task] = view
        task.add_done_callback(self._ended)
        return view

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A view that failed ends its streams; the browsers come back, and meet the same error as a page."""
        self._tasks.pop(task).end()

    def _cancel(self, view: View) -> None:
        for task in [task for task, of in self._tasks.items() if of is view]:
            task.cancel()

    def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        self._changes.close()
