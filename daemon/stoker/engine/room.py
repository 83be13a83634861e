"""Clients that wait for room in a queue whose `max_queued`, or that of all queues, is reached.

Owns the line of those that wait for each queue. After a turn as many are woken as there are free places, in the order
in which they came; a client that is woken submits, and waits again if others were faster. Invariant: a client that
comes while there is room does not wait.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from stoker.engine.memory import LiveState
from stoker.engine.submit import Intake
from stoker.engine.turn import Turn


class Rooms:
    def __init__(self, memory: LiveState, intake: Intake) -> None:
        self._memory = memory
        self._intake = intake
        self._lines: dict[str, dict[asyncio.Event, None]] = {}

    async def wait(self, name: str) -> int:
        """Return once a queue has room, and for how many jobs. Raises QueueNotFound."""
        if places := self._intake.places(self._memory, self._memory.queue(name, "name")):
            return places
        room = asyncio.Event()
        line = self._lines.setdefault(name, {})
        line[room] = None
        try:
            await room.wait()
        finally:
            del line[room]
            if not line:
                self._lines.pop(name, None)
        return self._intake.places(self._memory, self._memory.queues[name])

    def after_commit(self, _turn: Turn) -> None:
        for name, line in self._lines.items():
            for room in islice(line, self._intake.places(self._memory, self._memory.queues[name])):
                room.set()
