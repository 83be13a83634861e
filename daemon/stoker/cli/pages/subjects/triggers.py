"""Triggers of jobs beside people and times: named events, and hooks.

Owns the number of events that are shown, and how many hooks are asked for their runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from stoker.cli import hooks
from stoker.cli.events import reached
from stoker.cli.pages.page import Asked, Page
from stoker.rpc.async_client import AsyncClient

ROWS: Final = 50
MOST_HOOKS: Final = 50
RUNS: Final = 5


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    before = asked.optional_number("before")
    events, listed = await asyncio.gather(
        client.call("event.list", limit=ROWS, before=before), client.call("hook.list")
    )
    names = [hook["name"] for hook in listed["hooks"][:MOST_HOOKS]]
    details = await asyncio.gather(*(client.call("hook.get", name=name) for name in names))
    return {
        "events": [{**event, "words": reached(event)} for event in events["events"]],
        "next": events["next"],
        "kept": events["kept"],
        "most_kept": events["most_kept"],
        "hooks": [_hook(hook) for hook in details],
        "more_hooks": len(listed["hooks"]) - len(names),
    }


def _hook(hook: Any) -> dict[str, Any]:
    runs = [{**run, "why": hooks.why(run)} for run in hook["runs"][:RUNS]]
    return {
        **hook,
        "filter": hooks.filter_words(hook),
        "remark": hooks.remark(hook),
        "command_line": hooks.command_line(hook),
        "runs": runs,
    }


PAGES = (Page("/triggers", "triggers.html", read, every_s=5),)
