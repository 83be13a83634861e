"""The lines above the tables: what the daemon does, its slots and its queues, and what holds jobs back. Pure.

Owns the order of the facts. The number of lines grows only with the things that hold jobs back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rich.text import Text

from stoker.cli.kit import render
from stoker.cli.queues import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.core.daemon_views import QueueView, StatusView

SLOT_CELLS = 10
FULL, EMPTY = "█", "░"
Count = Literal["running", "queued", "waiting", "held"]
COUNTS: tuple[Count, ...] = ("running", "queued", "waiting", "held")


def lines(status: StatusView | None) -> Text:
    """Three lines, and one more for each thing that holds jobs back."""
    if status is None:
        return Text("stokerd: waiting for its first answer")
    return Text("\n").join([_daemon(status), _slots(status), _queues(status), *_remarks(status)])


def _daemon(status: StatusView) -> Text:
    mode = "safe mode" if status["safe_mode"] else status["mode"]
    line = Text(f"stokerd {status['version']}", style="bold")
    line.append(f"  up {render.span(status['uptime_ms'])}  ", style="not bold")
    line.append(render.visible(mode), style="green not bold" if mode == "running" else "bold yellow")
    levels = status["pressure"]["levels"]
    load = "  ".join(f"{gauge} {levels[gauge]:.0f}%" for gauge in ("cpu", "memory") if gauge in levels)
    line.append(f"  {load or 'load not measured yet'}", style="not bold")
    return line


def _slots(status: StatusView) -> Text:
    used, all_slots = status["running"], status["max_running"]
    filled = min(SLOT_CELLS, -(-SLOT_CELLS * used // max(1, all_slots)))
    line = Text("slots ")
    line.append(FULL * filled, style="cyan").append(EMPTY * (SLOT_CELLS - filled), style="dim")
    return line.append(f" {used}/{all_slots}  " + "  ".join(f"{status[state]} {state}" for state in COUNTS[1:]))


def _queues(status: StatusView) -> Text:
    """The busiest queues first: the others have a tab of their own."""
    busiest = sorted(status["queues"], key=lambda queue: -sum(queue[count] for count in COUNTS))
    return Text("queues ") + Text("  ").join(map(_queue, busiest))


def _queue(queue: QueueView) -> Text:
    """`bulk paused 2 running 40 queued`."""
    state = state_of(queue)
    text = Text(f"{queue['name']}:", style="bold")
    if state != "open":
        text.append(f" {state}", style="yellow")
    counts = [f"{queue[count]} {count}" for count in COUNTS if queue[count]]
    return text.append(f" {' '.join(counts) or 'empty'}", style="not bold")


def _remarks(status: StatusView) -> Iterator[Text]:
    if status["safe_mode"]:
        yield _remark(f"safe mode, changes are refused: {status['safe_mode']}")
    if status["safe_mode_next"]:
        yield _remark(f"next: {status['safe_mode_next']}")
    pressure, shortage = status["pressure"], status["host_shortage"]
    if pressure["throttled"]:
        causes = " and ".join(cause.replace("_", " ") for cause in pressure["causes"])
        yield _remark(f"queues of class low are throttled by {causes}")
    if shortage is not None:
        yield _remark(f"the host cannot start a process: {shortage['error']}; jobs wait")
    if status["disk"]["full"]:
        yield _remark(f"disk low: {render.size(status['disk']['free_bytes'])} free, new jobs are refused")


def _remark(text: str) -> Text:
    return Text(f"! {render.visible(text)}", style="bold yellow")
