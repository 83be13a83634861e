"""A frame as the server reads and writes it: msgspec for the usual ones, the strict reader for all others.

Owns the proof that the fast decoder and the strict one would agree. msgspec accepts four things that must not pass:
duplicate keys, `\\u0000`, strings over the limit, integers beyond 64 bits. The first three are ruled out here, without
reading the text in Python; integers and depth are bounded by the schema, as every field of it is.

Invariant: a frame is refused here, or by the schema, exactly if `wire.parse_strict` or the schema refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from stoker.rpc.wire import MAX_STRING_BYTES, parse_strict

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

if TYPE_CHECKING:
    from stoker.core.errors import StokerError

RequestId = int | str | None
_CONTAINERS = frozenset({dict, list})


class Answer(Struct, tag_field="jsonrpc", tag="2.0"):
    id: RequestId
    result: object


class FrameRefusal(Struct, tag_field="jsonrpc", tag="2.0"):
    id: RequestId
    error: dict[str, Any]


class Notification(Struct, tag_field="jsonrpc", tag="2.0"):
    method: str
    params: dict[str, Any]


def read_frame(raw: bytes) -> Any:
    """The value of one frame; ParseError with the path of what must not stand in one."""
    if b"\\u" in raw or (len(raw) > MAX_STRING_BYTES and not raw.isascii()):
        return parse_strict(raw)
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse_strict(raw)
    return value if _keys_are_unique(raw, value) else parse_strict(raw)


def _keys_are_unique(raw: bytes, value: Any) -> bool:
    """A doubled key leaves fewer keys decoded than the text has separators.

    Colons inside strings only add to the count and send the frame to the strict reader. Most do not even that: a
    separator stands behind a quote or white space, so others need not be counted.
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


def answer(request_id: RequestId, result: object) -> bytes:
    return _encode(Answer(request_id, result))


def refusal(request_id: RequestId, error: StokerError) -> bytes:
    return _encode(FrameRefusal(request_id, error.to_wire()))


def notification(method: str, params: dict[str, Any]) -> bytes:
    return _encode(Notification(method, params))


def likely_id(raw: bytes) -> RequestId:
    """The id of a request that was refused as a frame, where it can be told without doubt."""
    try:
        value = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    unambiguous = isinstance(value, dict) and raw.count(b'"id"') == 1
    found = value.get("id") if unambiguous else None
    return found if isinstance(found, (int, str)) and not isinstance(found, bool) else None
