"""The checkpoints of a workflow, or of a job, newest first.

Owns which checkpoint each one is compared with: the one before it of the same step, where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from stoker.cli.pages.page import Asked, Page
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.wire_types import CheckpointView

ROWS: Final = 50
MOST_READ: Final = 5_000  # checkpoints of a workflow that are looked at for those of one job


async def read_of_workflow(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    workflow = asked.number("workflow")
    page = await client.call(
        "checkpoint.list", workflow=workflow, before_seq=asked.optional_number("before"), limit=ROWS
    )
    return {
        **_shown(page["checkpoints"], page["next"]),
        "title": f"Checkpoints of workflow {workflow}",
        "back": (f"/workflows/{workflow}", f"workflow {workflow}"),
        "workflow": workflow,
    }


async def read_of_job(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    """The checkpoints of a step are in the chain of its workflow, among those of other steps."""
    number, before = asked.number("job"), asked.optional_number("before")
    job = await client.call("job.get", id=number)
    workflow = job.get("workflow_id")
    chain = {"job": number} if workflow is None else {"workflow": workflow}
    rows: list[CheckpointView] = []
    for _ in range(1 if workflow is None else MOST_READ // ROWS):
        page = await client.call("checkpoint.list", **chain, before_seq=before, limit=ROWS)
        rows += [one for one in page["checkpoints"] if one["job"] == number]
        before = page["next"]
        if before is None or len(rows) >= ROWS:
            break
    return {
        **_shown(rows, before),
        "title": f"Checkpoints of job {number}",
        "back": (f"/jobs/{number}", f"job {number}"),
        "workflow": workflow,
    }


def _shown(rows: Sequence[CheckpointView], following: int | None) -> dict[str, Any]:
    return {"checkpoints": _with_earlier(rows), "next": following}


def _with_earlier(rows: Sequence[CheckpointView]) -> list[dict[str, Any]]:
    """Each with the id of the one before it that has the same kind and job."""
    earlier: dict[tuple[str, int | None], int] = {}
    shown: list[dict[str, Any]] = []
    for one in reversed(rows):
        about = (one["kind"], one["job"])
        shown.append({**one, "earlier": earlier.get(about)})
        earlier[about] = one["id"]
    return shown[::-1]


PAGES = (
    Page("/workflows/{workflow}/checkpoints", "checkpoint_list.html", read_of_workflow, every_s=5),
    Page("/jobs/{job}/checkpoints", "checkpoint_list.html", read_of_job, every_s=5),
)
