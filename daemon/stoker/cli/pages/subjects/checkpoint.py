"""One checkpoint: its data, what changed between two, and the whole workflow as it was then.

Owns the reading of the data in pieces, and the file that a browser keeps. A checkpoint never changes, so neither do
these pages, except for what the steps are now.
"""

from __future__ import annotations

import asyncio
from binascii import a2b_base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response

from stoker.cli.kit import render
from stoker.cli.kit.checkpoint_text import readable
from stoker.cli.pages import checkpoint_data
from stoker.cli.pages.endpoints import Endpoint, Parts, download
from stoker.cli.pages.page import Asked, Page
from stoker.core.errors import UsageError
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.cli.pages.checkpoint_data import DifferingLine
    from stoker.core.wire_types import ChangeShape, CheckpointPiece, CheckpointView

ROWS: Final = 200


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    piece: CheckpointPiece = await client.call("checkpoint.get", id=asked.number("checkpoint"), offset=0)
    shown = await asyncio.to_thread(checkpoint_data.shown, a2b_base64(piece["data"]), piece["bytes"])
    return {
        "checkpoint": piece,
        "workflow": _workflow(piece),
        "facts": [
            ("kind", piece["kind"]),
            ("status", render.visible(piece["status"])),
            ("step", piece["step"] and render.visible(piece["step"])),
            ("attempt", piece["run_id"]),
            ("place in its chain", f"{piece['chain']}, seq {piece['seq']}"),
            ("size", f"{render.size(piece['bytes'])}, stored {piece['encoding']}"),
            ("sha256", piece["checksum"]),
        ],
        "data": shown,
    }


def _workflow(checkpoint: CheckpointView) -> int | None:
    """The workflow whose chain it is in; None for that of a job."""
    chain = checkpoint["chain"]
    return int(chain[1:]) if chain.startswith("w") else None


async def _pieces(client: AsyncClient, first: CheckpointPiece) -> AsyncGenerator[bytes, None]:
    """The whole data."""
    piece, offset = first, 0
    while True:
        data = a2b_base64(piece["data"])
        yield data
        offset += len(data)
        if offset >= piece["bytes"] or not data:
            return
        piece = await client.call("checkpoint.get", id=piece["id"], offset=offset)


async def keep(parts: Parts, _request: Request, asked: Asked) -> Response:
    """The first piece is read before the answer begins, so that an error can still be one."""
    number = asked.number("checkpoint")
    first: CheckpointPiece = await parts.client.call("checkpoint.get", id=number, offset=0)
    return download(f"checkpoint-{number}.bin", _pieces(parts.client, first))


# --- two checkpoints ----------------------------------------------------------------------------------------


async def read_diff(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    """The same as `stoker checkpoint diff`, unless one is too large for a page; without both ids only the form."""
    chosen = [asked.optional_number(name) for name in ("old", "new")]
    if None in chosen:
        return {"sides": [], "lines": None, "cut": False}
    pieces = await asyncio.gather(*(client.call("checkpoint.get", id=number, offset=0) for number in chosen))
    lines, cut = await asyncio.to_thread(_compared, pieces)
    return {"sides": pieces, "lines": lines, "cut": cut}


def _compared(pieces: Sequence[CheckpointPiece]) -> tuple[list[DifferingLine] | None, bool]:
    """The lines, and whether some were left out; no lines if there is too much to compare here."""
    if max(piece["bytes"] for piece in pieces) > checkpoint_data.COMPARED_BYTES:
        return None, False
    most = checkpoint_data.MOST_LONGER * checkpoint_data.COMPARED_BYTES
    old, new = (readable(a2b_base64(piece["data"]), most) for piece in pieces)
    if not (checkpoint_data.comparable(old) and checkpoint_data.comparable(new)):
        return None, False
    return checkpoint_data.differences(old, new)


# --- the whole workflow at one ------------------------------------------------------------------------------


async def read_context(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    """The state of each step then and now, those that differ first."""
    number = asked.number("checkpoint")
    about: CheckpointView = await client.call("checkpoint.get", id=number)
    workflow = _workflow(about)
    if workflow is None:
        raise UsageError(f"checkpoint {number} belongs to a job outside a workflow: it has no steps")
    then, now = await asyncio.gather(
        client.call("checkpoint.get", id=number, context=True), client.call("workflow.get", id=workflow)
    )
    states = {step["name"]: step["state"] for step in now["steps"]}
    rows = [
        {"name": name, "job": step["job"], "then": step["state"], "now": states.get(name, step["state"])}
        for name, step in then["steps"].items()
    ]
    rows.sort(key=lambda row: row["then"] == row["now"])
    first = (asked.optional_number("from") or 1) - 1
    return {
        "checkpoint": about,
        "workflow": workflow,
        "damaged": then["damaged"],
        "changed": sum(row["then"] != row["now"] for row in rows),
        "total": len(rows),
        "steps": rows[first : first + ROWS],
        "earlier": max(1, first + 1 - ROWS) if first else None,
        "later": first + ROWS + 1 if first + ROWS < len(rows) else None,
    }


def never(_change: ChangeShape, _asked: Asked) -> bool:
    return False


def of_jobs(change: ChangeShape, _asked: Asked) -> bool:
    return change["kind"] == "job"


PAGES = (
    Page("/checkpoints/diff", "checkpoint_diff.html", read_diff, never, every_s=None),
    Page("/checkpoints/{checkpoint}", "checkpoint.html", read, never, every_s=None),
    Page("/checkpoints/{checkpoint}/context", "checkpoint_context.html", read_context, of_jobs, every_s=None),
)
ENDPOINTS = (Endpoint("/checkpoints/{checkpoint}/data", keep),)
