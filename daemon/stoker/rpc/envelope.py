"""The envelope of a request: JSON-RPC 2.0's four fields.

Owns which method is meant and what its parameters are. Refuses positional parameters: a position says nothing to
whoever reads a log. An `id` is told even when the rest of its request is wrong, so that the error can be matched.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from stoker.core.errors import InvalidRequest, MethodNotFound
from stoker.core.requests import MAX_INT, MAX_SHOWN
from stoker.rpc.methods import METHODS
from stoker.rpc.schema import read_params
from stoker.rpc.table import Method

if TYPE_CHECKING:
    from stoker.rpc.frames import RequestId

MAX_ID_CHARS = 200
_FIELDS = frozenset({"jsonrpc", "id", "method", "params"})
_EXAMPLE = 'as in {"jsonrpc":"2.0","id":1,"method":"job.get","params":{"id":42}}'


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
