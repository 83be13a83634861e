"""The asyncio client: a stream that its reader does not keep up with, and calls whose answer is lost."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import DaemonUnreachable, TooManyConnections
from stoker.rpc.async_client import AsyncClient
from tests.support.facts import until_async

if TYPE_CHECKING:
    from pathlib import Path

NOTIFICATIONS = 20_000


class FloodingServer:
    """Answers one streaming call with many notifications, as fast as they are read."""

    def __init__(self) -> None:
        self.sent = 0
        self.blocked = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        self._send(writer, {"id": 1, "result": {"stream": 7}})
        for number in range(NOTIFICATIONS):
            self._send(writer, {"method": "piece", "params": {"stream": 7, "number": number, "filling": "x" * 1000}})
            self.sent += 1
            self.blocked = writer.transport.get_write_buffer_size() > 0
            await writer.drain()
            await asyncio.sleep(0)
        self._send(writer, {"method": "piece", "params": {"stream": 7, "end": True}})
        writer.close()

    def _send(self, writer: asyncio.StreamWriter, message: dict[str, object]) -> None:
        writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


async def test_stream_when_it_is_not_read_then_the_daemon_waits_and_nothing_is_lost(tmp_path: Path) -> None:
    flood = FloodingServer()
    server = await asyncio.start_unix_server(flood.serve, tmp_path / "s")
    async with server, aclosing(AsyncClient(str(tmp_path / "s")).stream("flood")) as stream:
        await anext(stream)

        await until_async(lambda: flood.blocked, why="a server that must wait")
        sent = flood.sent
        numbers = [piece["number"] async for piece in stream]

    assert sent < NOTIFICATIONS
    assert numbers == list(range(NOTIFICATIONS))


async def test_call_when_its_answer_is_lost_then_the_error_says_that_it_may_be_done(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    client = AsyncClient(str(tmp_path / "s"))
    async with await asyncio.start_unix_server(hang_up, tmp_path / "s"):
        with pytest.raises(DaemonUnreachable) as lost:
            await client.call("job.retry", id=1)

    assert lost.value.perhaps_done


async def test_call_when_the_daemon_cannot_have_read_it_then_it_is_not_perhaps_done(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        error = TooManyConnections("full").to_wire()
        writer.write(json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode() + b"\n")
        writer.close()

    client = AsyncClient(str(tmp_path / "s"))
    with pytest.raises(DaemonUnreachable) as unreachable:
        await client.call("job.retry", id=1)
    async with await asyncio.start_unix_server(refuse, tmp_path / "s"):
        with pytest.raises(TooManyConnections) as refused:
            await client.call("job.retry", id=1)

    assert not unreachable.value.perhaps_done
    assert not refused.value.perhaps_done
