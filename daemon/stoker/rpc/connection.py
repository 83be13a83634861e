"""One client: its bytes in, its answers out, and when to read, to wait or to leave.

Owns the transport, its backpressure, the frame timer and the end of the connection. Refuses to know what a request
means (frames.py, calls.py, streams.py).

Invariants: whatever a client sends, it takes the loop for a few milliseconds at a time: a turn has a time limit, and
frames that take long to read are read in a thread, one after the other. The answers of one loop iteration leave in one
write; nothing is read while 1 MiB waits to be sent or too much is in flight; a client that shuts down its sending side
still gets every answer; one that is gone costs nothing from then on.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from stoker.core.errors import FrameTimeout, FrameTooLarge, StokerError
from stoker.rpc import frames
from stoker.rpc.calls import Calls
from stoker.rpc.frames import requests_in
from stoker.rpc.wire import MAX_FRAME_BYTES, Framer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from stoker.rpc.calls import Backend
    from stoker.rpc.capacity import Capacity
    from stoker.rpc.frames import Request
    from stoker.rpc.table import Peer

MAX_UNSENT_BYTES = 1024 * 1024
TURN_S = 0.005
LONG_FRAME_BYTES = 16 * 1024  # reading may take 1 ms a KiB, for a flow in which everything is wrong
HANG_UP_CHECK_S = 1.0
LINGER_S = 1.0
RESERVE_S = 1.0  # how long a connection may keep a place of the reserve and ask nothing


Watched = Callable[[Callable[[], None]], Callable[[], None]]  # the same callback, with its CPU time measured


class Gate(Protocol):
    """The server, as far as a connection needs to know it."""

    backend: Backend
    capacity: Capacity
    frame_timeout_s: float
    watched: Watched

    def admit(self, connection: ClientConnection, sock: socket.socket) -> Peer: ...
    def forget(self, connection: ClientConnection) -> None: ...


class ClientConnection(asyncio.Protocol):
    """`ordinary`: it may ask for anything; one in the reserve only for what is short and brings no work."""

    peer: Peer
    ordinary: bool
    _calls: Calls
    _transport: asyncio.Transport

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._turn = gate.watched(self._take_turn)
        self._framer = Framer()
        self._inbox: deque[bytes] = deque()
        self._requests: Iterator[Request] = iter(())  # of the frame that was taken out last
        self._unbegun = False  # there may be more to begin
        self._in_thread = False  # a frame is being read there, and those behind it wait
        self._turn_due = False
        self._out: list[bytes] = []
        self._unsent = 0
        self._transport_full = False
        self._room = asyncio.Event()
        self._room.set()
        self._paused = False
        self._frame_timer: asyncio.TimerHandle | None = None
        self._last_read = False  # nothing more will be read: the client said so, or we did
        self._refused = False
        self._gone = False

    # --- coming and going -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        try:
            self.peer = self._gate.admit(self, transport.get_extra_info("socket"))
        except StokerError as error:
            self._gone = True
            self._transport.write(frames.refusal(None, error) + b"\n")
            self._transport.close()
        else:
            self._calls = Calls(self, self._gate.backend, self.peer)
            if not self.ordinary:
                self._loop.call_later(RESERVE_S, self._leave_reserve)

    def _leave_reserve(self) -> None:
        """Into an ordinary place, or away once nothing is under way."""
        if self._gone or self.try_ordinary():
            return
        if not (self._unbegun or self._calls or self._out):
            self._transport.close()
        else:
            self._loop.call_later(RESERVE_S, self._leave_reserve)

    def try_ordinary(self) -> bool:
        """Whether it has an ordinary place, if need be since now."""
        self.ordinary = self.ordinary or self._gate.capacity.promote(self.peer.uid)
        return self.ordinary

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._gone:
            return
        self._gone = True
        self._gate.forget(self)
        self._stop_frame_timer()
        self._drop_unread()
        self._calls.abandon()

    def leave(self) -> None:
        """Read no more, answer what was asked, then close."""
        self._last_read = True
        self._drop_unread()
        self._calls.cancel_lasting()
        self.go_on()

    def _drop_unread(self) -> None:
        self._inbox.clear()
        self._requests = iter(())

    def abort(self) -> None:
        if not self._gone:
            self._transport.abort()

    def eof_received(self) -> bool:
        """The client sends no more; True keeps the connection, for the answers (`socat` works that way)."""
        if self._refused or self._hung_up():
            return False
        self._last_read = True
        self._inbox.extend(self._framer.finish())
        self._stop_frame_timer()
        self._loop.call_later(HANG_UP_CHECK_S, self._check_hang_up)
        self.go_on()
        return True

    def _check_hang_up(self) -> None:
        """A poll, as nothing can wake us: behind the end of input a hang-up is no event to the loop."""
        if self._gone:
            return
        if self._hung_up():
            self._transport.abort()
        else:
            self._loop.call_later(HANG_UP_CHECK_S, self._check_hang_up)

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    # --- reading --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._last_read:
            return
        read = self._framer.feed(data)
        if read:
            self._inbox.extend(read)
            self._stop_frame_timer()
        if self._framer.overflowed:
            self._refuse(
                FrameTooLarge(
                    f"a frame may have {MAX_FRAME_BYTES} bytes", hint="split a batch; put a long command into a script"
                )
            )
        self._turn()

    def go_on(self) -> None:
        """Something has changed: take a turn, once in an iteration of the loop however often this is called."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _take_turn(self) -> None:
        """Take in what there is room for, send what is ready, and see whether to read, to wait or to leave."""
        if self._gone:
            return
        self._turn_due = True  # what is sent from here on needs no other turn
        try:
            self._begin_and_send()
        except Exception as error:  # noqa: BLE001 - the boundary: a bug of ours ends this connection, no other
            self._break_off(error)
            return
        finally:
            self._turn_due = False
        if self._unbegun and self._takes_requests():
            self.go_on()
        elif self._last_read:
            self._leave_when_done()
        else:
            self._pace()

    def _begin_and_send(self) -> None:
        until = time.perf_counter() + TURN_S
        self._unbegun = True
        while self._unbegun and self._takes_requests() and time.perf_counter() < until:
            self._unbegun = self._begin_next()
        self._calls.go_on_reading()
        self._flush()

    def _begin_next(self) -> bool:
        """Begin the next request, or have the next frame read; False when there is none."""
        request = next(self._requests, None)
        if request is not None:
            if request.error is None and request.method.lasts and not self.try_ordinary():
                request.error = self._gate.capacity.refusal(self.peer.uid)
            self._calls.begin(request)
            return True
        if not self._inbox:
            return False
        frame = self._inbox.popleft()
        if len(frame) <= LONG_FRAME_BYTES:
            self._requests = requests_in(frame)
        else:
            self._in_thread = True
            reading = self._loop.run_in_executor(self._gate.backend.reading, lambda: list(requests_in(frame)))
            reading.add_done_callback(self._frame_is_read)
        return True

    def _frame_is_read(self, reading: asyncio.Future[list[Request]]) -> None:
        self._in_thread = False
        if self._gone:
            return
        if (error := reading.exception()) is not None:
            self._break_off(error)
            return
        self._requests = iter(reading.result())
        self.go_on()

    def _break_off(self, error: BaseException) -> None:
        """Hang up after a bug of ours: which requests were begun is unknown, so no answer would be true."""
        log(LogEvent.REQUEST_FAILED, method="?", uid=self.peer.uid, error=error)
        self.abort()

    def _takes_requests(self) -> bool:
        return not self._in_thread and not self._calls.full and self._room.is_set()

    def has_room(self) -> bool:
        """Whether the client takes its answers, so that more are worth making."""
        return self._room.is_set()

    def _pace(self) -> None:
        pause = self._unbegun or not self._takes_requests()
        if pause != self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if pause:
            self._stop_frame_timer()  # the rest of the frame may be waiting for us
        elif self._framer.partial and not self._frame_timer:
            self._frame_timer = self._loop.call_later(self._gate.frame_timeout_s, self._frame_is_late)

    def _frame_is_late(self) -> None:
        self._frame_timer = None
        limit = self._gate.frame_timeout_s
        self._refuse(FrameTimeout(f"a frame must end within {limit:g} s", hint="end each request with a newline"))
        self.go_on()

    def _stop_frame_timer(self) -> None:
        if self._frame_timer:
            self._frame_timer.cancel()
            self._frame_timer = None

    def _refuse(self, error: StokerError) -> None:
        """Say what is wrong with the stream of bytes, which cannot be read any further.

        What the client still sends is read and dropped for a while: closing at once would take the error from it.
        """
        log(LogEvent.CLIENT_REFUSED, uid=self.peer.uid, pid=self.peer.pid, error=error)
        self._last_read = self._refused = True
        self.send(frames.refusal(None, error))
        self._calls.cancel_lasting()
        self._loop.call_later(LINGER_S, self.abort)

    # --- writing --------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Queue one frame. (uvloop makes a system call of every write, so what can share one must be joined.)"""
        if self._gone:
            return
        self._out.append(frame)
        self._unsent += len(frame)
        if self._unsent > MAX_UNSENT_BYTES:
            self._room.clear()
        self.go_on()

    async def room(self) -> None:
        """Wait until the client has read enough for more to be worth making."""
        await self._room.wait()

    def _flush(self) -> None:
        if self._out:
            self._out.append(b"")
            self._transport.write(b"\n".join(self._out))
            self._out.clear()
            self._unsent = 0
            self._see_room()

    def pause_writing(self) -> None:
        self._transport_full = True
        self._room.clear()

    def resume_writing(self) -> None:
        self._transport_full = False
        self._see_room()
        self.go_on()

    def _see_room(self) -> None:
        if not self._transport_full:
            self._room.set()

    def _leave_when_done(self) -> None:
        if self._unbegun or self._in_thread or self._calls or self._out or self._gone:
            return
        if self._refused:
            self._transport.write_eof()
        else:
            self._transport.close()
