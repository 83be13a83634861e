"""The view of a person who waits for a workflow: a bar, the steps that run, and those that went wrong.

On a terminal it is drawn on stderr and follows the changes, once a second also without one; elsewhere it is a plain
line at most once a minute. Owns what is in it and how often it comes; `--quiet` leaves it out. The lines are gone when
it is left, so that other messages never stand among them.
"""

from __future__ import annotations

import os
import select
import sys
import time
from _thread import allocate_lock, start_new_thread
from typing import TYPE_CHECKING

from stoker.cli.kit import render, step_groups
from stoker.cli.kit.naming import few
from stoker.cli.kit.outcome import FINAL
from stoker.cli.kit.progress import DRAWN_S, bar
from stoker.core.units import duration

if TYPE_CHECKING:
    from typing import Self

    from stoker.cli.kit.parser import Given
    from stoker.core.views import WorkflowDetails
    from stoker.core.wire_types import ChangeShape

TICK_MS = 1_000
PLAIN_S = 60.0
MOST_RUNNING, MOST_BAD = 5, 4
NARROWEST, LOWEST = 20, 4  # a terminal that is smaller gets no drawing


class WorkflowStandings:
    """The states of the steps of a workflow, from one reading and the changes since then."""

    def __init__(self, workflow: WorkflowDetails) -> None:
        self._workflow = workflow
        self._names = {step["job"]: step["name"] for step in workflow["steps"]}
        self.states = {step["job"]: str(step["state"]) for step in workflow["steps"]}
        self._since: dict[int, int] = {}

    def take(self, change: ChangeShape) -> None:
        job, state = change["job"], change["to"]
        if job is not None and state is not None and job in self.states:
            self.states[job] = state
            self._since[job] = change["at"]

    def summary(self) -> str:
        """`workflow 7: 12 of 40 steps ended, 4 running, 1 failed`."""
        counts = {state: self._count(state) for state in ("running", *step_groups.BAD)}
        others = "".join(f", {count} {state}" for state, count in counts.items() if count)
        return f"workflow {self._workflow['id']}: {self._ended()} of {len(self.states)} steps ended{others}"

    def lines(self, now_ms: int) -> list[str]:
        """Plain text, without a bound of their length."""
        ended, total = self._ended(), len(self.states)
        share = ended / total
        estimate = step_groups.estimate_text(self._workflow.get("earlier_runs"), now_ms - self._workflow["created_at"])
        head = f"{bar(share)} {share:4.0%} {self._workflow['name']}: {ended} of {total} steps ended"
        return [
            f"{head}; {estimate}" if estimate else head,
            *self._running(now_ms),
            *(f"  {state}: {few(names, MOST_BAD)}" for state in step_groups.BAD if (names := self._named(state))),
        ]

    def _running(self, now_ms: int) -> list[str]:
        jobs = [job for job, state in self.states.items() if state == "running"]
        lines = []
        for job in jobs[:MOST_RUNNING]:
            since = self._since.get(job)
            ran = "" if since is None else f" {duration(max(0, now_ms - since))}"
            lines.append(f"  running: {self._names[job]}{ran}")
        return [*lines, f"  running: {len(jobs) - MOST_RUNNING} more"] if len(jobs) > MOST_RUNNING else lines

    def _ended(self) -> int:
        return sum(state in FINAL for state in self.states.values())

    def _count(self, state: str) -> int:
        return sum(one == state for one in self.states.values())

    def _named(self, state: str) -> list[str]:
        return [self._names[job] for job, one in self.states.items() if one == state]


class WorkflowProgress:
    """Shows the standings while it is entered; may be entered again, as after a restart of the daemon."""

    def __init__(self, given: Given) -> None:
        self._quiet = bool(given.get("quiet"))
        self._on_terminal = sys.stderr.isatty()
        self._standings: WorkflowStandings | None = None
        self._lock = allocate_lock()
        self._is_drawn = False
        self._shown = 0.0 if self._on_terminal else time.monotonic()

    def __enter__(self) -> Self:
        self._over = os.eventfd(0)
        self._draws = self._on_terminal and not self._quiet
        if self._draws:
            start_new_thread(self._tick, (os.dup(self._over),))
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._draws = False
            if self._is_drawn:
                self._draw([])
        os.eventfd_write(self._over, 1)
        os.close(self._over)

    def show(self, standings: WorkflowStandings) -> None:
        """To be called after each change: it draws as often as a person can follow."""
        self._standings = standings
        now = time.monotonic()
        if self._draws and now >= self._shown + DRAWN_S:
            self._redraw()
        elif not self._on_terminal and not self._quiet and now >= self._shown + PLAIN_S:
            self._shown = now
            render.note(standings.summary())

    def _tick(self, over: int) -> None:
        """The times in the drawing grow, and the last of many changes is shown, also if no change follows."""
        poll = select.poll()
        poll.register(over, select.POLLIN)
        while not poll.poll(TICK_MS):
            self._redraw()
        os.close(over)

    def _redraw(self) -> None:
        with self._lock:
            if self._standings is not None and self._draws:
                self._shown = time.monotonic()
                self._draw(self._standings.lines(time.time_ns() // 1_000_000))

    def _draw(self, lines: list[str]) -> None:
        """In the place of the lines that were drawn before: the cursor stays at the first of them, so that what clears
        them needs not know their number."""
        columns, rows = render.terminal_size(sys.stderr)
        fits = columns >= NARROWEST and rows >= LOWEST
        cut = [render.cut(render.visible(line), columns - 1) for line in lines[: rows - 1]] if fits else []
        up = f"\r\x1b[{len(cut) - 1}A" if len(cut) > 1 else "\r"
        self._is_drawn = bool(cut)
        render.progress("\x1b[J" + "\n".join(cut) + up, beside_output=False)
