"""The packets of the spawner: a request of fixed size, for a launcher or only for the word on a user, and the answer.

Owns the bytes. The socket is SOCK_SEQPACKET, so the kernel keeps the bounds of packets, and a request holds numbers
only: no name, no path and no text of a client ever reaches the process that is root.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import NamedTuple

MAGIC = b"STK1"
CHECK_MAGIC = b"STKC"  # only whether the user could get a launcher now; it comes without a descriptor
REQUEST = struct.Struct(">4sIIQ4s8s")
ANSWER = struct.Struct(">BI")
MAX_ANSWER_BYTES = 16 * 1024
MAX_FDS = 16  # as many as could come with a packet are received, to be closed
MAX_OPEN_FILES = 1 << 20
MAX_EPOCH = (1 << 63) - 1
RECEIVE_FLAGS = 0x40000000 | socket.MSG_TRUNC  # MSG_CMSG_CLOEXEC, for which Python has no name

STARTED, MALFORMED, POLICY, FORBIDDEN, ACCOUNT, HOST = range(6)


class RefusedError(Exception):
    """The request is refused: `code` for the daemon, `words` for people."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words


class LaunchRequest(NamedTuple):
    """A launcher for `uid`. It writes a byte to `ready` when it listens; `open_files` is the limit of its workers.

    `ready` is None if only the word on the user is wanted.
    """

    uid: int
    open_files: int
    launcher: str
    instance: str
    ready: int | None


def parse(data: bytes, descriptors: list[int]) -> LaunchRequest:
    """Raises RefusedError for anything but a whole request, with the one descriptor that a launcher needs."""
    if len(data) != REQUEST.size:
        raise RefusedError(MALFORMED, f"a request of {len(data)} bytes; it has {REQUEST.size}")
    magic, uid, open_files, epoch, nonce, instance = REQUEST.unpack(data)
    if magic not in (MAGIC, CHECK_MAGIC):
        raise RefusedError(MALFORMED, f"a request that begins with {magic!r}; this spawner knows {MAGIC!r}")
    if not 1 <= open_files <= MAX_OPEN_FILES:
        raise RefusedError(MALFORMED, f"open_files {open_files}; it is 1 to {MAX_OPEN_FILES}")
    if epoch > MAX_EPOCH:
        raise RefusedError(MALFORMED, f"epoch {epoch}; it is at most {MAX_EPOCH}")
    takes = int(magic == MAGIC)
    if len(descriptors) != takes:
        raise RefusedError(MALFORMED, f"{len(descriptors)} descriptors with the request; it takes {takes}")
    ready = descriptors[0] if takes else None
    return LaunchRequest(uid, open_files, f"{epoch}-{nonce.hex()}-{uid}", instance.hex(), ready)


def receive(connection: socket.socket) -> LaunchRequest:
    """The next request. Raises RefusedError, and OSError if the daemon has gone; then no descriptor stays open."""
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    data, ancillary, _, _ = connection.recvmsg(REQUEST.size + 1, room, RECEIVE_FLAGS)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    try:
        return parse(data, list(descriptors))
    except RefusedError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def send(connection: socket.socket, code: int, words: str, number: int = 0) -> None:
    """Send an answer. A daemon that has gone misses it."""
    body = words.encode(errors="replace")[: MAX_ANSWER_BYTES - ANSWER.size]
    with contextlib.suppress(OSError):
        connection.send(ANSWER.pack(code, number) + body)
