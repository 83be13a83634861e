"""The way in for clients: the socket's path, the server on it, and who may use it.

Owns the order of their start and end, and the use of new settings for all of them. The socket is one of our own, or one
that systemd holds: its mode and its directory are set in its unit then, so they are only looked at.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoker.background.tasks import BackgroundTasks
from stoker.config.access_section import AccessSettings
from stoker.config.accounts import access_of
from stoker.config.settings import RpcSettings
from stoker.core.access import AccessRules
from stoker.rpc.address import Address, AddressWatch, check_address, groups_of
from stoker.rpc.server import Server
from stoker.sdnotify import Listener
from stoker.service.service import Service
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

ENTER, WRITE = 0o1, 0o2


class Entrance:
    """Of one daemon. `given`: the sockets of the service manager, of which the first is used."""

    def __init__(self, path: Path, settings: AccessSettings, given: Sequence[Listener]) -> None:
        self.path = path
        self._given = given
        self._access = access_of(settings)
        self._address = Address(path, self._access)
        self._server: Server | None = None

    def check(self) -> None:
        """Refuse a path that no socket can be bound to. Raises ConfigInvalid or CannotCreate."""
        if not self._given:
            check_address(self.path)

    def lock(self) -> None:
        """Raises AlreadyRunning or CannotCreate."""
        if not self._given:
            self._address.lock()

    def open(self, service: Service, settings: RpcSettings, background: BackgroundTasks, **more: Any) -> None:
        """Serve clients from now on. Raises CannotCreate."""
        listener = socket.socket(fileno=self._given[0].fd) if self._given else self._address.bind()
        self._server = Server(
            service,
            listener,
            background,
            access=self._access,
            max_connections=settings.max_connections,
            max_connections_per_uid=settings.max_connections_per_uid,
            frame_timeout_ms=settings.frame_timeout_ms,
            **more,
        )
        service.users.connections = self._server.capacity
        self._server.start()
        self._name_hindrance()
        if not self._given:
            background.start("watch of the socket", AddressWatch(self._address, self._server).run())

    async def use(self, settings: AccessSettings) -> None:
        """Put other settings in force; connections that may not go on end. Raises CannotCreate."""
        access = await asyncio.to_thread(access_of, settings)
        if access == self._access or self._server is None:
            return
        self._access = access
        self._server.use(access)  # first, as it takes rights away whatever happens to the file
        self._address.use(access)
        self._name_hindrance()

    def _name_hindrance(self) -> None:
        if (why := hindrance(self.path, self._access)) is not None:
            log(LogEvent.SOCKET_OUT_OF_REACH, socket=self.path, error=why)

    @property
    def connections(self) -> int:
        return 0 if self._server is None else self._server.connections

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop()

    def release(self) -> None:
        """Remove the socket and release its lock."""
        self._address.release()


def hindrance(path: Path, access: AccessRules) -> str | None:
    """Why others who may use the daemon cannot reach its socket, as far as modes tell; None if they can."""
    if not access.shared:
        return None
    groups = groups_of(access)
    for place, right in ((path, WRITE), *((directory, ENTER) for directory in path.parents)):
        try:
            status = place.stat()
        except OSError as error:
            return f"{place}: {error.strerror}"
        by_group = not access.everyone and groups == {status.st_gid} and status.st_mode & right << 3
        if not (by_group or status.st_mode & right):
            return f"{place} has mode {status.st_mode & 0o7777:o}, so other users cannot reach the socket"
    return None
