"""The server as a connection sees it: admission, the limits of all connections together, the way to the service.

Owns nothing: the server is the gate, and a connection knows no more of it than this.
"""

from __future__ import annotations

import socket
from typing import Protocol, TypeVar

from stoker.rpc.calls import Backend
from stoker.rpc.capacity import Capacity
from stoker.rpc.kept_bytes import Backlog
from stoker.rpc.peer import Peer

Connection_contra = TypeVar("Connection_contra", contravariant=True)


class Gate(Protocol[Connection_contra]):
    backend: Backend
    unread: Backlog
    capacity: Capacity
    frame_timeout_s: float

    def admit(self, connection: Connection_contra, sock: socket.socket) -> Peer: ...
    def note_received(self, connection: Connection_contra) -> None: ...
    def forget(self, connection: Connection_contra) -> None: ...
