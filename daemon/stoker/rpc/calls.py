"""The open requests and streams of one connection.

Owns the call of the handler: a value is answered at once, a future of the engine from its callback, and only a
coroutine becomes a task, because a task per submit would cost more than the submit.

Invariants: every request with an id is answered exactly once while its client is connected; a batch gets one array,
after its last answer. A client that hangs up ends its streams, waits and reads; its changes still happen, and a future
of the engine is never cancelled here. A connection's use of memory is bounded: open requests and their bytes, awaited
jobs, and one read at a time, which waits until the client has taken the last answers.

Of a stream the answer comes first; `{"stream": S, "end": true}` comes last, with `error` if the source failed. A source
is closed however its stream ends. The number of streams is limited, as each may hold files and watches open.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import Any, Protocol

from msgspec import UNSET

from stoker.core.errors import (
    AnswerTooLarge,
    Draining,
    InvalidRequest,
    PermissionDenied,
    StokerError,
    TooManyStreams,
    TooManyWaits,
)
from stoker.host.threads import start_threads
from stoker.rpc import frames
from stoker.rpc.denials import Denials
from stoker.rpc.frames import Request, RequestId
from stoker.rpc.open_calls import OpenCalls
from stoker.rpc.peer import Peer
from stoker.rpc.roles import denial, named_by
from stoker.rpc.round_robin import RoundRobin, Watched
from stoker.rpc.table import Later, MethodKind, Stream
from stoker.rpc.wire import MAX_FRAME_BYTES
from stoker.service.ownership import NOT_FOUND, Named
from stoker.service.service import Service
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

MAX_IN_FLIGHT = 1024
MAX_BYTES_IN_FLIGHT = 4 * MAX_FRAME_BYTES  # of open requests
MAX_STREAMS = 16  # of a connection
MAX_AWAITED = 10_000  # jobs in all waits of a connection
SHARED_THREADS = 4  # that read long frames of all other users


class Answerer(Protocol):
    def send(self, frame: bytes) -> None: ...
    def has_room(self) -> bool: ...
    async def room(self) -> None: ...
    def go_on(self) -> None: ...
    def settled(self) -> None: ...


class Backend:
    """Shared by all connections: the service, its open calls, tasks and streams, and the threads that read frames."""

    def __init__(self, service: Service, max_streams: int, watched: Watched = lambda callback: callback) -> None:
        self.service = service
        self.watched = watched
        self.turns = RoundRobin(watched)
        self.open_calls = OpenCalls()
        self.denials = Denials(service.count_denial)
        self.max_streams = max_streams
        self.streams: set[asyncio.Task[None]] = set()
        self.tasks: set[asyncio.Future[Any]] = set()
        self._admins = frozenset({0, os.geteuid()})
        shared = {-1 - number for number in range(SHARED_THREADS)}
        self.frame_threads = {key: start_threads(1, "frames") for key in self._admins | shared}

    def frame_thread(self, uid: int) -> ThreadPoolExecutor:
        """Root and the daemon's own user have threads of their own: they do not wait for the long frames of others."""
        return self.frame_threads[uid if uid in self._admins else -1 - uid % SHARED_THREADS]


