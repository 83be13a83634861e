"""The listening socket of the server.

Owns accepting. The server decides on admission, once a connection is made.

Invariant: while the host has no descriptor or no memory for another connection, clients wait in the backlog, the loop
is not kept awake, and `system.status` shows the error. The event loop's own server tries again at once, for ever, or
hangs up on every client that waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from stoker.background.tasks import BackgroundTasks
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

BACKLOG = 1024
# In one iteration of the loop, and all of them begin in the next one. With 64 the answers to one user took fifty times
# as long beside another who opens connections without end (benchmarks/crowd.py).
ACCEPTED_AT_ONCE = 8
AGAIN_S = 1.0
DUTY = "accepting clients"


class ClientListener:
    """Accepts on a socket that is bound. `protocol` makes the protocol of each connection."""

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], background: BackgroundTasks
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listener
        self._protocol = protocol
        self._background = background
        self._watched = False
        self._again: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Raises OSError if the socket cannot listen."""
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.listen(BACKLOG)
        self._accept_or_rest()

    async def close(self) -> None:
        """Accept nothing more, and wait until what was accepted is connected. Safe to call twice."""
        self._unwatch()
        if self._again is not None:
            self._again.cancel()
        self._socket.close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _accept_or_rest(self) -> None:
        """No event says when there is room again, and the socket stays readable: look at it again after a pause."""
        if not self._background.perform(DUTY, self._accept, again_in_s=AGAIN_S):
            self._unwatch()
            self._again = self._loop.call_later(AGAIN_S, self._accept_or_rest)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            task = self._background.start("connection of a client", self._connect(client))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        if not self._watched:
            self._loop.add_reader(self._socket, self._accept_or_rest)
            self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._socket)
            self._watched = False

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, client)
        except OSError as error:
            client.close()
            log(LogEvent.CLIENT_REFUSED, error=error)
