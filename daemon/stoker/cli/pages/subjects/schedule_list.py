"""The list of schedules, by name.

Owns the number of rows of a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stoker.cli.pages.page import Asked, Page
from stoker.cli.schedules import state_of, submits_words
from stoker.rpc.async_client import AsyncClient

ROWS: Final = 100


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    page = await client.call("schedule.list", after=asked.text("after") or "", limit=ROWS)
    return {
        "schedules": [
            {**schedule, "state": state_of(schedule), "submits": submits_words(schedule)}
            for schedule in page["schedules"]
        ],
        "next": page["next"],
    }


PAGES = (Page("/schedules", "schedule_list.html", read),)
