"""How well the daemon is: its health check, its facts, what the doctor finds, and the settings in force.

Owns the page. The settings are those of the fixed sections, each with whether it is set or a default; tables that may
hold secrets of commands, such as variables of hooks, are only named.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stoker import __version__, config
from stoker.cli.pages import texts
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects.notices import steady_facts
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.daemon_views import SettingsView

USER_PART: Final = re.compile(r"//[^/@\s\"]*@")
TABLES: Final = ("queues", "rates", "schedules", "hooks", "retention_queues", "retention_workflows")


class SettingRow(NamedTuple):
    """A setting; `remark`: how the file differs by now."""

    setting: config.SettingText
    value: str
    remark: str


async def read(client: AsyncClient, _asked: Asked) -> Mapping[str, Any]:
    health, status, settings = await asyncio.gather(
        client.call("system.health"), client.call("system.status"), client.call("system.settings")
    )
    return {
        "health": health,
        "versions": {"daemon": status["version"], "page": __version__, "pid": status["pid"]},
        "started_at": status["recovery"]["started_at"],
        "facts": steady_facts(status),
        "settings": list(rows(settings)),
        "settings_view": settings,
        "tables": [(name.replace("_", "."), sorted(settings["in_force"].get(name) or ())) for name in TABLES],
    }


def rows(view: SettingsView) -> Iterator[SettingRow]:
    """Every setting of a fixed section."""
    differing = dict.fromkeys(view["reload"], "the file differs: stoker config reload")
    differing |= dict.fromkeys(view["restart"], "the file differs: restart stokerd")
    for one in config.setting_texts(config.in_force(view)):
        yield SettingRow(one, without_secret(one.value), differing.get(one.name, ""))


def without_secret(text: str) -> str:
    """A URL without the user and password in it."""
    return texts.visible(USER_PART.sub("//…@", text))


PAGES = (Page("/health", "health.html", read, every_s=5.0),)
