"""One socket to one launcher: frames out, frames in.

Owns the framing (u32 big-endian length, then a JSON array of messages) and the batching: messages that are sent in one
turn of the loop leave as one frame. `client.py` knows their meaning.

Invariants: a frame that is cut off by the end of the connection counts as never received; a frame that cannot be
decoded ends the connection, as the bytes after it cannot be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import msgspec

from stoker.foreign import DIRECTORY, PLACE
from stoker.process.messages import MAX_FRAME_BYTES, Answer, Ask

LENGTH = struct.Struct(">I")
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7))
DECODER = msgspec.json.Decoder(list[Answer])
ENCODER = msgspec.json.Encoder()
# Half of the limit of a launcher, so that one more message never makes a batch too large.
CUT_BYTES = MAX_FRAME_BYTES // 2
MAX_ASK_BYTES = MAX_FRAME_BYTES - len("[]")
# A launcher of our own user is trusted, and its answer to `list` grows with the number of its runs.
MAX_ANSWER_BYTES = 1 << 30
MAX_FOREIGN_ANSWER_BYTES = 64 << 20


class AskTooLarge(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes; a launcher takes {MAX_ASK_BYTES}")


def dial(state_dir: Path, launcher: str) -> socket.socket:
    """A connected socket. Raises OSError if no launcher listens.

    The address goes through a descriptor of the directory: it has at most 107 bytes, and the path may be longer.
    """
    with contextlib.ExitStack() as opened:
        directory = _open_directory(f"{state_dir}/launchers")
        opened.callback(os.close, directory)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{launcher}.sock")
            check_peer(sock, PLACE.owner_of(f"{state_dir}/"))
        except OSError:
            sock.close()
            raise
    return sock


def _open_directory(path: str) -> int:
    if PLACE.owner_of(path) is None:
        return os.open(path, DIRECTORY)
    return PLACE.open(path, DIRECTORY)


def check_peer(sock: socket.socket, uid: int | None) -> None:
    """Raises PermissionError if another user's launcher was expected and someone else listens: nothing was sent yet."""
    _, listening, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    if uid not in (None, listening):
        raise PermissionError(errno.EPERM, f"uid {listening} listens there, not uid {uid}")


def peer_pid(sock: socket.socket) -> int:
    """The pid of the listening process, from the kernel, before it has sent anything."""
    pid, _, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(pid)


class LauncherConnection(asyncio.Protocol):
    """Calls `received` for every frame, and `lost` once when the connection ends."""

    def __init__(
        self,
        received: Callable[[list[Answer]], None],
        lost: Callable[[], None],
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._received = received
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._unread = bytearray()
        self._unsent: list[bytes] = []
        self._flush_due = False
        self._loop = asyncio.get_running_loop()

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        try:
            for frame in self._frames():
                self._received(DECODER.decode(frame))
        except msgspec.DecodeError:
            self._abandon()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._lost()

    # --- what the client calls

    def send(self, ask: Ask) -> None:
        """Send it together with all other messages of this turn of the loop; after the end it is dropped.

        Raises AskTooLarge for a message at which the launcher would hang up.
        """
        message = ENCODER.encode(ask)
        if len(message) > MAX_ASK_BYTES:
            raise AskTooLarge(len(message))
        self._unsent.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()

    # --- inside

    def _frames(self) -> list[bytes]:
        frames = []
        start = 0
        while len(self._unread) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._unread, start)
            if length > self._max_answer_bytes:
                self._abandon()
                break
            end = start + LENGTH.size + length
            if len(self._unread) < end:
                break
            frames.append(bytes(self._unread[start + LENGTH.size : end]))
            start = end
        del self._unread[:start]
        return frames

    def _abandon(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._flush_due = False
        messages, self._unsent = self._unsent, []
        if self._transport is None:
            return
        for batch in _cut(messages):
            body = b",".join(batch)
            self._transport.write(b"%b[%b]" % (LENGTH.pack(len(body) + 2), body))


def _cut(messages: list[bytes]) -> Iterator[list[bytes]]:
    """Cut messages into batches that fit a frame; nearly always one."""
    batch: list[bytes] = []
    size = 0
    for message in messages:
        if batch and size + len(message) > CUT_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message) + 1
    if batch:
        yield batch
