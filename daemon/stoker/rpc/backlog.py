"""Bytes that clients have not read yet, over all connections: bounded together, as each alone may hold megabytes.

Owns the sum, and which connection ends when it is too large: the one that has left most unread. The daemon's memory
must not depend on how many clients stop reading.
"""

from __future__ import annotations

from typing import Protocol

from stoker.core.errors import StokerError

MAX_UNREAD_BYTES = 256 * 1024 * 1024


class AnswerReader(Protocol):
    @property
    def unread_bytes(self) -> int: ...
    def break_off(self, error: StokerError) -> None: ...


class Backlog:
    def __init__(self, most: int = MAX_UNREAD_BYTES) -> None:
        self._most = most
        self._noted: dict[AnswerReader, int] = {}
        self._total = 0

    def note(self, reader: AnswerReader) -> None:
        """Its unread bytes have changed. May end a connection."""
        self._note(reader, reader.unread_bytes)
        if self._total > self._most:
            for each in list(self._noted):  # nothing tells when a client reads a part
                self._note(each, each.unread_bytes)
            while self._total > self._most:
                self._end_slowest()

    def forget(self, reader: AnswerReader) -> None:
        self._note(reader, 0)

    def _note(self, reader: AnswerReader, size: int) -> None:
        self._total += size - self._noted.pop(reader, 0)
        if size:
            self._noted[reader] = size

    def _end_slowest(self) -> None:
        slowest, size = max(self._noted.items(), key=lambda noted: noted[1])
        total = self._total
        self.forget(slowest)
        slowest.break_off(
            StokerError(
                f"this client has left {size} bytes unread, the most of all; together they are {total}, "
                f"the limit is {self._most}",
                hint="read answers while you send requests",
            )
        )
