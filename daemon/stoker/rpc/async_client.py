"""The asyncio client: one connection for many calls at once, and a connection of its own for each stream.

Owns the pairing of answers with calls. A connection that breaks fails the calls that wait on it, and the next call
connects again; it sends nothing twice, and the error says with `perhaps_done` whether the daemon may have read it. For
programs that serve many people at once; everybody else has `rpc.client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

from stoker.core.errors import DaemonUnreachable, NoAnswer, StokerError
from stoker.rpc import wire
from stoker.rpc.conversation import check_server, default_path, error_of, unreachable

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # a workflow of 10 000 steps takes a few MiB
READ_BYTES = 64 * 1024
MOST_UNREAD = 8  # notifications of a stream; then nothing more is read, and the daemon waits
LOST = "the daemon closed the connection"
LOST_HINT = "the daemon stopped or restarts: try again, or see its log"


class AsyncClient:
    """`socket_path`: that of the daemon; None is the user's own. `timeout_s` bounds each answer."""

    def __init__(self, socket_path: str | None = None, *, timeout_s: float = 30.0) -> None:
        self.socket_path = default_path() if socket_path is None else socket_path
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, method: str, **params: Any) -> Any:
        """The result of `method`. Raises the StokerError that the daemon answered, DaemonUnreachable or NoAnswer."""
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = await _Connection.open(self.socket_path)
            connection = self._connection
        return await self._answer(connection, method, params)

    async def stream(self, method: str, **params: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The answer of a streaming method, then its notifications. Closing the generator ends the stream."""
        connection = await _Connection.open(self.socket_path)
        try:
            answer = await self._answer(connection, method, params)
            yield answer
            async for notification in connection.notifications(answer["stream"]):
                yield notification
        finally:
            await connection.close()

    async def _answer(self, connection: _Connection, method: str, params: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await connection.call(method, params)
        except TimeoutError:
            failure = NoAnswer(f"no answer within {self._timeout_s:g} s", hint="try again; see `stoker status`")
            failure.perhaps_done = True
            raise failure from None

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


class _Connection:
    """One open socket. Its reader task gives each answer to the call that waits for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._streamed: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MOST_UNREAD)
        self._refusal: StokerError | None = None
        self._broken = LOST
        self._task = self._start_reading()

    def _start_reading(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._read())

    @classmethod
    async def open(cls, path: str) -> _Connection:
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(path), limit=READ_BYTES)
        except OSError as error:
            raise unreachable(path, error) from error
        try:
            check_server(writer.get_extra_info("socket"), os.fspath(path))
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    @property
    def closed(self) -> bool:
        return self._task.done()

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        self._last_id += 1
        number = self._last_id
        frame = wire.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        if self.closed:
            raise self._failure(sent=False)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(frame)
            answer = await answered
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["result"]

    async def notifications(self, number: int) -> AsyncGenerator[dict[str, Any], None]:
        """Those of one stream, until it ends. Raises the error that ended it, or DaemonUnreachable."""
        while (message := await self._streamed.get()) is not None:
            self._room.release()
            params = message.get("params", {})
            if params.get("stream") != number:
                continue
            if params.get("error"):
                raise error_of(params["error"])
            if params.get("end"):
                return
            yield params
        raise self._failure(sent=True)

    async def _read(self) -> None:
        """Until the connection ends: calls that still wait then fail, and a stream ends."""
        try:
            async for frame in self._frames():
                await self._sort(json.loads(frame))
        except (OSError, ValueError) as error:  # reset by the daemon, or a line beyond the limit
            self._broken = f"{LOST}: {error}"
        finally:
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_exception(self._failure(sent=True))
            self._streamed.put_nowait(None)
            self._writer.close()

    def _failure(self, *, sent: bool) -> StokerError:
        """Why a call has no answer. `sent`: the daemon may have read it, unless it refused the connection."""
        if self._refusal is not None:
            return self._refusal.as_value()
        failure = DaemonUnreachable(self._broken, hint=LOST_HINT)
        failure.perhaps_done = sent
        return failure

    async def _frames(self) -> AsyncGenerator[bytes, None]:
        """Complete lines. Raises ValueError for one beyond the limit."""
        begun: list[bytes] = []
        while data := await self._reader.read(READ_BYTES):
            first, *others = data.split(b"\n")
            begun.append(first)
            for other in others:
                yield b"".join(begun)
                begun = [other]
            if sum(map(len, begun)) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")

    async def _sort(self, message: dict[str, Any]) -> None:
        if "method" in message:
            await self._room.acquire()
            self._streamed.put_nowait(message)
        elif message.get("id") is None:  # about the connection itself: too many of them, or a frame that is none
            self._refusal = error_of(message["error"])
        elif (answered := self._waiting.get(message["id"])) is not None and not answered.done():
            answered.set_result(message)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
