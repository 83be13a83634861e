"""Checks a command before it is stored: its directory and its program, or its handler, must exist.

Owns the file system access for these checks. It is never made on the event loop: a dead network mount would hang all
clients. Results are kept for a second, and used while they are checked again, so a stream of similar jobs makes one
check a second. If a check hangs, the job is accepted, and the launcher reports the problem; until that check ends, no
other one is made for the same directory.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import Event
from typing import Any, TypeVar

from msgspec import UnsetType

from stoker.core.access import Role
from stoker.core.clock import Clock
from stoker.core.errors import InvalidParams, StokerError
from stoker.core.job.model import ExecutionMode
from stoker.core.raw_bytes import native, printable
from stoker.core.requests import JobWork
from stoker.engine.intake import CommandRequest
from stoker.executors import handlers
from stoker.host import programs
from stoker.host.programs import CommandProblem, ProblemKind
from stoker.host.threads import start_threads

KEEP_MS = 1_000  # so that a stream of similar jobs costs one check
KEEP_MANY = 4_096
PATIENCE_S = 2.0
THREADS = 2
HINT = "give its full path"
# Commands that only a shell knows.
SHELL_WORDS = {"alias", "cd", "eval", "exec", "exit", "export", "set", "source", "ulimit", "umask", "unset"}
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
HINT_DAEMON = 'give its full path, or submit with --env PATH="$PATH" to search your own PATH'

HINT_ENTER = "name a directory that this user may enter: --working-dir /"
MAY_COME = frozenset({ProblemKind.MISSING, ProblemKind.NOT_EXECUTABLE})  # an earlier step may make what is needed

T = TypeVar("T")
Place = tuple[str, str, str]  # command, working_dir, PATH
Directories = tuple[str, str]  # working_dir, PATH


class Preflight:
    """Finds out whether commands could be executed, in a thread of its own.

    `blind`: jobs run as other users, so only their launchers can see what these may execute.
    """

    def __init__(self, clock: Clock, default_path: str, *, blind: bool = False) -> None:
        self._clock = clock
        self._blind = blind
        self._default_path = default_path
        self.backends: Collection[str] = ()  # queues whose jobs do not run on this host
        self._cache: dict[Place, tuple[int, CommandProblem]] = {}
        self._checking: set[Place] = set()  # their results are used until there are new ones
        self._threads = start_threads(THREADS, "command-check")
        self._hanging: dict[asyncio.Future[None], Directories] = {}  # checks that have not ended in time

    def check_known(self, request: CommandRequest[Any]) -> bool:
        """Check the commands of a request if that needs no file system access; otherwise `check` must follow."""
        places = [self._place(job) for job in request.commands]
        cached, missing = self._cached(places, self._checking)
        if missing:
            self._checking.update(missing)
            return False
        _note(request, places, cached)
        return True

    async def check(self, request: CommandRequest[Any]) -> None:
        places = [self._place(job) for job in request.commands]
        # `cached` is a copy: other requests may push results that this one needs out of the cache.
        cached, missing = self._cached(places)
        try:
            _note(request, places, cached | await self._search(missing))
        finally:
            self._checking.difference_update(places)

    async def problems(self, commands: Sequence[JobWork]) -> Sequence[StokerError | None]:
        """Why each of these commands of the settings file cannot be executed now."""
        request = CommandRequest[None](commands, Role.ADMIN)
        if not self.check_known(request):
            await self.check(request)
        return request.problems

    def _cached(
        self, places: Iterable[Place | None], checking: Collection[Place] = ()
    ) -> tuple[dict[Place, CommandProblem], list[Place]]:
        """The results that are recent or being checked again, and the places without a result."""
        limit = self._clock.now().steady - KEEP_MS
        cached: dict[Place, CommandProblem] = {}
        missing: dict[Place, None] = {}
        for place in places:
            if place is None or place in cached:
                continue
            entry = self._cache.get(place)
            if entry is not None and (entry[0] >= limit or place in checking):
                cached[place] = entry[1]
            elif not self._is_hanging(place):
                missing[place] = None
        return cached, list(missing)

    def _is_hanging(self, place: Place) -> bool:
        """Whether a check would only wait, because that directory or every thread hangs."""
        return len(self._hanging) >= THREADS or place[1:] in self._hanging.values()

    def _place(self, sent: JobWork) -> Place | None:
        """The path to check for a job; None if there is none."""
        if self._blind or sent.execution_mode is ExecutionMode.IN_PROCESS or sent.queue in self.backends:
            return None  # a node of a cluster may have what this host lacks
        directory = "/" if isinstance(sent.working_dir, UnsetType) else native(sent.working_dir)
        path = sent.env.get("PATH", self._default_path) if isinstance(sent.env, dict) else self._default_path
        return (native(sent.command), directory, native(path))

    async def _search(self, places: Sequence[Place]) -> dict[Place, CommandProblem]:
        """The results. Checks that took too long, or were cut off by a stop of the daemon, are left out."""
        problems: dict[Place, CommandProblem] = {}
        late = Event()
        begun: list[Place] = []

        def check_all() -> None:
            for place in places:
                if late.is_set():
                    return
                begun.append(place)
                problems[place] = programs.problem(*place)

        try:
            search = asyncio.get_running_loop().run_in_executor(self._threads, check_all)
        except RuntimeError:  # the daemon stops, and its threads are closed
            return {}
        await asyncio.wait({search}, timeout=PATIENCE_S)
        late.set()
        results = problems.copy()
        if search.done():
            search.result()
        elif begun:
            self._hanging[search] = begun[-1][1:]
            search.add_done_callback(self._hanging.pop)
        else:
            search.cancel()
        if len(self._cache) > KEEP_MANY:
            self._cache.clear()
        now = self._clock.now().steady
        self._cache.update({place: (now, result) for place, result in results.items()})
        return results

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _note(request: CommandRequest[Any], places: Sequence[Place | None], cached: Mapping[Place, CommandProblem]) -> None:
    placed = zip(request.commands, places, strict=True)
    request.problems = [_error(job, cached.get(place) if place else None, request.role) for job, place in placed]


def _error(sent: JobWork, result: CommandProblem, role: Role) -> StokerError | None:
    """The error for a job whose command cannot be executed, or not by a user of this role."""
    if sent.execution_mode is ExecutionMode.IN_PROCESS:
        return handlers.refusal(sent.command, role)
    if result is None:
        return None
    field, message, kind = result
    if kind is ProblemKind.NOT_IN_PATH:
        message += " of the job" if _has_path(sent) else " of the daemon"
    elif kind is ProblemKind.MAY_NOT_ENTER:
        message += ", the user of the daemon"
    hint = _hint(sent, kind) if field == "command" else HINT_ENTER if kind is ProblemKind.MAY_NOT_ENTER else None
    return InvalidParams(printable(message), path=field, hint=hint, **({"may_come": True} if kind in MAY_COME else {}))


def _hint(sent: JobWork, kind: ProblemKind) -> str | None:
    """A hint with the command to type instead; None for a full path that is wrong."""
    command = printable(native(sent.command))
    if ASSIGNMENT.match(command):
        return f"a variable is an option of submit and run: --env {shlex.quote(command)}"
    if len(command.split()) > 1:
        return f"for a shell's command line: sh -c {shlex.quote(command)}"
    if command in SHELL_WORDS:
        return f"a shell carries this out: sh -c '{command} …'"
    if kind is ProblemKind.NOT_EXECUTABLE:
        return f"chmod +x {shlex.quote(command)}"
    if command.startswith("/"):
        return None
    return HINT if "/" in command or _has_path(sent) else HINT_DAEMON


def _has_path(sent: JobWork) -> bool:
    return isinstance(sent.env, dict) and "PATH" in sent.env
