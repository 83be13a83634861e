"""`stoker top`: the daemon, its queues and the jobs that run or wait, drawn again every so often.

Owns the refreshing screen, what is left off where it is small, and its keys. Refuses to leave the terminal in another
state than it found it in, however it ends. Without a terminal it prints once.
"""

from __future__ import annotations

import select
import signal
import sys
import termios
import time
import tty
from typing import Any, NoReturn, Self

from stoker.cli import admin, jobs
from stoker.cli.kit import render, values
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import Given, Option, command
from stoker.cli.kit.selection import Overview
from stoker.rpc.client import Client

SHORTEST_MS = 100
LIVE = ("running", "held", "waiting", "queued")
KEYS = "q quit   space refresh"
# Of the columns of `ls`, what a narrow screen can do without, first of all the first.
DISPENSABLE = ("PRIO", "TRY", "AGE", "WHY", "QUEUE", "RAN", "SAYS")
LEAST_OF_A_COMMAND = 20
QUEUE_HEADERS = ("QUEUE", "CLASS", "STATE", "RUNNING", "QUEUED", "WAITING", "HELD")
FEWEST_QUEUES = 2


@command(
    options=(Option("--every", "DURATION", "time between two looks (default: 1s)", convert=values.duration),),
    examples=("stoker top", "stoker top --every 250ms"),
)
def top(given: Given) -> int:
    """Keys: q quits, space looks at once."""
    pause_s = max(SHORTEST_MS, given["every"] or 1_000) / 1_000
    with connect(given) as client:
        if not render.on_terminal():
            render.screen(drawn(client))
            return 0
        with Terminal() as terminal:
            while True:
                render.screen(drawn(client))
                if terminal.key(pause_s) in ("q", "Q"):
                    return 0


class Terminal:
    """The screen for ourselves, and keys without Enter; on exit everything is as it was."""

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a shell would go on with our screen
        if self._modes is not None:
            tty.setcbreak(sys.stdin)
        render.take_screen()
        return self

    def __exit__(self, *_: object) -> None:
        render.give_screen_back()
        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)

    def key(self, within_s: float) -> str:
        """The key that is pressed within that time, or nothing."""
        if self._modes is None:
            time.sleep(within_s)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], within_s)
        pressed = sys.stdin.read(1) if ready else ""
        return "q" if ready and not pressed else pressed  # the terminal is gone


def _leave(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def drawn(client: Client) -> list[str]:
    """One screen, asked for first and printed in one piece, so that it does not flicker."""
    columns, lines = render.terminal_size()
    status = client.call("system.status", {})
    head = [render.cut(line, columns) for line in _head(status)]
    room = min(lines, jobs.SHOWN + len(head) + len(status["queues"])) - len(head) - 2  # for a blank line and the keys
    queues = _queues(status["queues"], max(FEWEST_QUEUES, room // 3), columns)
    left = max(1, room - len(queues) - 2)  # for a blank line and the headers
    seen = Overview(client, LIVE, {}, left)
    headers, rows = _fitting(*jobs.columns(seen.jobs, time.time_ns() // 1_000_000), columns)
    screen = [*head, "", *queues, "", *render.table_lines(headers, rows, columns)]
    if not render.on_terminal():
        return screen
    screen = screen[: lines - 1]
    return [*screen, *[""] * (lines - 1 - len(screen)), render.paint(render.cut(KEYS, columns), render.DIM)]


def _head(status: dict[str, Any]) -> list[str]:
    """What is wrong comes first: a daemon in safe mode says nothing else."""
    facts = dict(admin.summary(status))
    shown = [("stokerd", f"{status['version']}, up {render.span(status['uptime_ms'])}, {facts['mode']}")]
    shown += [(key, str(facts[key])) for key in ("next", "jobs", "pressure") if facts.get(key)]
    return [f"{key:<8} {render.visible(value)}" for key, value in shown]


def _queues(queues: list[dict[str, Any]], most: int, columns: int) -> list[str]:
    """A line a queue, the busiest first where there is no room for all."""
    busiest = sorted(queues, key=lambda queue: -(queue["running"] + queue["queued"] + queue["waiting"] + queue["held"]))
    shown = busiest[: max(1, most - 2)] if len(queues) > most - 1 else queues
    rows = [
        (
            queue["name"],
            queue["class"],
            "paused" if queue["paused"] else "throttled" if queue["throttled"] else "open",
            *(queue[count] for count in ("running", "queued", "waiting", "held")),
        )
        for queue in shown
    ]
    more = [f"… {len(queues) - len(shown)} more queues"] if len(shown) < len(queues) else []
    return [*render.table_lines(*_fitting(QUEUE_HEADERS, rows, columns), columns), *more]


def _fitting(
    headers: tuple[str, ...], rows: list[tuple[object, ...]], columns: int
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The same table without what a narrow screen has no room for."""
    for name in (*DISPENSABLE, "HELD", "WAITING", "CLASS"):
        widths = [max(len(str(cell)) for cell in column) for column in zip(headers, *rows, strict=True)]
        last = min(widths[-1], LEAST_OF_A_COMMAND)
        if sum(widths[:-1]) + last + 2 * (len(widths) - 1) <= columns:
            break
        if name in headers:
            at = headers.index(name)
            headers = (*headers[:at], *headers[at + 1 :])
            rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    return headers, rows
