"""One connection to the daemon: requests and answers, streams, and the errors of a broken connection.

Owns the exchange for `rpc.client`. After a lost answer a request that may be sent twice is sent once more, others are
not. A connection is not thread-safe: give each thread its own. It imports few modules of the standard library and no
others, because every shell command pays for the imports.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from errno import EACCES, EPERM

from stoker.core import errors
from stoker.core.errors import DaemonUnreachable, NoAnswer, PermissionDenied, StokerError, TooManyConnections
from stoker.rpc import wire

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedReader
    from typing import Any, Self

PATIENCE_S = 120.0
AT_ONCE = 500  # requests in one frame; the daemon takes 1 024 ...
FRAME_BYTES = wire.MAX_FRAME_BYTES - 2 * 1024  # ... and so many bytes, with the commas between them
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
START_HINT = (
    "start `stokerd` (the service: `systemctl start stoker`), or name its socket with --socket or STOKER_SOCKET"
)


class Conversation:
    """A connection to the daemon. It is opened by the first call.

    `socket_path` defaults to STOKER_SOCKET or the user's daemon; `timeout_s` limits each answer, except that of a wait.
    Every method raises the StokerError that the daemon answered, or DaemonUnreachable.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None, *, timeout_s: float | None = 30.0) -> None:
        self.socket_path = default_path() if socket_path is None else os.fspath(socket_path)
        self.timeout_s = timeout_s
        self.patience_s = PATIENCE_S if timeout_s is None else timeout_s  # while the daemon has no connection free
        self._socket: socket.socket | None = None
        self._reader: BufferedReader
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        if self._socket:
            self._reader.close()
            self._socket.close()
            self._socket = None

    def hang_up(self) -> None:
        """End what waits for the daemon here, from another thread: it fails as if the connection had broken."""
        connected = self._socket
        if connected is not None:
            try:  # noqa: SIM105 - the hot path of the client does without contextlib
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has broken, or was closed meanwhile

    def call(self, method: str, params: object = None, *, again: bool = False, patient: bool = False) -> Any:
        """The result of `method`. `again`: send it once more if the answer is lost; `patient`: no time limit."""
        self._last_id += 1
        frame = wire.encode(_request(self._last_id, method, params or {}))
        return self._ask(frame, None if patient else self.timeout_s, again=again)

    def call_each(self, method: str, params: Iterable[object], *, again: bool = False) -> Iterator[Any]:
        """The result of `method` for each of these parameters, in their order, or the error that it failed with.

        Few frames carry them, so that the daemon takes many of them in one turn.
        """
        for frame in _frames(method, params):
            answers = self._ask(frame, self.timeout_s, again=again)
            for answer in sorted(answers, key=lambda answer: int(answer["id"])):
                yield error_of(answer["error"]) if "error" in answer else answer["result"]

    def _ask(self, frame: bytes, timeout_s: float | None, *, again: bool) -> Any:
        reused = self._socket is not None
        try:
            return self._send_until_admitted(frame, timeout_s)
        except _Lost as lost:
            # If the connection broke between two calls, the daemon never saw the request.
            if not (again or (reused and not lost.perhaps_done)):
                raise
            perhaps = lost.perhaps_done
        try:
            return self._send_until_admitted(frame, timeout_s)
        except StokerError as failure:
            failure.perhaps_done |= perhaps
            raise

    def _send_until_admitted(self, frame: bytes, timeout_s: float | None) -> Any:
        """Exchange, and try again while the daemon has no connection free: it has not read the request then."""
        give_up = time.monotonic() + self.patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._exchange(frame, timeout_s)
            except TooManyConnections:
                self.close()
                if time.monotonic() + pause_s > give_up:
                    raise
            # Jitter, so that clients that were refused together do not return together.
            time.sleep(pause_s * (0.5 + os.urandom(1)[0] / 256))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def stream(self, method: str, params: object = None) -> Iterator[Any]:
        """The notifications of a streaming method, over its own connection. Closing the iterator ends the stream."""
        connection = Conversation(self.socket_path, timeout_s=self.timeout_s)
        connection.patience_s = self.patience_s
        try:
            number = connection.call(method, params)["stream"]
        except BaseException:
            connection.close()
            raise
        notifications = connection._notifications(number)
        next(notifications)  # a generator that has begun closes its connection when it is dropped
        return notifications

    def follow(self, method: str, params: object = None) -> Iterator[Any]:
        """The notifications of a streaming method, over this connection; it can serve no other call until they end."""
        number = self.call(method, params)["stream"]
        ended = False
        try:
            if self._socket:
                self._socket.settimeout(None)
            while not (ended := bool((params := self._notification(number)).get("end"))):
                yield params
        finally:
            if not ended:
                self.close()

    def _read(self, method: str, **params: Any) -> Any:
        """The result of a method that changes nothing, so that it may be sent twice."""
        return self.call(method, params, again=True)

    def _exchange(self, frame: bytes, timeout_s: float | None) -> Any:
        """Send one frame and wait for its answer, a list if it has several requests.

        The connection is closed unless an answer came.
        """
        answered = False
        try:
            connected = self._socket or self._connect()
            connected.settimeout(timeout_s)
            refused = self._send(connected, frame)
            answer = refused or self._answer(self._last_id)
            answered = refused is None and (isinstance(answer, list) or answer["id"] is not None)
        except TimeoutError:
            failure = NoAnswer(f"no answer within {timeout_s:g} s", hint="try again; see `stoker status`")
            failure.perhaps_done = True
            raise failure from None
        except OSError as error:
            raise _Lost(f"the connection broke: {error.strerror}", sent=True) from error
        finally:
            if not answered:
                self.close()
        if isinstance(answer, list):
            return answer
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["result"]

    def _connect(self) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX)
        try:
            if self.timeout_s is not None:  # if a daemon hangs, its backlog may be full and connect blocks
                limit = struct.pack("ll", int(self.timeout_s), int(self.timeout_s % 1 * 1_000_000))
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connecting.connect(self.socket_path)
        except OSError as error:
            connecting.close()
            raise unreachable(self.socket_path, error) from error
        try:
            check_server(connecting, self.socket_path)
            self._reader = connecting.makefile("rb")
        except BaseException:
            connecting.close()
            raise
        self._socket = connecting  # last: Ctrl-C may come between any two lines, and `close` needs both
        return connecting

    def _send(self, connected: socket.socket, frame: bytes) -> dict[str, Any] | None:
        """None once sent; else the refusal that the daemon sent before it hung up, such as too many connections."""
        try:
            connected.sendall(frame)
        except ConnectionError:
            refusal = self._refusal()
            if refusal is None:
                raise _Lost("the daemon closed the connection", sent=False) from None
            return refusal
        return None

    def _refusal(self) -> dict[str, Any] | None:
        try:
            return self._next()
        except (ConnectionError, _Lost):
            return None

    def _answer(self, request_id: int) -> Any:
        """The answer to our frame, or an error without an id, which is about the connection itself."""
        while True:
            message: Any = self._next()
            if isinstance(message, list) or ("method" not in message and message.get("id") in {request_id, None}):
                return message

    def _next(self) -> dict[str, Any]:
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise _Lost("the daemon closed the connection", sent=True)
        message: dict[str, Any] = json.loads(line)
        return message

    def _notifications(self, number: int) -> Iterator[dict[str, Any]]:
        with self:
            if self._socket:
                self._socket.settimeout(None)
            yield {}
            while not (params := self._notification(number)).get("end"):
                yield params

    def _notification(self, number: int) -> dict[str, Any]:
        """The next notification of a stream. Raises the error that ended the stream."""
        while True:
            params: dict[str, Any] = self._next().get("params", {})
            if params.get("stream") == number:
                if params.get("error"):
                    raise error_of(params["error"])
                return params


