"""The socket between a daemon and a launcher: bytes in order, and the last bytes of each side readable after its death.

Owns both ends as product code sees them: an asyncio transport for the daemon's `Connection`, a socket for the
launcher's `Peer`. The world says when bytes are delivered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.process.connection import LauncherConnection


class Wire(asyncio.WriteTransport):
    """One connection. What one end wrote before it died can still be read at the other."""

    def __init__(self, fd: int, connection: LauncherConnection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.fd = fd
        self.to_launcher: deque[bytes] = deque()
        self.to_daemon: deque[bytes] = deque()
        self.daemon_end = True
        self.launcher_end = True
        self._connection = connection
        self._loop = loop
        self._told = False

    # --- the daemon's end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.daemon_end and self.launcher_end:
            self.to_launcher.append(bytes(data))

    def close(self) -> None:
        self.daemon_end = False
        self._tell_end()

    abort = close

    def cut(self) -> None:
        """The daemon died: its end reports nothing."""
        self.daemon_end = False
        self._told = True

    @property
    def news(self) -> bool:
        """Whether the daemon has something to read here, the end included."""
        return self.daemon_end and (bool(self.to_daemon) or not self.launcher_end)

    def deliver(self) -> None:
        """Deliver one frame, or the end of the connection, to the loop of the daemon."""
        if self.to_daemon:
            self._loop.call_soon(self._hand, self.to_daemon.popleft())
        else:
            self.daemon_end = False
            self._tell_end()

    def _hand(self, data: bytes) -> None:
        if self.daemon_end:
            self._connection.data_received(data)

    def _tell_end(self) -> None:
        if not self._told:
            self._told = True
            self._loop.call_soon(self._connection.connection_lost, None)

    # --- the launcher's end

    @property
    def words(self) -> bool:
        """Whether the launcher has something to read here, the end included."""
        return self.launcher_end and (bool(self.to_launcher) or not self.daemon_end)


class Socket:
    """The launcher's end, as `launcher.listener.Peer` uses a socket."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def has_hung_up(self) -> bool:
        return not self._wire.daemon_end

    def fileno(self) -> int:
        return self._wire.fd

    def recv(self, _size: int) -> bytes:
        if self._wire.to_launcher:
            return self._wire.to_launcher.popleft()
        if self._wire.daemon_end:
            raise BlockingIOError
        return b""

    def send(self, data: bytes) -> int:
        if not self._wire.daemon_end:
            raise BrokenPipeError
        if data:
            self._wire.to_daemon.append(bytes(data))
        return len(data)

    def shutdown(self, _how: int) -> None:
        """Called after a failed `send`, which here means that the daemon has hung up: `recv` finds the end."""

    def close(self) -> None:
        self._wire.launcher_end = False
