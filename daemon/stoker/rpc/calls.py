"""The requests of one connection that are under way, from frame to answer.

Owns what happens to a request: a value is answered at once, a future of the engine from its callback, only a coroutine
becomes a task (a task per submit would cost more than the submit). Refuses to touch bytes on the wire.

Invariants: every request with an id is answered exactly once while its client is there; a batch gets one array, after
its last answer. A client that goes away ends its streams and waits and nothing else: what it asked to change still
happens, and a future of the engine is never cancelled from here.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from stoker.core.errors import Draining, InvalidRequest, ParseError, StokerError
from stoker.rpc import frames
from stoker.rpc.envelope import id_of, read_call
from stoker.rpc.streams import Streams
from stoker.rpc.table import Kind, Later, Method
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stoker.core.requests import Params
    from stoker.rpc.frames import RequestId
    from stoker.rpc.methods import Service
    from stoker.rpc.streams import Line
    from stoker.rpc.table import Peer

MAX_BATCH = 1024


class Batch:
    """The answers of one array, sent together when the last is there."""

    __slots__ = ("_frames", "_open")

    def __init__(self, requests: int) -> None:
        self._open = requests
        self._frames: list[bytes] = []

    def put(self, frame: bytes | None) -> bytes | None:
        """Add an answer (None: nothing to say); gives the array when it was the last one and there is any."""
        self._open -= 1
        if frame is not None:
            self._frames.append(frame)
        return b"[%b]" % b",".join(self._frames) if self._frames and not self._open else None


class Ticket:
    """Where an answer goes, and for what."""

    __slots__ = ("batch", "id", "name")

    def __init__(self, request_id: RequestId | UnsetType, batch: Batch | None, name: str) -> None:
        self.id = request_id
        self.batch = batch
        self.name = name


class Backend:
    """What all connections share: the service, and what has been begun for it."""

    def __init__(self, service: Service, max_streams: int) -> None:
        self.service = service
        self.max_streams = max_streams
        self.streams: set[asyncio.Task[None]] = set()
        self.tasks: set[asyncio.Future[Any]] = set()


class Calls:
    def __init__(self, line: Line, backend: Backend, peer: Peer) -> None:
        self._line = line
        self._service = backend.service
        self._tasks = backend.tasks
        self._peer = peer
        self._streams = Streams(line, backend.streams, backend.max_streams, self.told)
        self._waits: set[asyncio.Future[Any]] = set()
        self.in_flight = 0

    def __bool__(self) -> bool:
        """Something is still owed to the client."""
        return self.in_flight > 0 or len(self._streams) > 0

    def cancel_lasting(self) -> None:
        """End what could go on for as long as a job does: streams and waits."""
        self._streams.cancel()
        for task in self._waits:
            task.cancel()

    def receive(self, raw: bytes) -> None:
        """Begin what one frame asks for. A blank line asks for nothing."""
        try:
            value = frames.read_frame(raw)
        except ParseError as error:
            if raw.strip():
                self._line.send(frames.refusal(frames.likely_id(raw), error))
            return
        if type(value) is list:
            self._begin_batch(value)
        else:
            self._begin(value, None)

    def _begin_batch(self, values: list[Any]) -> None:
        if 0 < len(values) <= MAX_BATCH:
            batch = Batch(len(values))
            for value in values:
                self._begin(value, batch)
            return
        error = InvalidRequest(f"a batch of {len(values)} requests; 1 to {MAX_BATCH} are allowed", hint="split it")
        self._line.send(frames.refusal(None, error))

    def _begin(self, value: Any, batch: Batch | None) -> None:
        ticket = Ticket(id_of(value), batch, "?")
        try:
            ticket.name, method, params = read_call(value)
            if method.kind is Kind.STREAM:
                self._begin_stream(ticket, method, params)
                return
            result = method.handler(self._service, self._peer, params)
            if isinstance(result, Later) or hasattr(result, "__await__"):
                self._defer(ticket, method.kind, result)
            else:
                self._answer(ticket, result)
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._refuse(ticket, error)

    def _begin_stream(self, ticket: Ticket, method: Method[Any], params: Params) -> None:
        if ticket.batch or isinstance(ticket.id, UnsetType):
            raise InvalidRequest(f"{ticket.name} streams: send it alone and with an id")
        self._streams.check_room()
        opening: Any = method.handler(self._service, self._peer, params)
        self._streams.begin(ticket.id, ticket.name, opening)

    def _defer(self, ticket: Ticket, kind: Kind, result: Any) -> None:
        future, render = result if isinstance(result, Later) else (self._future_of(result, kind), None)
        self.in_flight += 1
        future.add_done_callback(partial(self._settled, ticket, render))

    def _future_of(self, result: Awaitable[Any], kind: Kind) -> asyncio.Future[Any]:
        future = asyncio.ensure_future(result)
        for owner in (self._tasks, self._waits) if kind is Kind.WAIT else (self._tasks,):
            owner.add(future)
            future.add_done_callback(owner.discard)
        return future

    def _settled(self, ticket: Ticket, render: Callable[[Any], object] | None, future: asyncio.Future[Any]) -> None:
        self.in_flight -= 1
        try:
            result = future.result()
            self._answer(ticket, render(result) if render else result)
        except asyncio.CancelledError:
            self._refuse(ticket, Draining("the daemon stopped before this was answered", hint="ask again"))
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._refuse(ticket, error)
        self._line.go_on()

    def _answer(self, ticket: Ticket, result: object) -> None:
        self._put(ticket, None if ticket.id is UNSET else frames.answer(ticket.id, result))

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        told = self.told(ticket.name, error)
        if ticket.id is UNSET and isinstance(told, InvalidRequest):
            ticket.id = None  # not even a notification: somebody should hear of it
        self._put(ticket, None if ticket.id is UNSET else frames.refusal(ticket.id, told))

    def _put(self, ticket: Ticket, frame: bytes | None) -> None:
        whole = ticket.batch.put(frame) if ticket.batch else frame
        if whole is not None:
            self._line.send(whole)

    def told(self, name: str, error: Exception) -> StokerError:
        """What the client hears of `error`: a bug of ours goes to the log, and only the fact to the client."""
        if isinstance(error, StokerError):
            return error
        log(LogEvent.REQUEST_FAILED, method=name, uid=self._peer.uid, error=error)
        return StokerError(f"{name} failed inside the daemon", hint="its log says why (request_failed)")
