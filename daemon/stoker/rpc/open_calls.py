"""The calls of all connections that the engine has not answered yet: bounded together.

Owns their number and who waits for fewer. A client may hang up and come again with as many requests, and what has begun
still happens: without a bound the engine gets work faster than it does it, others wait behind all of that, and memory
grows. Calls that bring no work have further room, so that a cancel, a drain or a probe gets through while work waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.rpc.table import Method, MethodKind

MAX_BRINGING_WORK = 2048  # open calls with which no further one begins that brings work: four turns of the engine
MAX_OPEN = 2 * MAX_BRINGING_WORK  # of all kinds
MAX_OPEN_BYTES = 64 * 1024 * 1024
WOKEN_EACH = 256  # calls that have ended, so that a thousand that wait are not woken for the end of one


class OpenCalls:
    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._ended = 0  # since those that wait were woken
        self._waiting: list[Callable[[], None]] = []

    def has_room(self, method: Method[Any]) -> bool:
        """Whether a call of this method may begin. Other kinds have limits of their own, or are done at once."""
        if method.kind is not MethodKind.CALL:
            return True
        if method.brings_work:
            # None goes before those that wait already.
            return not self._waiting and self._count < MAX_BRINGING_WORK and self._bytes < MAX_OPEN_BYTES
        return self._count < MAX_OPEN

    def begin(self, size: int) -> None:
        self._count += 1
        self._bytes += size

    def end(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._ended += 1
        if self._waiting and (self._ended >= WOKEN_EACH or self._is_half_empty()):
            self._wake()

    def _is_half_empty(self) -> bool:
        """Calls that take long may stay open while too few others are left to end WOKEN_EACH times."""
        return self._count <= MAX_BRINGING_WORK // 2 and self._bytes <= MAX_OPEN_BYTES // 2

    def when_fewer(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when calls have ended: there may be room then. They are called in the order of asking."""
        self._waiting.append(go_on)

    def _wake(self) -> None:
        waiting, self._waiting, self._ended = self._waiting, [], 0
        for go_on in waiting:
            go_on()
