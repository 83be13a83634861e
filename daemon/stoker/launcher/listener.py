"""The socket: who may come in, and what comes and goes on each connection.

Owns the listener and every accepted connection. Refuses peers of another user. Never blocks: what a peer
does not take stays in its buffer, bounded by what the launcher holds to say (unacknowledged outcomes).
"""

from __future__ import annotations

import os
import socket
import struct

from . import frames

BACKLOG = 16
READ_BYTES = 64 * 1024  # above 128 KiB malloc would map and unmap pages for each
# More than a socket buffer can hold many times over: only a sender that is still sending gets cut off.
READS_TO_END = 256
CREDENTIALS = struct.Struct("iII")


def listen(directory: int, name: str) -> socket.socket:
    """Bound through the directory's descriptor (an address holds 107 bytes), private before it is visible."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    os.fchmod(listener.fileno(), 0o600)
    listener.bind(f"/proc/self/fd/{directory}/{name}")
    listener.listen(BACKLOG)
    return listener


def accept(listener: socket.socket) -> DaemonPeer | None:
    """The next connection, if it is from our own user or root."""
    try:
        sock, _ = listener.accept()
    except OSError:  # nobody after all, gone again, or no descriptor left: whoever waits stays in the backlog
        return None
    sock.setblocking(False)  # noqa: FBT003
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _pid, uid, _gid = CREDENTIALS.unpack(raw)
    if uid not in {0, os.geteuid()}:
        sock.close()
        return None
    return DaemonPeer(sock)


class DaemonPeer:
    """One connection. `open` turns False at its end, whichever side caused it; then nothing of it is left.

    `abandoned`: its daemon has hung up, or a newer one has taken its place, while words of it may still be unread.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.open = True
        self.greeted = False
        self.abandoned = False
        self.fd = sock.fileno()
        self._sock = sock
        self._unread = bytearray()
        self._unsent = bytearray()

    @property
    def blocked(self) -> bool:
        """Something waits for the peer to read."""
        return bool(self._unsent)

    def read(self) -> list[frames.Message]:
        """What has come whole; one read, so that nobody can keep us here."""
        data = self._receive()
        if data is None:
            return []
        if not data:
            self.close()
        self._unread += data
        return frames.cut(self._unread)

    def read_to_end(self) -> list[frames.Message]:
        """Everything it sent so far, also when its sender is dead; then it is closed."""
        for _ in range(READS_TO_END):
            data = self._receive()
            if not data:
                break
            self._unread += data
        self.close()
        return frames.cut(self._unread)

    def send(self, frame: bytes) -> None:
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        """Hands over what the socket takes now."""
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
            return  # the reading side will find the end, after what the peer said before it
        del self._unsent[:sent]

    def close(self) -> None:
        self.open = False
        self._sock.close()

    def _receive(self) -> bytes | None:
        """b"" at the end, None when there is nothing now."""
        try:
            return self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
