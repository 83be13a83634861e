"""Threads that talk to the daemon, so that the screen never waits for it.

Owns two kinds: an Asker makes one call after the other; a StreamFollower reads a stream, and opens it again whenever it
breaks. Both hand what they get to the thread of the screen, by the function `tell`, which takes a callback.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.core.errors import DaemonUnreachable, StokerError
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tell = Callable[[Callable[[], object]], object]

TIMEOUT_S = 5.0
PAUSE_S = 1.0  # before a stream is opened again
STOP_TRIES = 20
STOP_TRY_S = 0.05


class AskedCall(NamedTuple):
    """`done` gets the answer, `failed` the error of the daemon or of the connection."""

    work: Callable[[Client], Any]
    done: Callable[[Any], object]
    failed: Callable[[StokerError], object]


def new_client(socket: str | None) -> Client:
    return Client(socket, timeout_s=TIMEOUT_S)


class Asker:
    """Makes calls in their order, over one connection."""

    def __init__(self, socket: str | None, tell: Tell) -> None:
        self._client = new_client(socket)
        self._tell = tell
        self._calls: SimpleQueue[AskedCall | None] = SimpleQueue()
        self._thread = _reporting_thread(self._run, tell)

    def start(self) -> None:
        self._thread.start()

    def ask(self, call: AskedCall) -> None:
        self._calls.put(call)

    def stop(self) -> None:
        """End without waiting for a daemon that does not answer: the thread is a daemon, too."""
        self._calls.put(None)
        _end(self._thread, self._client)

    def _run(self) -> None:
        with self._client:
            while (call := self._calls.get()) is not None:
                self._make(call)

    def _make(self, call: AskedCall) -> None:
        try:
            answer = call.work(self._client)
        except StokerError as error:
            failure = error
            self._tell(lambda: call.failed(failure))
        else:
            self._tell(lambda: call.done(answer))


class StreamFollower:
    """Reads a stream until it is stopped or the stream ends.

    `read` is called with a connection, also again after that broke, and yields what `each` gets; `ended` is called at
    the end of the stream, with the error if it ended with one. `lost` is called when the connection breaks.
    """

    def __init__(
        self,
        socket: str | None,
        tell: Tell,
        read: Callable[[Client], Iterator[Any]],
        each: Callable[[Any], object],
        *,
        lost: Callable[[StokerError], object],
        ended: Callable[[StokerError | None], object],
    ) -> None:
        self._client = new_client(socket)
        self._tell = tell
        self._read = read
        self._each = each
        self._lost = lost
        self._ended = ended
        self._stopped = threading.Event()
        self._thread = _reporting_thread(self._run, tell)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        _end(self._thread, self._client)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                for piece in self._read(self._client):
                    self._pass_on(self._each, piece)
            except OSError as error:
                self._pass_on(self._lost, DaemonUnreachable(f"the connection broke: {error.strerror}"))
            except StokerError as error:
                self._pass_on(self._lost if error.transient else self._ended, error)
                if not error.transient:
                    return
            else:
                self._pass_on(self._ended, None)
                return
            finally:
                self._client.close()
            self._stopped.wait(PAUSE_S)

    def _pass_on(self, callback: Callable[[Any], object], value: Any) -> None:
        if not self._stopped.is_set():
            self._tell(lambda: callback(value))


def _reporting_thread(run: Callable[[], object], tell: Tell) -> threading.Thread:
    """A thread whose bugs are raised in the thread of the screen, which then ends."""

    def call() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: the screen gets every exception
            bug = error
            tell(lambda: _raise(bug))

    return threading.Thread(target=call, name="stoker-top", daemon=True)


def _raise(error: Exception) -> None:
    raise error


def _end(thread: threading.Thread, client: Client) -> None:
    """Wait until the thread has noticed that it is to end, if it was started; what it waits for is broken off."""
    tries = 0
    while thread.is_alive() and tries < STOP_TRIES:
        client.hang_up()
        thread.join(STOP_TRY_S)
        tries += 1
