"""logind over a real D-Bus: its hint, a change of it, and every way in which logind can be missing."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from stoker.core.host_state import InputState
from stoker.host.logind import MANAGER, NO_LIBRARY, PATH, PROPERTIES, Logind
from tests.support.facts import until_async
from tests.support.session_bus import bus, logind, needs_bus

if TYPE_CHECKING:
    from pathlib import Path

unheard = list[InputState]().append
AWAY, THERE = InputState(idle=True), InputState(idle=False)
ADDRESS = "DBUS_SYSTEM_BUS_ADDRESS"


@needs_bus
async def test_logind_when_a_person_comes_and_goes_then_each_change_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[InputState] = []
    with bus() as address:
        monkeypatch.setenv(ADDRESS, address)
        async with logind(address, idle=False) as login:
            following = asyncio.create_task(Logind(heard.append).follow())
            await until_async(lambda: heard == [THERE])
            login.be(idle=True)
            await until_async(lambda: heard == [THERE, AWAY])
            login.be(idle=False)
            await until_async(lambda: heard == [THERE, AWAY, THERE])

        assert await following == "the connection to D-Bus ended"


@needs_bus
async def test_logind_when_a_terminal_is_used_then_a_question_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[InputState] = []
    with bus() as address:
        monkeypatch.setenv(ADDRESS, address)
        async with logind(address, idle=True) as login:
            client = Logind(heard.append)
            following = asyncio.create_task(client.follow())
            await until_async(lambda: heard == [AWAY])
            login.be(idle=False, announced=False)

            await client.ask()

            assert heard == [AWAY, THERE]
        await following
        await client.ask()
        assert heard[-1].idle is None
        assert "logind does not answer" in str(heard[-1].problem)


def noticed(to: str, form: str, body: list[Any]) -> Message:
    """A notice of changed properties, sent to one connection: no rule of that one keeps it away."""
    return Message(
        message_type=MessageType.SIGNAL,
        destination=to,
        path=PATH,
        interface=PROPERTIES,
        member="PropertiesChanged",
        signature=form,
        body=body,
    )


@needs_bus
async def test_logind_when_another_program_sends_its_notice_then_that_is_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[InputState] = []
    with bus() as address:
        monkeypatch.setenv(ADDRESS, address)
        async with logind(address, idle=False) as login:
            following = asyncio.create_task(Logind(heard.append).follow())
            await until_async(lambda: heard == [THERE])
            stranger = await MessageBus(bus_address=address).connect()
            names = Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="ListNames",
            )
            answer = await stranger.call(names)
            assert answer is not None
            for name in answer.body[0]:
                if name.startswith(":") and name != stranger.unique_name:
                    await stranger.send(noticed(name, "", []))
                    await stranger.send(
                        noticed(name, "sa{sv}as", [MANAGER, {"IdleHint": Variant("b", value=True)}, []])
                    )
            await stranger.call(names)  # answered behind what was sent
            stranger.disconnect()
            login.be(idle=False)
            await until_async(lambda: len(heard) == 2)

        assert heard[:2] == [THERE, THERE]
        await following


@needs_bus
async def test_logind_when_the_bus_ends_then_following_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[InputState] = []
    with bus() as address:
        monkeypatch.setenv(ADDRESS, address)
        async with logind(address, idle=True):
            following = asyncio.create_task(Logind(heard.append).follow())
            await until_async(lambda: heard == [AWAY])
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following


@needs_bus
async def test_logind_when_the_bus_has_no_logind_then_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with bus() as address:
        monkeypatch.setenv(ADDRESS, address)

        assert "ServiceUnknown" in await Logind(unheard).follow()


async def test_logind_when_there_is_no_bus_then_that_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ADDRESS, f"unix:path={tmp_path}/missing")
    assert await Logind(unheard).follow() == "this host has no D-Bus"

    monkeypatch.setenv(ADDRESS, "nonsense")
    assert "logind does not answer" in await Logind(unheard).follow()


async def test_logind_when_the_library_is_missing_then_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dbus_fast", None)

    assert await Logind(unheard).follow() == NO_LIBRARY