class Calls:
    def __init__(self, connection: Answerer, backend: Backend, peer: Peer) -> None:
        self._connection = connection
        self._service = backend.service
        self._tasks = backend.tasks
        self._open_calls = backend.open_calls
        self._peer = peer
        self._denials = backend.denials
        self._order = asyncio.Lock()
        self._unbegun_changes = 0  # that wait for a check, or behind one
        self._streams = Streams(connection, backend.streams, backend.max_streams, self.error_for)
        self._waits: set[asyncio.Future[Any]] = set()
        self._reads: deque[Request] = deque()  # that wait for the one under way
        self._reading: asyncio.Future[Any] | None = None
        self._settle = backend.watched(self._settled)
        self._awaited = 0
        self._in_flight = 0
        self._bytes_in_flight = 0

    def __bool__(self) -> bool:
        """Whether a request or stream is open."""
        return self._in_flight > 0 or len(self._streams) > 0

    @property
    def full(self) -> bool:
        """Whether a further request must wait for an answer to an open one."""
        return self._in_flight >= MAX_IN_FLIGHT or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT

    def cancel_lasting(self) -> None:
        """Cancel streams and waits, which may last as long as a job."""
        self._streams.cancel()
        for task in self._waits:
            task.cancel()

    def abandon(self) -> None:
        """The client hung up: cancel its streams, waits and reads. Its changes still happen."""
        self.cancel_lasting()
        self._reads.clear()
        if self._reading is not None:
            self._reading.cancel()

    def begin(self, request: Request) -> None:
        refusal = request.error or self._denial(request)
        if refusal is not None:
            self._refuse(request, refusal)
            return
        try:
            if request.method.kind is MethodKind.STREAM:
                self._begin_stream(request)
            elif request.method.kind is MethodKind.READ:
                self._hold(request)
                self._reads.append(request)
                self.go_on_reading()
            else:
                self._begin_call(request)
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._refuse(request, error)

    def _denial(self, request: Request) -> PermissionDenied | None:
        denied = denial(request.name, self._peer)
        if denied is not None:
            self._denials.note(self._peer, request.name, denied)
        return denied

    def _call(self, request: Request) -> Any:
        """Call the handler; for things that may be another user's, after it is known whose they are."""
        named = named_by(request.name, self._peer, request.params)
        changes = request.method.kind in (MethodKind.CALL, MethodKind.DIRECT)
        if named is None and not (changes and self._unbegun_changes):
            return request.method.handler(self._service, self._peer, request.params)
        self._unbegun_changes += changes
        return self._call_checked(request, named or Named(), changes=changes)

    async def _call_checked(self, request: Request, named: Named, *, changes: bool) -> Any:
        """Handlers of changes are called in the order of their requests, also while one waits for its check."""
        try:
            async with self._order:
                await self._service.ownership.check(self._peer.uid, named)
                result = request.method.handler(self._service, self._peer, request.params)
        except NOT_FOUND as error:
            self._denials.note(self._peer, request.name, error)
            raise
        finally:
            self._unbegun_changes -= changes
        if isinstance(result, Later):
            return result.render(await result.future)
        return await result if hasattr(result, "__await__") else result

    def _begin_call(self, request: Request) -> None:
        if request.method.kind is MethodKind.WAIT:
            self._check_awaited(request.params.awaited)
        result = self._call(request)
        if not (isinstance(result, Later) or hasattr(result, "__await__")):
            self._answer(request, result)
            return
        future, render = result if isinstance(result, Later) else (self._future_of(result, request.method.kind), None)
        self._hold(request)
        if request.method.kind is MethodKind.WAIT:
            self._awaited += request.params.awaited
        future.add_done_callback(partial(self._settle, request, render))

    def _check_awaited(self, more: int) -> None:
        if self._awaited + more > MAX_AWAITED:
            raise TooManyWaits(
                f"this connection awaits {self._awaited} jobs and asks for {more} more; the limit is {MAX_AWAITED}",
                hint="wait for fewer at once, or open another connection",
            )

    def go_on_reading(self) -> None:
        """Begin the next read, unless one is open or the client has not taken the last answers."""
        if self._reading is not None or not self._reads or not self._connection.has_room():
            return
        request = self._reads.popleft()
        self._reading = self._future_of(self._result_of(request), MethodKind.READ)
        self._reading.add_done_callback(partial(self._read, request))

    async def _result_of(self, request: Request) -> Any:
        """Call the handler. Its synchronous part may raise, too."""
        if request.batch and request.batch.full:
            raise _too_large_together()
        return await self._call(request)

    def _read(self, request: Request, future: asyncio.Future[Any]) -> None:
        self._reading = None
        self._settle(request, None, future)
        self.go_on_reading()

    def _begin_stream(self, request: Request) -> None:
        if request.batch or request.id is UNSET:
            raise InvalidRequest(f"{request.name} streams: send it alone and with an id")
        self._streams.check_room()
        opening = self._call(request)
        self._streams.begin(request.id, request.name, opening)

    def _future_of(self, result: Awaitable[Any], kind: MethodKind) -> asyncio.Future[Any]:
        future = asyncio.ensure_future(result)
        for owner in (self._tasks, self._waits) if kind is MethodKind.WAIT else (self._tasks,):
            owner.add(future)
            future.add_done_callback(owner.discard)
        return future

    def _hold(self, request: Request) -> None:
        self._in_flight += 1
        self._bytes_in_flight += request.size
        if request.method.kind is MethodKind.CALL:
            self._open_calls.begin(request.size)

    def _settled(self, request: Request, render: Callable[[Any], object] | None, future: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        self._bytes_in_flight -= request.size
        if request.method.kind is MethodKind.CALL:
            self._open_calls.end(request.size)
        if request.method.kind is MethodKind.WAIT:
            self._awaited -= request.params.awaited
        if future.cancelled():
            self._refuse(request, Draining("the daemon stopped before this was answered", hint="ask again"))
        elif isinstance(error := future.exception(), Exception):  # not raised here: it would keep this frame
            if isinstance(error, PermissionDenied):
                self._denials.note(self._peer, request.name, error)
            self._refuse(request, error)
        else:
            self._answer_with(request, render, future.result())
        self._connection.settled()

    def _answer_with(self, request: Request, render: Callable[[Any], object] | None, result: object) -> None:
        try:
            self._answer(request, render(result) if render else result)
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._refuse(request, error)

    def _answer(self, request: Request, result: object) -> None:
        frame = None if request.id is UNSET else frames.answer(request.id, result)
        if frame and request.batch and request.method.kind is MethodKind.READ and not request.batch.takes(frame):
            raise _too_large_together()
        self._put(request, frame)

    def _refuse(self, request: Request, error: Exception) -> None:
        answer = self.error_for(request.name, error)
        if request.id is UNSET and isinstance(answer, InvalidRequest):
            request.id = None  # not a valid notification either, so it gets an answer
        self._put(request, None if request.id is UNSET else frames.refusal(request.id, answer))

    def _put(self, request: Request, frame: bytes | None) -> None:
        whole = request.batch.put(frame) if request.batch else frame
        if whole is not None:
            self._connection.send(whole)

    def error_for(self, name: str, error: Exception) -> StokerError:
        """The error that the client gets. A bug of ours is logged, and the client gets only the fact."""
        if isinstance(error, StokerError):
            return error
        log(LogEvent.REQUEST_FAILED, method=name, uid=self._peer.uid, error=error)
        return StokerError(f"{name} failed inside the daemon", hint="its log says why (request_failed)")


def _too_large_together() -> AnswerTooLarge:
    return AnswerTooLarge("the answers of this batch are too large", hint="send its requests one by one")


class Streams:
    def __init__(
        self,
        connection: Answerer,
        all_streams: set[asyncio.Task[None]],
        most: int,
        error_for: Callable[[str, Exception], StokerError],
    ) -> None:
        self._connection = connection
        self._all_streams = all_streams
        self._most = most
        self._error_for = error_for
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._tasks)

    def check_room(self) -> None:
        """Raises TooManyStreams at the limit of the connection or of the daemon."""
        if len(self._tasks) >= MAX_STREAMS:
            raise TooManyStreams(
                f"this connection has {MAX_STREAMS} open streams, the limit", hint="open another connection"
            )
        if len(self._all_streams) >= self._most:
            raise TooManyStreams(
                f"the daemon has {self._most} open streams, the limit", hint="end one, or raise rpc.max_connections"
            )

    def begin(self, request_id: RequestId, name: str, opening: Coroutine[Any, Any, Stream]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(request_id, name, opening))
        for owner in (self._tasks, self._all_streams):
            owner.add(task)
            task.add_done_callback(owner.discard)
        task.add_done_callback(lambda _: self._ended(opening))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, opening: Coroutine[Any, Any, Stream]) -> None:
        opening.close()  # a task that is cancelled before its first step never closes it
        self._connection.go_on()

    async def _run(self, request_id: RequestId, name: str, opening: Coroutine[Any, Any, Stream]) -> None:
        try:
            stream = await opening
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
            self._connection.send(frames.refusal(request_id, self._error_for(name, error)))
            return
        number = next(self._numbers)
        self._connection.send(frames.answer(request_id, {"stream": number, **stream.answer}))
        end = await self._relay(number, name, stream)
        self._connection.send(frames.notification(name, end))

    async def _relay(self, number: int, name: str, stream: Stream) -> dict[str, Any]:
        """Send the items of the source as fast as the client reads. Returns the last notification."""
        try:
            async with aclosing(stream.notifications) as notifications:
                async for item in notifications:
                    self._connection.send(frames.notification(name, {"stream": number, **item}))
                    await self._connection.room()
        except Exception as error:  # noqa: BLE001 - the boundary: the client gets the error that ends its stream
            return {"stream": number, "end": True, "error": self._error_for(name, error).to_wire()}
        return {"stream": number, "end": True}
