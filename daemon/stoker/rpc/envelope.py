"""The requests in a frame: JSON-RPC 2.0's envelope, alone or in an array.

Owns which method is meant and what its parameters are. Refuses positional parameters: a position says nothing to
whoever reads a log. An `id` is told even when the rest of its request is wrong, so that the error can be matched.
`requests_in` knows neither service nor connection and gives one request at a time, so that whoever reads a long frame
can stop between two of them, or read it in a thread.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from stoker.core.errors import InvalidRequest, MethodNotFound, ParseError, StokerError
from stoker.core.requests import MAX_INT, MAX_SHOWN
from stoker.rpc.frames import likely_id, read_frame
from stoker.rpc.methods import METHODS
from stoker.rpc.schema import read_params
from stoker.rpc.table import Method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.rpc.frames import RequestId

MAX_BATCH = 1024
MAX_BATCH_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ID_CHARS = 200
_FIELDS = frozenset({"jsonrpc", "id", "method", "params"})
_EXAMPLE = 'as in {"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":42}}'


class RequestBatch:
    """The answers of one array, sent together when the last is there."""

    __slots__ = ("_bytes", "_frames", "_open")

    def __init__(self, requests: int) -> None:
        self._open = requests
        self._frames: list[bytes] = []
        self._bytes = 0

    def takes(self, frame: bytes) -> bool:
        """Whether a large answer still fits."""
        return self._bytes + len(frame) <= MAX_BATCH_ANSWER_BYTES

    def put(self, frame: bytes | None) -> bytes | None:
        """Add an answer (None: nothing to say); gives the array when it was the last one and there is any."""
        self._open -= 1
        if frame is not None:
            self._frames.append(frame)
            self._bytes += len(frame)
        return b"[%b]" % b",".join(self._frames) if self._frames and not self._open else None


class Request:
    """What is asked for, or what is wrong with it, and where the answer goes. `size`: its share of the frame."""

    __slots__ = ("batch", "error", "id", "method", "name", "params", "size")

    def __init__(self, request_id: RequestId | UnsetType, size: int, batch: RequestBatch | None = None) -> None:
        self.id = request_id
        self.size = size
        self.batch = batch
        self.name = "?"
        self.method: Method[Any]
        self.params: Any = None
        self.error: Exception | None = None


def requests_in(raw: bytes) -> Iterator[Request]:
    """The requests of one frame, in order, each read as far as it can be without asking the engine."""
    try:
        value = read_frame(raw)
    except ParseError as error:
        yield _refused(likely_id(raw), error, len(raw))
        return
    if type(value) is not list:
        yield _request(value, len(raw), None)
    elif 0 < len(value) <= MAX_BATCH:
        batch = RequestBatch(len(value))
        for each in value:
            yield _request(each, len(raw) // len(value), batch)
    else:
        told = f"a batch of {len(value)} requests; 1 to {MAX_BATCH} are allowed"
        yield _refused(None, InvalidRequest(told, hint="split it"), len(raw))


def _refused(request_id: RequestId, error: StokerError, size: int) -> Request:
    request = Request(request_id, size)
    request.error = error
    return request


def _request(value: Any, size: int, batch: RequestBatch | None) -> Request:
    request = Request(id_of(value), size, batch)
    try:
        request.name, request.method, request.params = read_call(value)
        if request.method.reader:
            request.params = request.method.reader(request.params)
    except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
        request.error = error
    return request


def id_of(value: Any) -> RequestId | UnsetType:
    """The id to answer to; UNSET for a notification, None where it cannot be used."""
    if type(value) is not dict:
        return None
    request_id = value.get("id", UNSET)
    return request_id if request_id is UNSET or _is_id(request_id) else None


def _is_id(value: Any) -> bool:
    if type(value) is int:
        return -MAX_INT <= value <= MAX_INT
    return value is None or (type(value) is str and len(value) <= MAX_ID_CHARS)


def read_call(value: Any) -> tuple[str, Method[Any], Any]:
    """Name, row and parameters of a request. Raises InvalidRequest, MethodNotFound or InvalidParams."""
    if type(value) is not dict:
        raise InvalidRequest("a request is an object", hint=_EXAMPLE)
    name = value.get("method")
    if value.get("jsonrpc") != "2.0" or type(name) is not str or not value.keys() <= _FIELDS:
        raise _malformed(value)
    if not _is_id(value.get("id")):
        raise InvalidRequest(f"id: an integer of 64 bits or a string of at most {MAX_ID_CHARS} characters", path="id")
    method = METHODS.get(name)
    if method is None:
        raise _unknown(name)
    return name, method, read_params(value.get("params", {}), method.params)


def _malformed(value: dict[str, Any]) -> InvalidRequest:
    unknown = next((field for field in value if field not in _FIELDS), None)
    if unknown is not None:
        path = unknown[:MAX_SHOWN]
        return InvalidRequest(f"{path}: no field of a request", hint=f"known: {', '.join(sorted(_FIELDS))}", path=path)
    if value.get("jsonrpc") != "2.0":
        return InvalidRequest('jsonrpc: must be "2.0"', hint=_EXAMPLE, path="jsonrpc")
    return InvalidRequest("method: the name of a method, as a string", hint=_EXAMPLE, path="method")


def _unknown(name: str) -> MethodNotFound:
    near = difflib.get_close_matches(name[:MAX_SHOWN], METHODS, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(METHODS)}"
    return MethodNotFound(f"method: there is no {name[:MAX_SHOWN]}", hint=hint, path="method")
