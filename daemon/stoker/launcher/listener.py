"""The listening socket, and the connections of daemons.

Refuses peers but the daemon's user and root. Never blocks: frames that a peer does not take wait in a buffer, which is
bounded by the outcomes that are not yet acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct

from . import frames

BACKLOG = 16
READ_BYTES = 64 * 1024  # above 128 KiB malloc would map and unmap pages for each read
# Much more than a socket buffer holds: only a peer that is still sending reaches it, and is disconnected.
READS_TO_END = 256
CREDENTIALS = struct.Struct("iII")


def listen(directory: int, name: str) -> socket.socket:
    """A socket for our user, and for our group unless the umask denies it.

    It is bound through a descriptor of its directory, as an address has at most 107 bytes.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    os.fchmod(listener.fileno(), 0o660)
    listener.bind(f"/proc/self/fd/{directory}/{name}")
    listener.listen(BACKLOG)
    return listener


def accept(listener: socket.socket, daemon_uid: int) -> DaemonPeer | None:
    """The next connection, if it is from the daemon's user or root.

    Raises OSError where the host lacks what it takes.
    """
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):  # the peer has gone again
        return None
    sock.setblocking(False)  # noqa: FBT003
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _pid, uid, _gid = CREDENTIALS.unpack(raw)
    if uid not in {0, daemon_uid}:
        sock.close()
        return None
    return DaemonPeer(sock)


def has_hung_up(sock: socket.socket) -> bool:
    """Whether the other end is closed; bytes that it sent before may still be unread. Raises OSError."""
    poll = select.poll()
    poll.register(sock, 0)  # a hang-up is always reported
    return bool(poll.poll(0))


class DaemonPeer:
    """One connection. `open` is False once either side has closed it.

    `abandoned`: its daemon has hung up or was replaced by a newer one; messages of it may still be unread.
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
        """Whether bytes wait for the peer to read."""
        return bool(self._unsent)

    def check_abandoned(self) -> None:
        """Note whether its daemon has hung up: this process may have been stopped for hours since its last wait."""
        if self.open and not self.abandoned:
            with contextlib.suppress(OSError):  # the kernel lacks memory: the next wait reports the hang-up
                self.abandoned = has_hung_up(self._sock)

    def read(self) -> list[frames.Message]:
        """The whole messages received so far; one read only, so that no peer can keep us here."""
        data = self._receive()
        if data is None:
            return []
        if not data:
            self.close()
        self._unread += data
        return frames.cut(self._unread)

    def read_to_end(self) -> list[frames.Message]:
        """All messages that it has sent, also if it is dead by now; then close."""
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
        """Send as much as the socket takes now."""
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # the daemon has gone, or the kernel lacks memory: ENOBUFS, ENOMEM
            self._unsent.clear()
            self._end()
            return
        del self._unsent[:sent]

    def close(self) -> None:
        self.open = False
        self._sock.close()

    def _end(self) -> None:
        """A frame was lost, so the daemon must connect again and ask for all runs.

        The next read finds the end, after the messages that the peer sent before it.
        """
        with contextlib.suppress(OSError):  # the peer has closed it already
            self._sock.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> bytes | None:
        """b"" at the end, None if there is nothing now."""
        try:
            return self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
