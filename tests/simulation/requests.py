"""Requests of simulated clients: each is answered or refused by name, and a refused one has changed nothing.

Owns the note of each request, by which a change on disk is traced back to it. Invariant: a request is asked of one life
of the daemon, and forgotten with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from stoker.core.errors import AlreadyFinished, StokerError
from tests.simulation.laws import Laws

if TYPE_CHECKING:
    from tests.simulation.life import Life

SINCE = "SELECT coalesce(max(seq), 0) FROM changes"
CHANGED = "SELECT 1 FROM changes WHERE seq > ? AND instr(payload, ?) LIMIT 1"


class Open(Struct):
    """A request without an answer yet. `stops`: the job whose end it waits for; `since`: the last change before it."""

    since: int
    stops: int | None


class Requests:
    """The requests of all clients to the living daemon."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._open: dict[str, Open] = {}
        self._refused: list[tuple[int, str]] = []
        self._count = 0

    def ask(
        self,
        life: Life,
        verb: str,
        call: Callable[[str], Awaitable[Any]],
        hear: Callable[[Any], None],
        *,
        stops: int | None = None,
    ) -> None:
        """Send a request; `call` gets its note, `hear` its answer. `stops`: it may wait for the end of this job."""
        self._count += 1
        note = f"{verb} no. {self._count};"
        self._open[note] = Open(self._laws.number(SINCE), stops)
        with life.loop.running():
            life.loop.create_task(self._asked(note, call, hear), name=note)

    async def _asked(self, note: str, call: Callable[[str], Awaitable[Any]], hear: Callable[[Any], None]) -> None:
        try:
            hear(await call(note))
        except StokerError as error:
            self._laws.looks["refusal"] += 1
            # A stop that comes too late is on disk, and the answer says that the job had ended.
            if not isinstance(error, AlreadyFinished):
                self._refused.append((self._open[note].since, note))
        except Exception as error:  # noqa: BLE001 - any other error breaks the law
            self._laws.broken(f"{note} was answered with {error!r}")
        del self._open[note]

    def unanswered(self, stopping: Callable[[int], bool]) -> None:
        """The daemon has nothing to do: only stops that are under way have no answer yet."""
        self._laws.looks["answers"] += 1
        for note, one in self._open.items():
            if one.stops is None or not stopping(one.stops):
                self._laws.broken(f"{note} is not answered, and nobody is going to")

    def check_refusals(self) -> None:
        """To be called while no commit is under way."""
        for since, note in self._refused:
            if self._laws.number(CHANGED, since, note):
                self._laws.broken(f"{note} was refused, and it has changed something")
        self._refused.clear()

    def forget(self) -> None:
        """The daemon has died."""
        self._open.clear()
