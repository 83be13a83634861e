"""Binds the daemon's socket again when somebody removes it under a living daemon.

Owns the cadence of the look and what is logged. Polls once a second on purpose: inotify on the directory ends with the
directory, and its parents are not ours to watch. A socket that systemd holds has no lock here and is not watched.
"""

from __future__ import annotations

import asyncio

from stoker.core.errors import StokerError
from stoker.rpc.address import Address
from stoker.rpc.server import Server
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

LOOK_EVERY_S = 1.0


class AddressWatch:
    """Runs until it is cancelled."""

    def __init__(self, address: Address, server: Server) -> None:
        self._address = address
        self._server = server
        self._failed = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._address.removed:
                await self._restore()

    async def _restore(self) -> None:
        """One try; what fails is logged once and tried again at the next look."""
        try:
            await self._server.move(self._address.bind_again())
        except (StokerError, OSError) as error:
            if not self._failed:
                log(LogEvent.SOCKET_LOST, socket=self._address.path, error=error)
            self._failed = True
            return
        self._failed = False
        log(LogEvent.SOCKET_RESTORED, socket=self._address.path)
