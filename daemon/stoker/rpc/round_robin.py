"""The turns of all connections: users in turn, and of each user its connections in turn, for a few milliseconds in each
iteration of the event loop.

Owns the order. Invariant: an iteration of the loop stays short, and a connection waits for at most one turn of each
other user, and of each other one of its own user, however many are busy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

TURN_S = 0.005  # of all connections together in one iteration


Watched = Callable[[Callable[..., None]], Callable[..., None]]  # wraps a callback to measure its CPU time


class TurnTaker(Protocol):
    def take_turn(self, until: float) -> None:
        """Do something useful, and stop soon after `until` (of `time.perf_counter`)."""


class RoundRobin:
    def __init__(self, watched: Watched) -> None:
        self._due: dict[int, deque[TurnTaker]] = {}  # by user, in the order of the users' turns
        self._waiting = 0
        self._scheduled = False
        self._callback = watched(self._serve)
        self._serve_now = watched(self._serve_one)
        self._rests_until = 0.0  # when the next one may take its turn at once
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: Python 3.11 makes a system call of it

    def ask(self, taker: TurnTaker, uid: int, *, now: bool = False) -> None:
        """Let it take one turn, after all of its user that have asked before.

        `now`: here, if no other one is due, which saves a round of the event loop. After such a turn others wait for
        the next round for as long as it took: many that ask in one round would make it long.
        """
        if now and not self._scheduled and time.perf_counter() >= self._rests_until:
            self._serve_now(taker)
        else:
            self._due.setdefault(uid, deque()).append(taker)
            self._waiting += 1
            self._schedule()

    def _serve_one(self, taker: TurnTaker) -> None:
        began = time.perf_counter()
        taker.take_turn(began + TURN_S)
        ended = time.perf_counter()
        self._rests_until = ended + (ended - began)

    def _schedule(self) -> None:
        if self._due and not self._scheduled:
            self._scheduled = True
            self._loop = self._loop or asyncio.get_running_loop()
            self._loop.call_soon(self._callback)

    def _next(self) -> TurnTaker:
        """The next connection of the first user, who comes last from now on."""
        uid, takers = next(iter(self._due.items()))
        del self._due[uid]
        taker = takers.popleft()
        if takers:
            self._due[uid] = takers
        self._waiting -= 1
        return taker

    def _serve(self) -> None:
        self._scheduled = False
        now = time.perf_counter()
        end = now + TURN_S
        try:
            while self._due and now < end:
                self._next().take_turn(now + TURN_S / (1 + self._waiting))
                now = time.perf_counter()
        finally:
            self._schedule()
