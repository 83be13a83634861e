"""The pace of long work on the database, in small pieces with pauses between them.

The pauses are in proportion to the pieces, so that a slow disk makes the work slower and not the answers. A timer of
the event loop counts whole milliseconds: short pauses are saved up, and the milliseconds by which one was too long are
taken off the next. A pause that was much longer, as the daemon was stopped, makes the following ones no shorter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

SHORTEST_PAUSE_S = 0.001
MOST_TAKEN_OFF_S = 0.01
LEAST_S = 1.0


def _now() -> float:
    return asyncio.get_running_loop().time()


class Pace:
    """`share`: the length of a pause, as a multiple of the piece before it. `limit_s`: when the work is over.

    It is over earlier when `gives_way` is true, but only after a second: otherwise a client that asks again and again
    would stop all work.
    """

    def __init__(
        self, share: float, limit_s: float | None = None, gives_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._share = share
        self._gives_way = gives_way
        self._stays_until = _now() + LEAST_S
        self._ends = None if limit_s is None else _now() + limit_s
        self._due_s = 0.0  # of pauses; below 0 after one that lasted too long

    @property
    def is_over(self) -> bool:
        now = _now()
        return (now >= self._stays_until and self._gives_way()) or (self._ends is not None and now >= self._ends)

    @asynccontextmanager
    async def piece(self) -> AsyncGenerator[None]:
        """Do one piece inside. Other tasks go on after it, or for as long as the pause that is due."""
        began = _now()
        yield
        ended = _now()
        self._due_s += self._share * (ended - began)
        if self._due_s < SHORTEST_PAUSE_S:
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(self._due_s)
            self._due_s = max(self._due_s - (_now() - ended), -MOST_TAKEN_OFF_S)
