"""The list of workflows, with a filter by state and label.

Owns the number of rows of a page; the daemon filters, and its cursor leads to older workflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from stoker.cli.pages.page import Asked, Page
from stoker.cli.workflows import STATES, done_steps, open_steps
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import WorkflowView
    from stoker.core.wire_types import ChangeShape

ROWS: Final = 50


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    states = [state for state in asked.texts("state") if state in STATES]
    filters = {"states": states, "label": asked.text("label")}
    page = await client.call("workflow.list", **filters, before=asked.optional_number("before"), limit=ROWS)
    return {
        "workflows": [_row(workflow) for workflow in page["workflows"]],
        "next": page["next"],
        "chosen": states,
        "label": filters["label"],
        "states": STATES,
    }


def _row(workflow: WorkflowView) -> dict[str, Any]:
    counts = workflow["counts"]
    return {**workflow, "done": done_steps(counts), "steps": sum(counts.values()), "open": open_steps(counts)}


def concerns(change: ChangeShape, _asked: Asked) -> bool:
    return change["kind"] in ("workflow", "job")


PAGES = (Page("/workflows", "workflow_list.html", read, concerns, every_s=None),)
