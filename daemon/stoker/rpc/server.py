"""The server: a listening socket, its connections, and their admission.

Owns admission and the orderly end. peer.py reads who a peer is, core/access.py says what it may. capacity.py limits the
connections per user and in total, below the limit of open files, so that clients cannot use up the daemon's own
descriptors. address.py or systemd binds the socket.

Invariants: only those whom [access] allows are served, also after a reload; a refused client gets one line with the
reason; `stop` may be called at any time, also twice or before `start`, and returns when no connection is left.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from itertools import count

from stoker.background.tasks import BackgroundTasks
from stoker.core.access import AccessRules
from stoker.core.errors import PermissionDenied, StokerError
from stoker.rpc.calls import Backend
from stoker.rpc.capacity import RESERVE, Capacity
from stoker.rpc.connection import ClientConnection
from stoker.rpc.kept_bytes import (
    MAX_UNFINISHED_BYTES,
    MAX_UNREAD_BYTES,
    MAX_WAITING_BYTES,
    UNFINISHED,
    UNREAD,
    WAITING,
    Backlog,
)
from stoker.rpc.listener import ClientListener
from stoker.rpc.peer import Peer, peer_of
from stoker.rpc.round_robin import Watched
from stoker.service.service import Service
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

STOP_S = 2.0
REFUSAL_LINE_S = 1.0
WHO_MAY = "[access] of its settings says who may; a new member of a group logs in again, and then it counts"
WHO_IS_IT = "the kernel shows this uid for users that it cannot name here, so it has no rights: use another account"


class Server:
    def __init__(
        self,
        service: Service,
        listener: socket.socket,
        background: BackgroundTasks,
        *,
        access: AccessRules | None = None,
        max_connections: int = 8192,
        max_connections_per_uid: int = 4096,
        frame_timeout_ms: int = 10_000,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        max_unfinished_bytes: int = MAX_UNFINISHED_BYTES,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        watched: Watched = lambda callback: callback,
    ) -> None:
        self.access = access or AccessRules(own_uid=os.geteuid())
        self.frame_timeout_s = frame_timeout_ms / 1000
        self.capacity = Capacity(min(max_connections, _affordable_connections()), max_connections_per_uid)
        self.backend = Backend(service, self.capacity.most, watched)
        self.unread = Backlog(UNREAD, max_unread_bytes)
        self.unfinished = Backlog(UNFINISHED, max_unfinished_bytes)
        self.waiting = Backlog(WAITING, max_waiting_bytes)
        self._background = background
        self._listener = self._listener_on(listener)
        self._connections: dict[ClientConnection, Peer] = {}
        self._numbers = count(1)
        self._refusals = 0
        self._next_refusal_line = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self) -> None:
        self._listener.start()

    async def move(self, listener: socket.socket) -> None:
        """Accept on another socket from now on; open connections go on."""
        former, self._listener = self._listener, self._listener_on(listener)
        self._listener.start()
        await former.close()

    def _listener_on(self, listener: socket.socket) -> ClientListener:
        return ClientListener(listener, lambda: ClientConnection(self), self._background)

    async def stop(self) -> None:
        """Answer the open requests and close, within `STOP_S`. Streams and waits end at once."""
        await self._listener.close()
        for connection in list(self._connections):
            connection.leave()
        try:
            await asyncio.wait_for(self._empty.wait(), STOP_S)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._empty.wait()
        for thread in self.backend.frame_threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    def use(self, access: AccessRules) -> None:
        """Other rules from now on. An open connection that they give fewer rights ends; more come with a new one."""
        self.access = access
        for connection, peer in list(self._connections.items()):
            role = access.role_of(peer.uid, peer.gids)
            if role is None or role < peer.role:
                now = "may not use this daemon any more" if role is None else f"is {role.word} now"
                connection.refuse_waiting(PermissionDenied(f"uid {peer.uid} {now}", hint=WHO_MAY))

    @property
    def connections(self) -> int:
        return len(self._connections)

    def admit(self, connection: ClientConnection, sock: socket.socket) -> Peer:
        """The peer of a new connection. Raises StokerError if it is refused."""
        peer = peer_of(sock, next(self._numbers))
        try:
            role = self.access.role_of(peer.uid, peer.gids)
            if role is None:
                hint = WHO_IS_IT if peer.uid == self.access.overflow_uid else WHO_MAY
                raise PermissionDenied(f"uid {peer.uid} may not use this daemon", hint=hint)
            peer = peer._replace(role=role)
            connection.ordinary = self.capacity.enter(peer.uid)
        except StokerError as error:
            self._log_refusal(peer, error)
            raise
        self._connections[connection] = peer
        self._empty.clear()
        return peer

    def note_received(self, connection: ClientConnection) -> None:
        """Count what it has sent and has not begun. May end a connection."""
        self.unfinished.note(connection)
        self.waiting.note(connection)

    def forget(self, connection: ClientConnection) -> None:
        peer = self._connections.pop(connection)
        self.unread.forget(connection)
        self.unfinished.forget(connection)
        self.waiting.forget(connection)
        self.capacity.leave(peer.uid, ordinary=connection.ordinary)
        self.backend.service.hung_up(peer.connection)
        if not self._connections:
            self._empty.set()

    def _log_refusal(self, peer: Peer, error: StokerError) -> None:
        """Log at most one line per second, so that a client that keeps trying cannot fill the log."""
        self._refusals += 1
        now = asyncio.get_running_loop().time()
        if now >= self._next_refusal_line:
            log(LogEvent.CLIENT_REFUSED, uid=peer.uid, pid=peer.pid, error=error, refused=self._refusals)
            self._next_refusal_line = now + REFUSAL_LINE_S
            self._refusals = 0


def _affordable_connections() -> int:
    """Half of the files that this process may open: logs, databases, launchers and pidfds need the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // 2 - RESERVE)
