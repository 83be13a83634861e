"""The streams of one connection: an answer, then notifications until the source ends or the client is gone.

Owns one task per stream, from the opening to the last notification, and the caps: a stream may hold files and watches
open in the daemon, so one connection gets few and all together no more than there may be connections.

Invariants: the answer comes before the first notification; `{"stream": S, "end": true}` is the last one, with `error`
if the source failed; a source is closed however its stream ends.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from stoker.core.errors import TooManyStreams
from stoker.rpc import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stoker.core.errors import StokerError
    from stoker.rpc.frames import RequestId
    from stoker.rpc.table import Stream

MAX_STREAMS = 16


class Answerer(Protocol):
    """A connection, as far as whoever answers needs to know it."""

    def send(self, frame: bytes) -> None: ...
    def has_room(self) -> bool: ...
    async def room(self) -> None: ...
    def go_on(self) -> None: ...


class Streams:
    def __init__(
        self,
        line: Answerer,
        everywhere: set[asyncio.Task[None]],
        most: int,
        told: Callable[[str, Exception], StokerError],
    ) -> None:
        self._line = line
        self._everywhere = everywhere
        self._most = most
        self._told = told
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._tasks)

    def check_room(self) -> None:
        """Raise if one more stream would be too many."""
        if len(self._tasks) >= MAX_STREAMS:
            raise TooManyStreams(
                f"this connection has {MAX_STREAMS} open streams, the limit", hint="open another connection"
            )
        if len(self._everywhere) >= self._most:
            raise TooManyStreams(
                f"the daemon has {self._most} open streams, the limit", hint="end one, or raise rpc.max_connections"
            )

    def begin(self, request_id: RequestId, name: str, opening: Coroutine[Any, Any, Stream]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(request_id, name, opening))
        for owner in (self._tasks, self._everywhere):
            owner.add(task)
            task.add_done_callback(owner.discard)
        task.add_done_callback(lambda _: self._ended(opening))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, opening: Coroutine[Any, Any, Stream]) -> None:
        opening.close()  # of a task that was cancelled before its first step nobody else would
        self._line.go_on()

    async def _run(self, request_id: RequestId, name: str, opening: Coroutine[Any, Any, Stream]) -> None:
        try:
            stream = await opening
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._line.send(frames.refusal(request_id, self._told(name, error)))
            return
        number = next(self._numbers)
        self._line.send(frames.answer(request_id, {"stream": number, **stream.answer}))
        end = await self._relay(number, name, stream)
        self._line.send(frames.notification(name, end))

    async def _relay(self, number: int, name: str, stream: Stream) -> dict[str, Any]:
        """Send what the source gives, as fast as the client reads; gives the last notification."""
        try:
            async with aclosing(stream.notifications) as notifications:
                async for item in notifications:
                    self._line.send(frames.notification(name, {"stream": number, **item}))
                    await self._line.room()
        except Exception as error:  # noqa: BLE001 - the boundary: a stream that breaks says so
            return {"stream": number, "end": True, "error": self._told(name, error).to_wire()}
        return {"stream": number, "end": True}
