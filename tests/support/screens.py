"""`stoker top` as a screen without a terminal: opened against a daemon, and read as the text that it shows.

Owns how a test waits for what is on the screen. For a real terminal: tests/cli/test_screen_terminal.py.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stoker.cli.screen.app import TopApp
from tests.support.facts import DEADLINE_S, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from textual.pilot import Pilot

    from tests.support.daemon import DaemonProcess

EVERY_S = 0.25


class Shown:
    """The screen, its keys, and what it shows."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def lines(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip) for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    async def until(self, *words: str, without: tuple[str, ...] = ()) -> str:
        """Wait until all these words are on the screen, and those in `without` are not; the text then."""
        seen = ""

        def complete() -> bool:
            nonlocal seen
            seen = self.text
            return all(word in seen for word in words) and not any(word in seen for word in without)

        try:
            await until_async(complete)
        except AssertionError as error:
            raise AssertionError(f"not shown: {words}, or still shown: {without}\n{seen}") from error
        return seen

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.press(*({" ": "space", ":": "colon", "=": "equals_sign"}.get(char, char) for char in text))


@asynccontextmanager
async def opened(daemon: DaemonProcess, columns: int = 80, lines: int = 24) -> AsyncIterator[Shown]:
    """The screen in that many columns and lines, once it has got its first answers."""
    app = TopApp(str(daemon.socket), EVERY_S)
    app.NOTIFICATION_TIMEOUT = DEADLINE_S  # type: ignore[misc] # a busy machine must not miss a notice
    async with app.run_test(size=(columns, lines), notifications=True) as pilot:
        shown = Shown(app, pilot)
        await until_async(lambda: app.status is not None, why="the status")
        yield shown