class _Lost(DaemonUnreachable):
    """The connection broke before the answer came. `sent`: the daemon may have read the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message, hint="the daemon stopped or restarted: ask again, or see its log")
        self.perhaps_done = sent


def _request(ident: int, method: str, params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def _frames(method: str, params: Iterable[object]) -> Iterator[bytes]:
    """The requests, numbered, in frames that the daemon takes."""
    part: list[bytes] = []
    for ident, one in enumerate(params):
        request = wire.encode(_request(ident, method, one)).rstrip()
        if part and (len(part) == AT_ONCE or sum(map(len, part)) + len(request) > FRAME_BYTES):
            yield b"[%b]\n" % b",".join(part)
            part = []
        part.append(request)
    if part:
        yield b"[%b]\n" % b",".join(part)


def default_path() -> str:
    from stoker.paths import first_within_reach, socket_paths  # noqa: PLC0415 - not for a job, which has STOKER_SOCKET

    return first_within_reach(socket_paths(None, os.environ, os.getuid()), os.path.exists)


def check_server(connected: socket.socket, path: str) -> None:
    """Raises PermissionDenied unless the server is root, this user, or the owner of the socket's directory.

    Without this another user could listen at a path in /tmp, and get the commands that are submitted there.
    """
    _, uid, _ = struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in (0, os.geteuid()):
        return
    owner = os.stat(os.path.dirname(path) or ".").st_uid  # noqa: PTH116, PTH120 - pathlib is slow to load
    if uid != owner:
        raise PermissionDenied(
            f"{path} is served by uid {uid}, which is neither root, nor you, nor the owner of its directory ({owner})",
            hint="name the socket of a daemon that you trust with --socket or STOKER_SOCKET",
        )


def error_of(answer: dict[str, Any]) -> StokerError:
    """The error that the daemon raised, found by its code; a plain StokerError for a code of a newer daemon."""
    details = dict(answer.get("data", {}))
    code, hint = details.pop("code", "internal"), details.pop("hint", None)
    transient = details.pop("transient", False)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, StokerError) and kind.code == code:
            return kind(answer["message"], hint=hint, **details)
    return StokerError(answer["message"], hint=hint, code=code, transient=transient, **details)


def unreachable(path: str, error: OSError) -> StokerError:
    if error.errno in {EACCES, EPERM}:
        return PermissionDenied(f"{path}: {error.strerror}", hint="run as the daemon's user or as root")
    if isinstance(error, BlockingIOError):
        return NoAnswer(f"{path}: too many clients wait for a connection", hint="try again; see `stoker status`")
    if error.errno is None:  # Python itself refuses a path that is too long
        from stoker.paths import check_length  # noqa: PLC0415 - as in `_default_path`

        check_length(path)
    return DaemonUnreachable(f"no daemon answers at {path} ({error.strerror or error})", hint=START_HINT)
