"""Queues with all their settings, resources with those who hold them, and the rates of keys.

Owns the page, and how many holders it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stoker.cli import rates
from stoker.cli.pages.endpoints import Endpoint, Parts
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects import queue
from stoker.cli.pages.subjects.load import LoadCharts
from stoker.rpc.async_client import AsyncClient

MOST_HOLDERS: Final = 50


async def read(client: AsyncClient, _asked: Asked) -> Mapping[str, Any]:
    queues, resources, keys, load = await asyncio.gather(
        client.call("queue.list"), client.call("resource.list"), client.call("rate.list"), client.call("system.load")
    )
    charts = LoadCharts(load)
    return {
        "queues": [queue.row(view, charts) for view in queues["queues"]],
        "resources": resources["resources"],
        "most_holders": MOST_HOLDERS,
        "rates": [(rate, rates.in_words(rate)) for rate in keys["rates"]],
    }


async def lead_here(_parts: Parts, _request: Request, _asked: Asked) -> Response:
    """From `/queues`, which one expects above `/queues/NAME`."""
    return RedirectResponse("/resources", status_code=303)


PAGES = (Page("/resources", "resources.html", read),)
ENDPOINTS = (Endpoint("/queues", lead_here),)
