"""Writes log lines to a descriptor from a thread of its own, so that nobody who logs ever waits for the reader.

Owns the lines that wait, the thread, and the count of lines that were lost. A terminal stopped with Ctrl-S, a pipe that
nobody reads and a stuck journald block the thread alone. Lines beyond `MAX_WAITING_BYTES` are dropped as they come and
counted; the loss is reported once the descriptor takes lines again.

Invariants: lines are written in the order in which they came, and whole; `write` neither blocks nor raises; a process
that exits waits for the thread no longer than `flush` is told to.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAITING_BYTES: Final = 4 << 20


class LogWriter:
    """`report_loss` gets the number of lost lines, in the thread, after the first write that succeeds again."""

    def __init__(self, fd: int, report_loss: Callable[[int], None]) -> None:
        self._fd = fd
        self._report_loss = report_loss
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._thread: threading.Thread | None = None
        self._unreported = 0
        self.lost_lines = 0

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, lines: bytes) -> None:
        """Queue whole lines, or drop them where too many wait already."""
        with self._changed:
            if self._waiting_bytes + len(lines) > MAX_WAITING_BYTES:
                self._lose(lines)
                return
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            if self._thread is None:
                self._start_thread()
            elif not self._writing:
                self._changed.notify()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written, at most `timeout_s`. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._writing), timeout_s)

    def _start_thread(self) -> None:
        """Where the host has no thread to give, the lines wait, and the next one tries again."""
        # A daemon thread: a reader that never reads must not keep the process from its end.
        thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            lines = self._take()
            written = self._write_all(lines)
            with self._changed:
                self._writing = False
                self._waiting_bytes -= len(lines)
                if not written:
                    self._lose(lines)
                lost = self._unreported if written else 0
                self._unreported -= lost
                self._changed.notify_all()
            if lost:
                self._report_loss(lost)

    def _take(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            lines = b"".join(self._waiting)
            self._waiting.clear()
            self._writing = True
            return lines

    def _write_all(self, lines: bytes) -> bool:
        """False when the descriptor refuses them: a closed terminal, a full disk."""
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever shares our stderr has made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True

    def _lose(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        self.lost_lines += count
        self._unreported += count
