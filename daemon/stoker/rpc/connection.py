"""One client connection: its bytes, its answers, its pace and its end.

Owns the transport, its backpressure, the frame timer and the end of the connection. frames.py reads the requests,
calls.py carries them out.

Invariants: no client keeps the loop for more than a few milliseconds: round_robin.py gives each connection its share,
and long frames are read in a thread, one after the other. The answers of one turn leave in one write. Nothing is read
while 1 MiB waits to be sent, requests wait to be begun, or too many are open. A client that shuts down its sending side
still gets every answer; one that has hung up costs nothing.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Iterator
from typing import cast

from stoker.core.errors import FrameTimeout, FrameTooLarge, StokerError
from stoker.rpc import frames
from stoker.rpc.calls import Calls
from stoker.rpc.frames import Request, requests_in
from stoker.rpc.gate import Gate
from stoker.rpc.kept_bytes import WaitingFrames
from stoker.rpc.peer import Peer
from stoker.rpc.wire import MAX_FRAME_BYTES, Framer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

MAX_UNSENT_BYTES = 1024 * 1024
LONG_FRAME_BYTES = 16 * 1024  # reading takes up to 1 ms per KiB, for a flow full of mistakes
HANG_UP_CHECK_S = 1.0
LINGER_S = 1.0
RESERVE_S = 1.0  # how long a connection of the reserve may stay idle


class ClientConnection(asyncio.Protocol):
    """One client. `ordinary`: it may send any request; otherwise only short ones that bring no work."""

    peer: Peer
    ordinary: bool
    _calls: Calls
    _transport: asyncio.Transport

    def __init__(self, gate: Gate[ClientConnection]) -> None:
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._open_calls = gate.backend.open_calls
        self._framer = Framer()
        self.inbox = WaitingFrames()
        self._requests: Iterator[Request] = iter(())  # of the last frame taken from the inbox
        self._held_back: Request | None = None  # the next one, while too many calls of all connections are open
        self._waits = False  # until a call of any connection ends
        self._unbegun = False  # there may be a further request to begin
        self._in_thread = False  # a frame is being read in the thread; the next ones wait
        self._turn_due = False
        self._out: list[bytes] = []
        self._unsent = 0
        self._transport_full = False
        self._room = asyncio.Event()
        self._room.set()
        self._paused = False
        self._frame_timer: asyncio.TimerHandle | None = None
        self._last_read = False  # no further bytes are read: the client or the daemon has ended the input
        self._refused = False
        self._dropped = False
        self._gone = False

    # --- begin and end -----------------------------------------------------------------------------------

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
        """Become an ordinary connection, or close once no request is open."""
        if self._gone or self.try_ordinary():
            return
        if not (self._unbegun or self._calls or self._out):
            self._transport.close()
        else:
            self._loop.call_later(RESERVE_S, self._leave_reserve)

    def try_ordinary(self) -> bool:
        """Whether it is an ordinary connection; make it one if the limits allow it."""
        self.ordinary = self.ordinary or self._gate.capacity.promote(self.peer.uid)
        return self.ordinary

    def connection_lost(self, _exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._gate.forget(self)
        self._stop_frame_timer()
        self._drop_unread()
        self._calls.abandon()

    def leave(self) -> None:
        """Read no further requests, answer the open ones, then close."""
        self._last_read = True
        self._drop_unread()
        self._calls.cancel_lasting()
        self.go_on()

    def _drop_unread(self) -> None:
        self.inbox.clear()
        self._drop_unfinished()
        self._requests, self._held_back, self._waits = iter(()), None, False

    def _drop_unfinished(self) -> None:
        self._framer.drop()
        self._gate.note_received(self)

    def abort(self) -> None:
        """Hang up and stop counting its bytes at once: the event loop reports the end later."""
        if not self._gone:
            self._transport.abort()
            self._end()

    def eof_received(self) -> bool:
        """The client has ended its input. True keeps the connection open for the answers, as `socat` needs."""
        if self._refused or self._hung_up():
            return False
        self._last_read = True
        self.inbox.add(self._framer.finish())
        self._gate.note_received(self)
        self._stop_frame_timer()
        self._loop.call_later(HANG_UP_CHECK_S, self._check_hang_up)
        self.go_on()
        return True

    def _check_hang_up(self) -> None:
        """Poll: after the end of input the event loop does not report a hang-up."""
        if self._gone:
            return
        if self._hung_up():
            self.abort()
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
        complete = self._framer.feed(data)
        if complete:
            if self.inbox:
                self._pause(pause=True)  # what was read before still waits for a turn
            self.inbox.add(complete)
            self._stop_frame_timer()
        self._gate.note_received(self)
        if self._framer.overflowed:
            self.refuse(
                FrameTooLarge(
                    f"a frame may have {MAX_FRAME_BYTES} bytes", hint="split a batch; put a long command into a script"
                )
            )
        self.go_on(now=True)

    def go_on(self, *, now: bool = False) -> None:
        """Ask for a turn: one, however often this is called before it."""
        if not self._turn_due:
            self._turn_due = True
            self._gate.backend.turns.ask(self, self.peer.uid, now=now)

    def take_turn(self, until: float) -> None:
        """Begin the requests that there is room for, send the answers, then continue, pause or close."""
        if self._gone or self._has_left():
            return
        try:
            self._begin_and_send(until)  # frames sent meanwhile need no other turn: this one is still due
        except Exception as error:  # noqa: BLE001 - the boundary: a bug of ours ends only this connection
            self._break_off(error)
            return
        finally:
            self._turn_due = False
        self._go_on_pause_or_close()

    def _has_left(self) -> bool:
        """End if the client has hung up with requests left: while reading is paused, only this check notices it."""
        if self._unbegun and self._hung_up():
            self.abort()
        return self._gone

    def _go_on_pause_or_close(self) -> None:
        if self._gone or self._has_left():  # it is gone if its answers were too many
            return
        self._gate.note_received(self)
        if self._unbegun and self._takes_requests():
            self.go_on()
        if self._last_read:
            self._leave_when_done()
        else:
            self._pace()

    def _begin_and_send(self, until: float) -> None:
        """Begin at least one request, if there is one."""
        self._unbegun = True
        while self._unbegun and self._takes_requests():
            self._unbegun = self._begin_next()
            if time.perf_counter() >= until:
                break
        self._calls.go_on_reading()
        self._flush()

    def _begin_next(self) -> bool:
        """Begin the next request, or read the next frame. Returns False if there is neither."""
        request = self._held_back or next(self._requests, None)
        if request is not None:
            if self._holds_back(request):
                return True
            if request.error is None and request.method.lasts and not self.try_ordinary():
                request.error = self._gate.capacity.refusal(self.peer.uid)
            self._calls.begin(request)
            return True
        frame = self.inbox.take()
        if frame is None:
            return False
        if len(frame) <= LONG_FRAME_BYTES:
            self._requests = requests_in(frame)
        else:
            self._in_thread = True
            thread = self._gate.backend.frame_thread(self.peer.uid)
            reading = self._loop.run_in_executor(thread, lambda: list(requests_in(frame)))
            reading.add_done_callback(self._frame_is_read)
        return True

    def _frame_is_read(self, reading: asyncio.Future[list[Request]]) -> None:
        self._in_thread = False
        if self._gone:
            return
        if (error := reading.exception()) is not None:
            self._break_off(error)
            return
        self._requests = iter([] if self._dropped else reading.result())
        self.go_on()

    def _break_off(self, error: BaseException) -> None:
        """Hang up after a bug of Stoker: it is unknown which requests have begun, so they cannot be answered."""
        log(LogEvent.REQUEST_FAILED, method="?", uid=self.peer.uid, error=error)
        self.abort()

    def _holds_back(self, request: Request) -> bool:
        """Whether it waits until fewer calls are open. Those behind it wait, too: requests are begun in order."""
        self._held_back = None
        if request.error is None and not self._open_calls.has_room(request.method):
            self._held_back = request
            self._waits = True
            self._open_calls.when_fewer(self._try_again)
        return self._waits

    def _try_again(self) -> None:
        self._waits = False
        self.go_on()

    def _takes_requests(self) -> bool:
        return not (self._in_thread or self._waits or self._calls.full) and self._room.is_set()

    def has_room(self) -> bool:
        return self._room.is_set()

    def _pace(self) -> None:
        pause = self._unbegun or not self._takes_requests()
        self._pause(pause=pause)
        if pause:
            self._stop_frame_timer()  # the rest of the frame may have arrived already
        elif self._framer.unfinished and not self._frame_timer:
            self._frame_timer = self._loop.call_later(self._gate.frame_timeout_s, self._frame_is_late)

    def _pause(self, *, pause: bool) -> None:
        if pause != self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _frame_is_late(self) -> None:
        self._frame_timer, limit = None, self._gate.frame_timeout_s
        self.refuse(FrameTimeout(f"a frame must end within {limit:g} s", hint="end each request with a newline"))
        self.go_on()

    def _stop_frame_timer(self) -> None:
        if self._frame_timer:
            self._frame_timer.cancel()
            self._frame_timer = None

    def refuse(self, error: StokerError) -> None:
        """Refuse the rest of the stream of bytes, as no further frame can be found in it.

        Further bytes are read and dropped for a while: an immediate close would discard the error before it is read.
        """
        log(LogEvent.CLIENT_REFUSED, uid=self.peer.uid, pid=self.peer.pid, error=error)
        self._last_read = self._refused = True
        self._drop_unfinished()
        self._stop_frame_timer()
        self.send(frames.refusal(None, error))
        self._calls.cancel_lasting()
        self._loop.call_later(LINGER_S, self.abort)

    def refuse_waiting(self, error: StokerError) -> None:
        self._dropped = True  # also what a thread still reads
        self._drop_unread()
        self.refuse(error)

    # --- writing --------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Queue one frame. Frames are joined before they are written: uvloop makes a system call of every write."""
        if self._gone:
            return
        self._out.append(frame)
        self._unsent += len(frame)
        if self._unsent > MAX_UNSENT_BYTES:
            self._room.clear()
        if self._is_at_rest():
            self._flush()  # no other answer can share this write
        else:
            self.go_on()

    def settled(self) -> None:
        """A call has ended and is answered: a further one may begin now, or the connection may close."""
        if not self._is_at_rest():
            self.go_on()

    def _is_at_rest(self) -> bool:
        """Whether a turn could do no more than send what there is."""
        under_way = self._unbegun or self.inbox or self._in_thread or self._waits or self._calls
        return not (self._turn_due or under_way or self._paused or self._last_read)

    async def room(self) -> None:
        """Wait until the client has taken enough of its answers."""
        await self._room.wait()

    def _flush(self) -> None:
        if self._out:
            self._out.append(b"")
            self._transport.write(b"\n".join(self._out))
            self._out.clear()
            self._unsent = 0
            self._see_room()
            self._gate.unread.note(self)

    def pause_writing(self) -> None:
        self._transport_full = True
        self._room.clear()

    def resume_writing(self) -> None:
        self._transport_full = False
        self._gate.unread.note(self)
        self._see_room()
        self.go_on()

    @property
    def unfinished_bytes(self) -> int:
        """The bytes that have arrived of a frame whose end has not."""
        return self._framer.unfinished

    @property
    def unread_bytes(self) -> int:
        """The bytes that wait to be written, without those in the kernel's buffer."""
        return 0 if self._gone else self._transport.get_write_buffer_size()

    def break_off(self, error: StokerError) -> None:
        """Hang up on a client that does not read: nothing can be sent to it, so only the log says why."""
        log(LogEvent.CLIENT_REFUSED, uid=self.peer.uid, pid=self.peer.pid, error=error)
        self.abort()

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
