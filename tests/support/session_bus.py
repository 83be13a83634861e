"""A real D-Bus with a logind on it; the test sets whether its sessions are in use.

Owns a private dbus-daemon, and the object of logind as far as Stoker asks for it: IdleHint of the manager, and the
notice of a change. Invariant: both end with the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from dbus_fast import BusType
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool
from dbus_fast.constants import PropertyAccess
from dbus_fast.service import ServiceInterface, dbus_property

from stoker.host.logind import MANAGER, NAME, PATH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

needs_bus = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon (make tools)")


@contextlib.contextmanager
def bus() -> Iterator[str]:
    """A bus without a logind. Gives its address."""
    command = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            yield daemon.stdout.readline().strip()
        finally:
            daemon.kill()


class Login(ServiceInterface):
    """The manager of logind. `asked`: how often the hint was read."""

    def __init__(self, *, idle: bool) -> None:
        super().__init__(MANAGER)
        self._idle = idle
        self.asked = 0

    @dbus_property(access=PropertyAccess.READ, name="IdleHint")
    def idle_hint(self) -> DBusBool:
        self.asked += 1
        return self._idle

    def be(self, *, idle: bool, announced: bool = True) -> None:
        """`announced`: with a notice, as of a desktop; a terminal becomes idle or busy without one."""
        self._idle = idle
        if announced:
            self.emit_properties_changed({"IdleHint": idle})


@contextlib.asynccontextmanager
async def logind(address: str, *, idle: bool) -> AsyncIterator[Login]:
    connection = await MessageBus(bus_address=address, bus_type=BusType.SYSTEM).connect()
    login = Login(idle=idle)
    connection.export(PATH, login)
    await connection.request_name(NAME)
    try:
        yield login
    finally:
        connection.disconnect()
        await asyncio.sleep(0)
