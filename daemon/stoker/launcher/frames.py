"""Frames: u32 big-endian length, then a JSON array of messages in UTF-8.

Owns the bytes on the socket. Refuses frames above the limit and arrays of anything but objects with an `op`.
"""

from __future__ import annotations

import json
import struct
from typing import Any

Message = dict[str, Any]

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 16 * 1024 * 1024
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class BadFrameError(Exception):
    """The bytes are not a valid frame, so the bytes after them cannot be trusted."""


def pack(messages: list[Message]) -> bytes:
    body = _encode(messages).encode()
    return LENGTH.pack(len(body)) + body


def line(message: Message) -> bytes:
    """The message as a line of a file."""
    return _encode(message).encode() + b"\n"


def cut(unread: bytearray) -> list[Message]:
    """Remove every whole frame from the front; the rest stays."""
    messages: list[Message] = []
    start = 0
    while len(unread) - start >= LENGTH.size:
        (length,) = LENGTH.unpack_from(unread, start)
        if length > MAX_FRAME_BYTES:
            raise BadFrameError(f"a frame of {length} bytes")
        end = start + LENGTH.size + length
        if len(unread) < end:
            break
        messages += _parse(unread[start + LENGTH.size : end])
        start = end
    del unread[:start]
    return messages


def _parse(body: bytearray) -> list[Message]:
    try:
        messages = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise BadFrameError(f"not JSON: {error}") from error
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "op" in m for m in messages):
        raise BadFrameError("not an array of messages")
    return messages
