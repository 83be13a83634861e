"""`stoker top`: the daemon, its queues and live jobs: a screen (cli/screen), or a plain text that is redrawn.

Owns the choice between them, and the plain text: what is left out where it is small, and the keys. The terminal gets
its state back however `top` ends. Without a terminal it prints once.
"""

from __future__ import annotations

import select
import signal
import sys
import termios
import time
import tty
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn, Self

from stoker.cli import jobs
from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import Command, Given, Option
from stoker.cli.kit.selection import Overview
from stoker.cli.queues import state_of
from stoker.cli.status import summary
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.core.daemon_views import QueueView, StatusView

SHORTEST_MS = 100
LOCAL_MODES = 3  # in the list of tcgetattr
LIVE = ("running", "held", "waiting", "queued")
HOW_TO_GET_THE_SCREEN = "a screen with logs and actions: pip install 'stoker[tui]'"
KEYS = "q quit   space refresh"
QUEUE_HEADERS = ("QUEUE", "CLASS", "STATE", "RUNNING", "QUEUED", "WAITING", "HELD")
SPARE_OF_QUEUES = ("HELD", "WAITING", "CLASS")
# Progress counts for more here than in `ls`, and live jobs have no reason yet.
SPARE_OF_JOBS = ("PRIO", "TRY", "AGE", "WHY", "QUEUE", "RAN", "SAYS")
MIN_QUEUE_LINES = 2


@Command(
    options=(
        values.duration_option("--every", "time between two refreshes (default: 1s)"),
        Option("--plain", None, "a plain text that is refreshed, instead of the screen with tables, logs and actions"),
    ),
    examples=("stoker top", "stoker top --every 250ms", "stoker top --plain"),
)
def top(given: Given) -> int:
    """The screen needs the extra `stoker[tui]`; its key `?` lists all others. Without a terminal it prints once."""
    pause_s = max(SHORTEST_MS, given["every_ms"] or 1_000) / 1_000
    with connect(given) as client:
        if not render.on_terminal():
            render.screen(screen_lines(client))
            return 0
        has_screen = find_spec("textual") is not None
        if has_screen and not given["plain"] and sys.stdin.isatty():
            client.status()  # a daemon that is not there is an error here, and a banner later
            return _open_screen(given["socket"], pause_s)
        remarks = [] if has_screen or given["plain"] else [HOW_TO_GET_THE_SCREEN]
        with Terminal() as terminal:
            while True:
                render.screen(screen_lines(client, remarks))
                if terminal.key(pause_s) in ("q", "Q"):
                    return 0


def _open_screen(socket: str | None, every_s: float) -> int:
    from stoker.cli.screen.app import TopApp  # noqa: PLC0415 - it imports Textual

    return TopApp(socket, every_s).run_to_its_end()


class Terminal:
    """The alternate screen, and keys without Enter; on exit the terminal is as it was."""

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would give our screen to the shell
        if self._modes is not None:
            tty.setcbreak(sys.stdin)
            _keep_output_at_interrupt()
        render.take_screen()
        return self

    def __exit__(self, *_: object) -> None:
        render.give_screen_back()
        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)

    def key(self, within_s: float) -> str:
        """The key that is pressed within that time, or an empty string."""
        if self._modes is None:
            time.sleep(within_s)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], within_s)
        pressed = sys.stdin.read(1) if ready else ""
        return "q" if ready and not pressed else pressed  # the terminal is gone


def _keep_output_at_interrupt() -> None:
    """Set NOFLSH: at Ctrl-C the kernel signals us, then discards output, perhaps what restores the screen."""
    modes = termios.tcgetattr(sys.stdin)
    modes[LOCAL_MODES] |= termios.NOFLSH
    termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)


def _leave(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def screen_lines(client: Client, remarks: Sequence[str] = ()) -> list[str]:
    """The lines of one screen. All requests are made before anything is printed, so that it does not flicker."""
    columns, lines = render.terminal_size()
    status = client.call("system.status", {})
    head = [render.cut(line, columns) for line in (*_head(status), *remarks)]
    room = min(lines, values.SHOWN + len(head) + len(status["queues"])) - len(head) - 2  # for a blank line and the keys
    queues = _queues(status["queues"], max(MIN_QUEUE_LINES, room // 3), columns)
    left = max(1, room - len(queues) - 2)  # for a blank line and the headers
    overview = Overview(client, LIVE, {}, left)
    headers, rows = jobs.columns(overview.jobs, time.time_ns() // 1_000_000)
    screen = [*head, "", *queues, "", *table.lines(headers, rows, columns, spare=SPARE_OF_JOBS)]
    if not render.on_terminal():
        return screen
    screen = screen[: lines - 1]
    return [*screen, *[""] * (lines - 1 - len(screen)), render.paint(render.cut(KEYS, columns), render.DIM)]


def _head(status: StatusView) -> list[str]:
    """The facts that fit a small screen; safe mode is part of the first line."""
    facts = dict(summary(status))
    shown = [("stokerd", f"{status['version']}, up {render.span(status['uptime_ms'])}, {facts['mode']}")]
    shown += [(key, str(facts[key])) for key in ("next", "jobs", "pressure") if facts.get(key)]
    return [f"{key:<8} {render.visible(value)}" for key, value in shown]


def _queues(queues: list[QueueView], most: int, columns: int) -> list[str]:
    """One line per queue; where there is no room for all, the busiest ones first."""
    busiest = sorted(queues, key=lambda queue: -(queue["running"] + queue["queued"] + queue["waiting"] + queue["held"]))
    shown = busiest[: max(1, most - 2)] if len(queues) > most - 1 else queues
    rows: list[tuple[object, ...]] = [
        (
            queue["name"],
            queue["class"],
            state_of(queue),
            *(queue[count] for count in ("running", "queued", "waiting", "held")),
        )
        for queue in shown
    ]
    more = [f"… {len(queues) - len(shown)} more queues"] if len(shown) < len(queues) else []
    return [*table.lines(QUEUE_HEADERS, rows, columns, spare=SPARE_OF_QUEUES), *more]
