"""`stoker top`: the status and the jobs that run or wait, drawn again every so often.

Owns the refreshing screen. Refuses curses and keys: Ctrl-C ends it, and without a terminal it prints once.
"""

from __future__ import annotations

import time

from stoker.cli import admin, jobs, render, values
from stoker.cli.connection import connect
from stoker.cli.options import Option, command
from stoker.cli.selection import Overview

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stoker.cli.options import Given
    from stoker.rpc.client import Client

SHORTEST_MS = 100


@command(
    options=(Option("--every", "DURATION", "time between two looks (default: 1s)", convert=values.duration),),
    examples=("stoker top", "stoker top --every 250ms"),
)
def top(given: Given) -> int:
    pause_s = max(SHORTEST_MS, given["every"] or 1_000) / 1_000
    with connect(given) as client:
        while True:
            draw(client)
            if not render.on_terminal():
                return 0
            time.sleep(pause_s)


def draw(client: Client) -> None:
    """One screen. Asked for first and drawn in one piece, so that it does not flicker."""
    columns, lines = render.terminal_size()
    status = client.call("system.status", {})
    head = [f"{key:<9} {render.visible(str(value))}" for key, value in admin.summary(status)[:4] if value is not None]
    room = max(1, min(lines, jobs.SHOWN) - len(head) - 3)
    seen = Overview(client, ("running", "held", "waiting", "queued"), {}, room)
    body = render.table_lines(*jobs.columns(seen.jobs, time.time_ns() // 1_000_000), columns)
    render.screen([*(render.cut(line, columns) for line in head), "", *body])
