"""The changes of the daemon, for all open pages: one `watch` stream, however many pages there are.

Owns the cursor of the stream and the connection's state. After a break it goes on behind the last change that it saw;
where that is impossible (a restore, a purge) it begins anew. Listeners get each change, and a call without changes when
the daemon goes away or comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from stoker.cli.pages.tasks import start_task
from stoker.core.errors import StokerError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 3.0

# It gets changes, or none when the daemon went away or came back.
Listener = Callable[[Sequence["ChangeShape"]], None]


class Changes:
    """`seq`: the newest change that was seen; None before the first answer. `away`: why the daemon does not answer."""

    def __init__(self, client: AsyncClient) -> None:
        self.seq: int | None = None
        self.away: StokerError | None = None
        self._history: str | None = None
        self._client = client
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """The stream is open while there are listeners."""
        self._listeners.add(listener)
        if self._task is None:
            self._task = start_task(self._follow())
        try:
            yield
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self.close()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _tell(self, changes: Sequence[ChangeShape]) -> None:
        for listener in tuple(self._listeners):
            listener(changes)

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._stream()
            except StokerError as error:
                if error.code in ("history_changed", "changes_removed"):
                    self.seq = None
                self.away = error.as_value()
                self._tell(())
            else:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _stream(self) -> None:
        """Follow the changes until the stream ends."""
        if self.seq is None:
            status = await self._client.call("system.status")
            self.seq, self._history = status["last_seq"], status["history"]
        async with contextlib.aclosing(
            self._client.stream("watch", after=self.seq, history=self._history, job=None, workflow=None)
        ) as stream:
            await anext(stream)
            self.away = None
            self._tell(())
            async for batch in stream:
                self.seq = batch["changes"][-1]["seq"]
                self._tell(batch["changes"])
