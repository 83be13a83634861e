"""HTTP connections with an end: the bounds that uvicorn does not have.

Owns the number of connections and the time for a request to arrive. A client that sends its request byte by byte, or
none at all, loses its connection; one that reads an answer slowly, as of a live part, keeps it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST_CONNECTIONS: Final = 1024
REQUEST_S: Final = 10.0


class BoundedProtocol(H11Protocol):
    """One connection. A request that is not complete within one to two REQUEST_S ends it."""

    _awaited: object = None  # the last finished request, at the look before, if the next one was awaited then
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._look = self.loop.call_later(REQUEST_S, self._end_if_late)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _end_if_late(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        awaits = cycle is None or cycle.response_complete or cycle.more_body
        now = (cycle, awaits)
        if awaits and self._awaited == now:
            self.transport.abort()
            return
        self._awaited = now
        self._look = self.loop.call_later(REQUEST_S, self._end_if_late)
