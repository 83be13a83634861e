"""What can be known of a command before it is stored: that its directory and its program are there.

Owns the look at the file system, which never happens on the loop: a dead network mount would hang all
clients. Answers are kept for a second, so a stream of similar jobs costs one look. Where the look itself
hangs, the job is accepted and the launcher finds out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stoker.core.clock import Clock
from stoker.core.errors import InvalidParams
from stoker.core.model import ExecutionMode
from stoker.core.requests import JobWork

KEEP_MS = 1_000
KEEP_MANY = 4_096
PATIENCE_S = 2.0
HINT = "name it by its whole path, or put its directory into PATH in env"

Place = tuple[str, str, str]  # command, working_dir, PATH


class CommandChecks:
    """Finds out whether commands could be executed, in a thread of its own."""

    def __init__(self, clock: Clock, default_path: str) -> None:
        self._clock = clock
        self._default_path = default_path
        self._known: dict[Place, tuple[int, tuple[str, str] | None]] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="command-check")

    def place(self, sent: JobWork) -> Place | None:
        """What has to be looked at for a job; None where there is nothing to look at."""
        if sent.execution_mode is ExecutionMode.IN_PROCESS:
            return None
        directory = sent.working_dir if isinstance(sent.working_dir, str) else "/"
        path = sent.env.get("PATH", self._default_path) if isinstance(sent.env, dict) else self._default_path
        return (sent.command, directory, path)

    def unknown(self, places: Sequence[Place | None]) -> list[Place]:
        """Which of `places` were not looked at within the last second."""
        limit = self._clock.now().steady - KEEP_MS
        return [
            place
            for place in dict.fromkeys(places)
            if place is not None and (place not in self._known or self._known[place][0] < limit)
        ]

    async def look(self, places: Sequence[Place]) -> None:
        """Look at all of them; a look that hangs counts as fine."""
        loop = asyncio.get_running_loop()
        try:
            found = await asyncio.wait_for(
                loop.run_in_executor(self._threads, lambda: [problem(*place) for place in places]), PATIENCE_S
            )
        except TimeoutError:
            found = [None] * len(places)
        if len(self._known) > KEEP_MANY:
            self._known.clear()
        now = self._clock.now().steady
        self._known.update({place: (now, said) for place, said in zip(places, found, strict=True)})

    def problem(self, place: Place | None) -> InvalidParams | None:
        """What was found wrong, as the error to answer with."""
        said = None if place is None else self._known.get(place, (0, None))[1]
        if said is None:
            return None
        field, message = said
        return InvalidParams(message, path=field, hint=HINT if field == "command" else None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def problem(command: str, working_dir: str, path: str) -> tuple[str, str] | None:
    """(field, message) of what keeps this command from being executed, or None."""
    directory = Path(working_dir)
    try:
        if not directory.is_dir():
            what = "is not a directory" if directory.exists() else "does not exist"
            return ("working_dir", f"working_dir: {working_dir} {what}")
        if not os.access(directory, os.X_OK):
            return ("working_dir", f"working_dir: {working_dir} may not be entered (no x permission)")
        return _program_problem(command, directory, path)
    except OSError as error:
        return ("working_dir", f"working_dir: {working_dir}: {error.strerror}")


def _program_problem(command: str, directory: Path, path: str) -> tuple[str, str] | None:
    if "/" not in command:
        candidates = [directory / entry / command for entry in path.split(":")]
        if any(_executable(candidate) for candidate in candidates):
            return None
        return ("command", f"command: {command!r} was not found along PATH={path}")
    program = directory / command
    if _executable(program):
        return None
    if not program.exists():
        return ("command", f"command: {command} does not exist")
    what = "is a directory" if program.is_dir() else "is not executable"
    return ("command", f"command: {command} {what}")


def _executable(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)
