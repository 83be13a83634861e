"""Whether anybody uses the sessions of the host: systemd-logind's IdleHint, over D-Bus.

logind sends a notice when a desktop becomes idle or busy. It sends none about terminals, whose last input it looks up
only when it is asked. So the caller asks again before it takes the host for idle.

The connection needs dbus-fast (the extra stoker[desktop]), which is imported when it is first used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stoker.core.host_state import InputState

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

NAME: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
BUS: Final = "org.freedesktop.DBus"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
PATIENCE_S: Final = 5.0
NO_LIBRARY: Final = "D-Bus needs dbus-fast: pip install 'stoker[desktop]'"


class Logind:
    """`heard` is called with each new state."""

    def __init__(self, heard: Callable[[InputState], None]) -> None:
        self._heard = heard
        self._bus: MessageBus | None = None
        self._owner: str | None = None  # the connection of logind: anybody may send us a notice

    async def follow(self) -> str:
        """Follow IdleHint for as long as there is a bus that has a logind. Returns why it ended."""
        try:
            from dbus_fast import BusType  # noqa: PLC0415 - an extra, and large
            from dbus_fast.aio import MessageBus  # noqa: PLC0415
        except ImportError:
            return NO_LIBRARY
        try:
            bus = self._bus = MessageBus(bus_type=BusType.SYSTEM)
            async with asyncio.timeout(PATIENCE_S):
                await bus.connect()
            bus.add_message_handler(self._on_message)
            await self._match()
            await self._get()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            return "this host has no D-Bus"
        except Exception as error:  # noqa: BLE001 - the boundary to a library and a bus: without them, CPU alone decides
            return f"logind does not answer ({_words(error)})"
        finally:
            self._leave()
        return "the connection to D-Bus ended"

    async def ask(self) -> None:
        """Ask for IdleHint now; `heard` gets the answer. Without one the connection ends."""
        try:
            await self._get()
        except Exception as error:  # noqa: BLE001 - as above
            self._heard(InputState(None, f"logind does not answer ({_words(error)})"))
            self._leave()

    async def _get(self) -> None:
        answer = await self._call(NAME, PATH, PROPERTIES, "Get", "ss", [MANAGER, "IdleHint"])
        self._owner = answer.sender
        self._heard(InputState(bool(answer.body[0].value)))

    @property
    def connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    def _leave(self) -> None:
        if self.connected and self._bus is not None:
            self._bus.disconnect()
        self._bus = None

    async def _match(self) -> None:
        changes = f"type='signal',sender='{NAME}',interface='{PROPERTIES}',path='{PATH}'"
        owners = f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{NAME}'"
        for rule in (changes, owners):
            await self._call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", [rule])

    async def _call(self, destination: str, path: str, interface: str, member: str, form: str, body: Any) -> Message:
        from dbus_fast import Message, MessageType  # noqa: PLC0415 - as above

        if self._bus is None:
            raise RuntimeError("not connected")
        message = Message(
            destination=destination, path=path, interface=interface, member=member, signature=form, body=body
        )
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._bus.call(message)
        if answer.message_type is MessageType.ERROR:
            raise RuntimeError(f"{answer.error_name}: {answer.body}")
        return answer

    def _on_message(self, message: Message) -> None:
        if message.member == "PropertiesChanged" and message.sender == self._owner and message.body[0] == MANAGER:
            hint = message.body[1].get("IdleHint")
            if hint is not None:
                self._heard(InputState(bool(hint.value)))
        elif message.member == "NameOwnerChanged" and message.sender == BUS and message.body[0] == NAME:
            # logind ended, or started again with sessions for which it sent no notice.
            self._leave()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
