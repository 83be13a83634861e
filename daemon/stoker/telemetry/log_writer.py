"""Writes log lines to a descriptor in a thread of its own, so that `log` never waits for the reader.

Owns the queue of lines, the thread, and the count of lost lines. A terminal stopped with Ctrl-S, a pipe without a
reader and a stuck journald block only the thread. When `MAX_WAITING_BYTES` wait, further lines are dropped and counted;
the loss is reported once the descriptor accepts lines again.

Invariants: lines are written whole and in order; `write` neither blocks nor raises; an exit waits for the thread at
most the timeout of `flush`.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_WAITING_BYTES: Final = 4 << 20
# After a write the lines of this time share the next one: a busy daemon would wake the thread for each turn, and the
# two would compete for the interpreter. A line after a quiet moment is written at once.
GATHER_S: Final = 0.05


class LogWriter:
    """`report_loss` gets the number of lost lines. The thread calls it after the first write that succeeds again."""

    def __init__(self, fd: int, report_loss: Callable[[int], None]) -> None:
        self._fd = fd
        self._report_loss = report_loss
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._thread: threading.Thread | None = None
        self._unreported = 0
        self._send: Callable[[bytes], bool] | None = None
        self.lost_lines = 0

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def send_by(self, send: Callable[[bytes], bool]) -> None:
        """From now on hand each line to `send`; the descriptor gets those for which it returns False."""
        self._send = send

    def write(self, lines: bytes) -> None:
        """Queue whole lines, or drop them if too many wait already."""
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
        """Wait until all lines are written, at most `timeout_s`. Returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._writing), timeout_s)

    def _start_thread(self) -> None:
        """Start the thread. If the kernel refuses it, the lines wait and the next `write` tries again."""
        # A daemon thread, so that a reader that never reads does not delay the exit.
        thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            lines = self._take()
            left = self._write_all(lines) if self._send is None else self._send_each(lines, self._send)
            time.sleep(GATHER_S)
            with self._changed:
                self._writing = False
                self._waiting_bytes -= len(lines)
                if left:
                    self._lose(left)
                lost = 0 if left else self._unreported
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

    def _send_each(self, lines: bytes, send: Callable[[bytes], bool]) -> bytes:
        left = b"".join(line for line in io.BytesIO(lines) if not send(line))
        return self._write_all(left)

    def _write_all(self, lines: bytes) -> bytes:
        """Returns what the descriptor refuses: a closed terminal, a full disk."""
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process that shares our stderr has made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        return bytes(rest)

    def _lose(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        self.lost_lines += count
        self._unreported += count
