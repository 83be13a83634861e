"""`stoker logs` of a group: what all its steps wrote, each line after the name of its step.

Without --follow one log comes after the other; with it all at once, line by line as they are written. Owns these lines.
Each step that is followed takes a connection and a thread, so there are MOST_FOLLOWED at a time; those that run first.
"""

from __future__ import annotations

import re
from _thread import allocate_lock, start_new_thread
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from stoker.cli.follow import LogReader, ReaderWatch
from stoker.cli.kit import outcome, render
from stoker.cli.kit.addresses import OPEN, NamedGroup, job_or_group
from stoker.cli.kit.connection import call, connect, patiently
from stoker.cli.kit.naming import few, groups
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stoker.cli.follow import Show
    from stoker.cli.kit.parser import Given
    from stoker.core.views import StepStandingView, StepView
    from stoker.core.wire_types import LogPiece

LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)
MOST_FOLLOWED = 64
MOST_HELD = 1 << 16  # bytes of a line that has no end yet


def print_piece(about: dict[str, str], piece: LogPiece, data: bytes | None) -> None:
    """`about`: what is known of the whole log."""
    shown: dict[str, int | str] = {**about, "attempt": piece["attempt"], "offset": piece["offset"]}
    shown |= {"hole": piece["hole"]} if data is None else {"text": data.decode("utf-8", "backslashreplace")}
    render.line(render.json_text(shown))
    render.flush()


# --- one after the other --------------------------------------------------------------------------------------------


def print_all(given: Given, group: NamedGroup) -> None:
    """In the order of the steps."""
    with connect(given) as client:
        workflow = client.call("workflow.get", {"id": group.address[0]})
    jobs = {step["job"] for step in group.tasks}
    steps = [step for step in workflow["steps"] if step["job"] in jobs]
    started = [step for step in steps if step["attempts"] >= (given["attempt"] or 1)]
    with render.LogText(raw=given["raw"]) as text:
        _print_logs(given, started, text)
    if missing := [step["name"] for step in steps if step not in started]:
        what = f"no attempt {given['attempt']}" if given["attempt"] else "not started"
        render.note(f"{what}: {few(groups(missing))}")


def _print_logs(given: Given, steps: list[StepView], text: render.LogText) -> None:
    width = max((len(step["name"]) for step in steps), default=0)
    logs = []
    for step in steps:
        lines = NamedLines(render.visible(step["name"]).ljust(width), text.write)
        show = partial(print_piece, {"step": step["name"]}) if given["json"] else lines.show(text)
        reader = LogReader(given, step["job"], show, attempt=given["attempt"] or step["attempts"])
        reader.tail_lines = given["tail_lines"]
        logs.append((reader, lines))
    logs.reverse()

    def those_left(client: Client) -> None:
        while logs:
            reader, lines = logs[-1]
            reader.one_attempt(client, follow=False)
            lines.finish()
            logs.pop()

    patiently(given, those_left)


# --- all at once ----------------------------------------------------------------------------------------------------


def follow(given: Given, group: NamedGroup) -> None:
    """Until all steps have ended, also those that the group gets meanwhile."""
    followed = set[int]()
    with ReaderWatch(), render.LogText(raw=given["raw"]) as text:
        while steps := [step for step in group.tasks if step["job"] not in followed]:
            followed.update(step["job"] for step in steps)
            _Followers(given, steps, text).run()
            named = job_or_group(given, str(group.address))
            if not isinstance(named, NamedGroup):
                return
            group = named


class _Followers:
    """Threads that follow these steps. The first error of one ends the command."""

    def __init__(self, given: Given, steps: Sequence[StepStandingView], text: render.LogText) -> None:
        self._given = given
        self._text = text
        self._left = deque(sorted(steps, key=lambda step: step["state"] in OPEN and step["state"] != "running"))
        self._width = max(len(step["name"]) for step in steps)
        self._writes = allocate_lock()
        self._open = min(MOST_FOLLOWED, len(steps))
        self._over = allocate_lock()  # held until the last thread has ended
        self._error: BaseException | None = None

    def run(self) -> None:
        self._over.acquire()
        for _ in range(self._open):
            start_new_thread(self._follow_some, ())
        self._over.acquire()
        if self._error is not None:
            raise self._error

    def _follow_some(self) -> None:
        error = None
        try:
            while (step := self._next()) is not None:
                self._follow_one(step)
        except BaseException as raised:  # noqa: BLE001 - `run` raises it in the main thread
            error = raised
        with self._writes:
            self._open -= 1
            if self._error is None and (error is not None or not self._open):
                self._error = error
                self._over.release()

    def _next(self) -> StepStandingView | None:
        with self._writes:
            return self._left.popleft() if self._left and self._error is None else None

    def _follow_one(self, step: StepStandingView) -> None:
        given = self._given
        job = call(given, "job.get", {"id": step["job"], "limit": 1})
        if outcome.ended(job) and not job["attempts"]:
            return
        lines = WholeLines(render.visible(step["name"]).ljust(self._width), self._text.write)
        show = partial(print_piece, {"step": step["name"]}) if given["json"] else lines.show(self._text)
        reader = LogReader(given, job["id"], self._in_turn(show), attempt=given["attempt"] or max(1, job["attempts"]))
        reader.tail_lines = given["tail_lines"]
        reader.explains = False
        patiently(given, reader.to_the_end if given["attempt"] is None else partial(reader.one_attempt, follow=True))
        with self._writes:
            lines.finish()

    def _in_turn(self, show: Show) -> Show:
        def shown(piece: LogPiece, data: bytes | None) -> None:
            with self._writes:
                show(piece, data)

        return shown


# --- lines ----------------------------------------------------------------------------------------------------------


class NamedLines:
    """Writes lines with a name before each; also before what a carriage return begins anew, as a progress bar does."""

    def __init__(self, name: str, write: Callable[[bytes], None]) -> None:
        self._name = f"{name} | ".encode()
        self._write = write
        self._last = b"\n"

    def show(self, text: render.LogText) -> Show:
        def show(piece: LogPiece, data: bytes | None) -> None:
            if data is None:
                self.finish()
                text.hole(piece["hole"])
            else:
                self.write(data)

        return show

    def write(self, data: bytes) -> None:
        if not data:
            return
        named = LINE_END.sub(lambda end: end[0] + self._name, data)
        if data.endswith(b"\n"):
            named = named.removesuffix(self._name)
        begins = self._last == b"\n" or (self._last == b"\r" and not data.startswith(b"\n"))
        self._write((self._name if begins else b"") + named)
        self._last = data[-1:]

    def finish(self) -> None:
        """End a line that has no end."""
        if self._last != b"\n":
            self.write(b"\n")


class WholeLines(NamedLines):
    """Writes a line once it has ended, as the next one may be of another step."""

    def __init__(self, name: str, write: Callable[[bytes], None]) -> None:
        super().__init__(name, write)
        self._held = b""

    def write(self, data: bytes) -> None:
        lines, end, rest = (self._held + data).rpartition(b"\n")
        self._held = rest
        super().write(lines + end)
        if len(rest) > MOST_HELD:
            self.finish()

    def finish(self) -> None:
        if self._held:
            self.write(b"\n")
