"""The first page: how the daemon and the host are, the queues, what runs, and what failed last.

Owns what is on it. Three answers of the daemon fill it, and none grows with the number of ended jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects import queue
from stoker.cli.pages.subjects.load import LoadCharts
from stoker.cli.pages.subjects.notices import notices, steady_facts
from stoker.rpc.async_client import AsyncClient

ROWS: Final = 12
MOST_QUEUES: Final = 24
LIVE_STATES: Final = ("running", "queued", "waiting", "held")


async def read(client: AsyncClient, _asked: Asked) -> Mapping[str, Any]:
    status, overview, load = await asyncio.gather(
        client.call("system.status"), client.call("system.overview", limit=ROWS), client.call("system.load")
    )
    facts = steady_facts(status)
    charts = LoadCharts(load)
    shown = sorted(overview["queues"], key=lambda one: (not one["running"] + one["queued"], one["name"]))
    return {
        "mode": "safe mode" if status["safe_mode"] else status["mode"],
        "notices": notices(status, facts),
        "facts": facts,
        "counts": {state: status[state] for state in LIVE_STATES},
        "slots": status["max_running"],
        "ends": overview["ends"],
        "charts": charts.host(),
        "queues": [queue.row(one, charts) for one in shown[:MOST_QUEUES]],
        "more_queues": len(shown[MOST_QUEUES:]),
        "running": overview["running"],
        "failed": overview["failed"],
    }


PAGES = (Page("/", "overview.html", read),)
