"""JSON-RPC 2.0 frames: reads the requests of a frame and writes the frames of answers.

Owns `requests_in`, which finds the method and the parameters of each request. Positional parameters are refused,
because a reader of a log could not tell them apart. Reading needs neither service nor connection and gives one request
at a time: it can stop between two requests or run in a thread.

msgspec reads a frame about three times as fast as wire.parse_strict, but accepts duplicate keys, NUL, strings over the
limit and integers beyond 64 bits. `read_frame` detects the first three cheaply and turns to the strict reader; the
schema bounds integers and depth. Invariant: read_frame with the schema refuses exactly what parse_strict refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from stoker.core.command_limits import MAX_SHOWN
from stoker.core.errors import InvalidRequest, MethodNotFound, ParseError, StokerError
from stoker.core.requests import MAX_INT
from stoker.core.similar_names import did_you_mean
from stoker.rpc.methods import METHODS
from stoker.rpc.schema import read_params
from stoker.rpc.table import Method
from stoker.rpc.wire import MAX_STRING_BYTES, parse_strict

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

RequestId = int | str | None
_CONTAINERS = frozenset({dict, list})
MAX_BATCH = 1024
MAX_BATCH_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ID_CHARS = 200
_FIELDS = frozenset({"jsonrpc", "id", "method", "params"})
_EXAMPLE = 'as in {"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":42}}'


class RequestBatch:
    """The answers to the requests of one array. They are sent together once the last is complete.

    `full`: a large answer did not fit, so no further one is made.
    """

    __slots__ = ("_bytes", "_frames", "_open", "full")

    def __init__(self, requests: int) -> None:
        self._open = requests
        self._frames: list[bytes] = []
        self._bytes = 0
        self.full = False

    def takes(self, frame: bytes) -> bool:
        self.full = self.full or self._bytes + len(frame) > MAX_BATCH_ANSWER_BYTES
        return not self.full

    def put(self, frame: bytes | None) -> bytes | None:
        """Add an answer (None for a notification). Returns the whole array after the last one, unless it is empty."""
        self._open -= 1
        if frame is not None:
            self._frames.append(frame)
            self._bytes += len(frame)
        return b"[%b]" % b",".join(self._frames) if self._frames and not self._open else None


class Request:
    """One request, valid or with its error, and the batch its answer joins. `size`: its share of the frame's bytes."""

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
    """The requests of one frame, in order, validated as far as possible without the engine."""
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
        message = f"a batch of {len(value)} requests; 1 to {MAX_BATCH} are allowed"
        yield _refused(None, InvalidRequest(message, hint="split it"), len(raw))


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
    except StokerError as error:
        request.error = error.as_value()
    except Exception as error:  # noqa: BLE001 - the boundary: the client gets an answer, whatever happened
        request.error = error
    return request


def id_of(value: Any) -> RequestId | UnsetType:
    """The id of a request; UNSET for a notification, None for an id that cannot be used."""
    if type(value) is not dict:
        return None
    request_id = value.get("id", UNSET)
    return request_id if request_id is UNSET or _is_id(request_id) else None


def _is_id(value: Any) -> bool:
    if type(value) is int:
        return -MAX_INT <= value <= MAX_INT
    return value is None or (type(value) is str and len(value) <= MAX_ID_CHARS)


def read_call(value: Any) -> tuple[str, Method[Any], Any]:
    """Method name, row of the table and parameters. Raises InvalidRequest, MethodNotFound or InvalidParams."""
    if type(value) is not dict:
        raise InvalidRequest("a request must be an object", hint=_EXAMPLE)
    name = value.get("method")
    if value.get("jsonrpc") != "2.0" or type(name) is not str or not value.keys() <= _FIELDS:
        raise _malformed(value)
    if not _is_id(value.get("id")):
        raise InvalidRequest(
            f"id: must be an integer of 64 bits or a string of at most {MAX_ID_CHARS} characters", path="id"
        )
    method = METHODS.get(name)
    if method is None:
        raise _unknown(name)
    return name, method, read_params(value.get("params", {}), method.params)


def _malformed(value: dict[str, Any]) -> InvalidRequest:
    unknown = next((field for field in value if field not in _FIELDS), None)
    if unknown is not None:
        path = unknown[:MAX_SHOWN]
        return InvalidRequest(
            f"{path}: no such field in a request", hint=f"known: {', '.join(sorted(_FIELDS))}", path=path
        )
    if value.get("jsonrpc") != "2.0":
        return InvalidRequest('jsonrpc: must be "2.0"', hint=_EXAMPLE, path="jsonrpc")
    return InvalidRequest("method: must be the name of a method, as a string", hint=_EXAMPLE, path="method")


def _unknown(name: str) -> MethodNotFound:
    hint = did_you_mean(name[:MAX_SHOWN], METHODS) or f"known: {', '.join(METHODS)}"
    return MethodNotFound(f"method: there is no {name[:MAX_SHOWN]}", hint=hint, path="method")


# --- bytes ---


def read_frame(raw: bytes) -> Any:
    """The value of one frame. Raises ParseError with the path of the fault."""
    if b"\\u" in raw or (len(raw) > MAX_STRING_BYTES and not raw.isascii()):
        return parse_strict(raw)
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse_strict(raw)
    return value if _keys_are_unique(raw, value) else parse_strict(raw)


def _keys_are_unique(raw: bytes, value: Any) -> bool:
    """Compare the decoded keys with the colons of the text: a duplicate key leaves fewer keys than colons.

    A colon inside a string only sends the frame to the strict reader. The second count avoids most of these: it counts
    only colons behind a quote or white space, where the separators stand.
    """
    keys = _count_keys(value)
    if raw.count(b":") == keys:
        return True
    return raw.count(b'":') + raw.count(b" :") + raw.count(b"\t:") + raw.count(b"\r:") == keys


def _count_keys(value: Any) -> int:
    keys = 0
    containers = [value] if type(value) in _CONTAINERS else []
    for container in containers:  # grows while it is walked
        if type(container) is dict:
            keys += len(container)
            container = container.values()  # noqa: PLW2901 - in the hot path of every request
        containers += [item for item in container if type(item) in _CONTAINERS]
    return keys


def likely_id(raw: bytes) -> RequestId:
    """The id in a frame that was refused, if it is unambiguous: the client can then match the error."""
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    unambiguous = isinstance(value, dict) and raw.count(b'"id"') == 1
    request_id = value.get("id") if unambiguous else None
    return request_id if isinstance(request_id, (int, str)) and not isinstance(request_id, bool) else None


class Answer(Struct, tag_field="jsonrpc", tag="2.0"):
    id: RequestId
    result: object


class FrameRefusal(Struct, tag_field="jsonrpc", tag="2.0"):
    id: RequestId
    error: dict[str, Any]


class Notification(Struct, tag_field="jsonrpc", tag="2.0"):
    method: str
    params: dict[str, Any]


def answer(request_id: RequestId, result: object) -> bytes:
    return _encode(Answer(request_id, result))


def refusal(request_id: RequestId, error: StokerError) -> bytes:
    return _encode(FrameRefusal(request_id, error.to_wire()))


def notification(method: str, params: dict[str, Any]) -> bytes:
    return _encode(Notification(method, params))
