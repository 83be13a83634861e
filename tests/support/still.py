"""The parts beside a real loop, store and memory in which nothing starts: a test decides what is in a turn."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stoker.core.clock import Now
from stoker.store.directory import StateDirectory
from stoker.store.open import Opened, open_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from stoker.engine.turn import Turn
    from stoker.store.loading import Wanted


class Still:
    """The clock, the dispatcher and the hooks of a daemon in which nothing starts."""

    def now(self) -> Now:
        return Now(1_000, 1_000)

    def declare_reads(self, _wanted: Wanted) -> None: ...

    def dispatch(self, _turn: Turn) -> bool:
        return False

    def trigger(self, _turn: Turn) -> Iterator[int]:
        return iter(())


@asynccontextmanager
async def new_state(root: Path) -> AsyncIterator[Opened]:
    """A state directory that is made, opened and closed as by a daemon."""
    directory = StateDirectory(root)
    opened = await open_state(directory, "boot", 1, 0)
    yield opened
    for part in (opened.writer, opened.reader, opened.queries):
        await part.close()
    directory.unlock()
