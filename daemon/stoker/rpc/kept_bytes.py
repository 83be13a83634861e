"""Bytes that are kept for clients, over all connections: bounded together, as each connection may hold megabytes.

Owns the sums. When a sum is too large, the connection that holds most of it ends; among equals, the one that changed
least recently. The daemon's memory must not depend on how many clients stop reading, never end a frame, or send more
than can be begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from stoker.core.errors import StokerError, TooManyRequests

MAX_UNREAD_BYTES = 256 * 1024 * 1024
MAX_UNFINISHED_BYTES = 64 * 1024 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024


class WaitingFrames:
    """The complete frames of one connection that wait. `size`: their bytes, with those of the frame taken last."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._taken = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frames: Iterable[bytes]) -> None:
        self._frames.extend(frames)
        self.size = self._taken + sum(map(len, self._frames))

    def take(self) -> bytes | None:
        """The next one; all requests of the one before have begun."""
        self.size -= self._taken
        frame = self._frames.popleft() if self._frames else None
        self._taken = 0 if frame is None else len(frame)
        return frame

    def clear(self) -> None:
        self._frames.clear()
        self._taken = self.size = 0


class Holder(Protocol):
    """A connection that bytes are kept for."""

    inbox: WaitingFrames

    @property
    def unread_bytes(self) -> int:
        """The bytes of answers that it has not read."""

    @property
    def unfinished_bytes(self) -> int:
        """The bytes of a frame that is not complete yet."""

    def break_off(self, error: StokerError) -> None:
        """Hang up: nothing can be sent to it."""

    def refuse(self, error: StokerError) -> None:
        """Drop the unfinished frame, answer with the error, then hang up."""

    def refuse_waiting(self, error: StokerError) -> None:
        """As `refuse`, and drop all requests that have not begun."""


class Bound(NamedTuple):
    """Calls `end` with the connection that holds most, its bytes, the sum of all, and the limit."""

    size: Callable[[Holder], int]
    end: Callable[[Holder, int, int, int], None]


class Backlog:
    def __init__(self, bound: Bound, most: int) -> None:
        self._bound = bound
        self._most = most
        self._noted: dict[Holder, int] = {}
        self._total = 0

    def note(self, holder: Holder) -> None:
        """Its bytes have changed. May end a connection."""
        self._note(holder, self._bound.size(holder))
        if self._total > self._most:
            for each in list(self._noted):  # no event says that a client has read a part
                self._note(each, self._bound.size(each))
            while self._total > self._most:
                self._end_largest()

    def forget(self, holder: Holder) -> None:
        self._note(holder, 0)

    def _note(self, holder: Holder, size: int) -> None:
        before = self._noted.get(holder, 0)
        if size == before:
            return
        self._total += size - before
        self._noted.pop(holder, None)
        if size:
            self._noted[holder] = size

    def _end_largest(self) -> None:
        largest, size = max(self._noted.items(), key=lambda noted: noted[1])
        total = self._total
        self.forget(largest)
        self._bound.end(largest, size, total, self._most)


def _end_slow_reader(holder: Holder, size: int, total: int, most: int) -> None:
    holder.break_off(
        StokerError(
            f"this client has left {size} bytes unread, the most of all; together they are {total}, "
            f"the limit is {most}",
            hint="read answers while you send requests",
        )
    )


def _refuse_unfinished(holder: Holder, size: int, total: int, most: int) -> None:
    holder.refuse(
        TooManyRequests(
            f"this client has sent {size} bytes of a frame that does not end, the most of all; together they are "
            f"{total}, the limit is {most}",
            hint="end each request with a newline; send large ones one after the other",
        )
    )


def _refuse_waiting(holder: Holder, size: int, total: int, most: int) -> None:
    holder.refuse_waiting(
        TooManyRequests(
            f"{size} bytes of requests of this client wait to be begun, the most of all; together they are "
            f"{total}, the limit is {most}",
            hint="look which of them were carried out, then send the others one after the other",
        )
    )


UNREAD = Bound(lambda holder: holder.unread_bytes, _end_slow_reader)
UNFINISHED = Bound(lambda holder: holder.unfinished_bytes, _refuse_unfinished)
WAITING = Bound(lambda holder: holder.inbox.size, _refuse_waiting)
