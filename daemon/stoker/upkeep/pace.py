"""The pace of long work on the database, in small pieces with pauses between them.

The pauses are in proportion to the pieces, so that a slow disk makes the work slower and not the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

SHORTEST_PAUSE_S = 0.001
LEAST_S = 1.0


def _now() -> float:
    return asyncio.get_running_loop().time()


class Pace:
    """`share`: how much longer a pause is than the piece before it. It is over after `limit_s`, or when `gives_way`.

    It gives way after a second at the earliest, or a client that asks again and again would keep the work from its end.
    """

    def __init__(
        self, share: float, limit_s: float | None = None, gives_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._share = share
        self._gives_way = gives_way
        self._stays_until = _now() + LEAST_S
        self._ends = None if limit_s is None else _now() + limit_s

    @property
    def is_over(self) -> bool:
        now = _now()
        return (now >= self._stays_until and self._gives_way()) or (self._ends is not None and now >= self._ends)

    @asynccontextmanager
    async def piece(self) -> AsyncGenerator[None]:
        """Do one piece inside; it is followed by its pause."""
        began = _now()
        yield
        await asyncio.sleep(max(SHORTEST_PAUSE_S, self._share * (_now() - began)))
