"""The calls of all connections that the engine has not answered yet: bounded together.

Owns their number, and the connections that wait for it to fall. A client may hang up and come back with as many
requests again, while its first ones are still carried out: without a bound the engine would get work faster than it can
do it, other clients would wait, and memory would grow. Calls that bring no work have extra room, so that a cancel, a
drain or a probe gets through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.rpc.table import Method, MethodKind

MAX_BRINGING_WORK = 2048  # open calls at which no further call with work begins: four turns of the engine
MAX_OPEN = 2 * MAX_BRINGING_WORK  # of all kinds
MAX_OPEN_BYTES = 64 * 1024 * 1024
WOKEN_EACH = 256  # ends of calls: a thousand waiting connections are not woken for each single end


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
            # Connections that wait already go first.
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
        """Wakes waiting connections earlier: if long calls stay open, WOKEN_EACH others may never end."""
        return self._count <= MAX_BRINGING_WORK // 2 and self._bytes <= MAX_OPEN_BYTES // 2

    def when_fewer(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once when calls have ended, as there may be room then. First come, first served."""
        self._waiting.append(go_on)

    def _wake(self) -> None:
        waiting, self._waiting, self._ended = self._waiting, [], 0
        for go_on in waiting:
            go_on()
