"""The list of jobs, with a filter.

Owns the fields of the filter and the number of rows of a page; the daemon filters, and its cursor leads to older jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stoker.cli.kit.selection import STATES
from stoker.cli.pages.page import Asked, Page
from stoker.rpc.async_client import AsyncClient

ROWS: Final = 50


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    filters = {
        "states": [state for state in asked.texts("state") if state in STATES],
        "queue": asked.text("queue"),
        "name": asked.text("name"),
        "label": asked.text("label"),
        "before": asked.optional_number("before"),
    }
    page = await client.call("job.list", **filters, limit=ROWS)
    queues = await client.call("queue.list")
    return {
        "jobs": page["jobs"],
        "next": page["next"],
        "filters": filters,
        "states": STATES,
        "queues": [queue["name"] for queue in queues["queues"]],
    }


PAGES = (Page("/jobs", "job_list.html", read),)
