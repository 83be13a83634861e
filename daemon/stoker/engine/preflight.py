"""What can be known of a command before it is stored: that its directory and its program, or its handler, are there.

Owns the look at the file system, which never happens on the loop: a dead network mount would hang all
clients. Answers are kept for a second. Where the look itself hangs, the job is accepted and the launcher
finds out; nobody waits for that directory again until the look has come back.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from msgspec import UnsetType

from stoker.core.clock import Clock
from stoker.core.errors import HandlerNotFound, InvalidParams, StokerError
from stoker.core.job.model import ExecutionMode
from stoker.core.raw_bytes import native, printable
from stoker.core.requests import JobWork
from stoker.engine.inbox import RequestMessage
from stoker.executors.handlers import HANDLERS
from stoker.host.threads import start_threads

KEEP_MS = 1_000  # so that a stream of similar jobs costs one look
KEEP_MANY = 4_096
PATIENCE_S = 2.0
THREADS = 2
HINT = "give its full path"
HINT_DAEMON = 'give its full path, or submit with --env PATH="$PATH" to search your own PATH'

T = TypeVar("T")
Place = tuple[str, str, str]  # command, working_dir, PATH
Directories = tuple[str, str]  # working_dir, PATH
Said = tuple[str, str] | None  # field and message of what is wrong there


class CommandRequest(RequestMessage[T]):
    """A request to run commands. `problems`: the reason why each cannot be executed, once it was checked."""

    def __init__(self, commands: Sequence[JobWork]) -> None:
        super().__init__()
        self.commands = commands
        self.problems: Sequence[StokerError | None] = [None] * len(commands)


class Preflight:
    """Finds out whether commands could be executed, in a thread of its own."""

    def __init__(self, clock: Clock, default_path: str) -> None:
        self._clock = clock
        self._default_path = default_path
        self._known: dict[Place, tuple[int, Said]] = {}
        self._threads = start_threads(THREADS, "command-check")
        self._hanging: dict[asyncio.Future[None], Directories] = {}  # looks that have not come back in time

    def check_known(self, request: CommandRequest[Any]) -> bool:
        """Check the commands of a request if that needs no file system access. Returns whether it did."""
        places = [self._place(job) for job in request.commands]
        known, unknown = self._known_of(places)
        if not unknown:
            _note(request, places, known)
        return not unknown

    async def check(self, request: CommandRequest[Any]) -> None:
        """Check the commands of a request."""
        places = [self._place(job) for job in request.commands]
        # `known` is a copy: other requests may push out of memory what this one relies on.
        known, unknown = self._known_of(places)
        _note(request, places, known | await self._look(unknown))

    def _known_of(self, places: Iterable[Place | None]) -> tuple[dict[Place, Said], list[Place]]:
        limit = self._clock.now().steady - KEEP_MS
        asked = [place for place in dict.fromkeys(places) if place is not None]
        known = {place: entry[1] for place in asked if (entry := self._known.get(place)) and entry[0] >= limit}
        return known, [place for place in asked if place not in known and not self._is_hanging(place)]

    def _is_hanging(self, place: Place) -> bool:
        """Whether a check would only wait, because that directory or every thread hangs."""
        return len(self._hanging) >= THREADS or place[1:] in self._hanging.values()

    def _place(self, sent: JobWork) -> Place | None:
        """The path to check for a job; None if there is none."""
        if sent.execution_mode is ExecutionMode.IN_PROCESS:
            return None
        directory = "/" if isinstance(sent.working_dir, UnsetType) else native(sent.working_dir)
        path = sent.env.get("PATH", self._default_path) if isinstance(sent.env, dict) else self._default_path
        return (native(sent.command), directory, native(path))

    async def _look(self, places: Sequence[Place]) -> dict[Place, Said]:
        """The results. Checks that took too long, or were cut off by a stop of the daemon, are left out."""
        found: dict[Place, Said] = {}
        late = Event()
        begun: list[Place] = []

        def look() -> None:
            for place in places:
                if late.is_set():
                    return
                begun.append(place)
                found[place] = problem(*place)

        try:
            looking = asyncio.get_running_loop().run_in_executor(self._threads, look)
        except RuntimeError:  # the daemon stops, and its threads are closed
            return {}
        await asyncio.wait({looking}, timeout=PATIENCE_S)
        late.set()
        seen = found.copy()
        if looking.done():
            looking.result()
        elif begun:
            self._hanging[looking] = begun[-1][1:]
            looking.add_done_callback(self._hanging.pop)
        else:
            looking.cancel()
        if len(self._known) > KEEP_MANY:
            self._known.clear()
        now = self._clock.now().steady
        self._known.update({place: (now, said) for place, said in seen.items()})
        return seen

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _note(request: CommandRequest[Any], places: Sequence[Place | None], known: Mapping[Place, Said]) -> None:
    placed = zip(request.commands, places, strict=True)
    request.problems = [_error(job, known.get(place) if place else None) for job, place in placed]


def _error(sent: JobWork, said: Said) -> StokerError | None:
    """The error for a job whose command cannot be executed."""
    if sent.execution_mode is ExecutionMode.IN_PROCESS and sent.command not in HANDLERS:
        known = ", ".join(sorted(HANDLERS)) or "none"
        told = f"command: no in-process handler is called {sent.command!r} (there are: {known})"
        return HandlerNotFound(told, path="command")
    if said is None:
        return None
    field, message = said
    if message.endswith(" in PATH"):
        message += " of the job" if _has_path(sent) else " of the daemon"
    return InvalidParams(printable(message), path=field, hint=_hint(sent) if field == "command" else None)


def _hint(sent: JobWork) -> str:
    """A command line in place of a program needs a shell."""
    line = printable(native(sent.command))
    if len(line.split()) > 1:
        return f"for a shell's command line: sh -c {shlex.quote(line)}"
    return HINT if "/" in line or _has_path(sent) else HINT_DAEMON


def _has_path(sent: JobWork) -> bool:
    return isinstance(sent.env, dict) and "PATH" in sent.env


def problem(command: str, working_dir: str, path: str) -> Said:
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


def _program_problem(command: str, directory: Path, path: str) -> Said:
    if "/" not in command:
        # Not pathlib: a flow may ask for ten thousand programs at once.
        if any(_executable(os.path.join(directory, entry, command)) for entry in path.split(":")):  # noqa: PTH118
            return None
        return ("command", f"command: there is no program {command!r} in PATH")
    program = directory / command
    if _executable(str(program)):
        return None
    if not program.exists():
        return ("command", f"command: {command} does not exist")
    what = "is a directory" if program.is_dir() else "is not executable"
    return ("command", f"command: {command} {what}")


def _executable(program: str) -> bool:
    return os.access(program, os.X_OK) and os.path.isfile(program)  # noqa: PTH113 - as above
