"""A pipe as a daemon's stderr, whose reader a test can stop, like Ctrl-S in a terminal or a stuck journald.

Owns the pipe and the thread that copies it to a file. Invariant: nothing that was read is lost, and the pipe outlives
every daemon that writes to it.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PIPE_BYTES = 4_096
LOOK_MS = 50


class LogRelay(threading.Thread):
    """Copies the pipe at `path` to `target` until `finish`, except between `block` and `unblock`."""

    def __init__(self, path: Path, target: Path) -> None:
        super().__init__(name=f"relay of {target}", daemon=True)
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._target = target
        self._reading = threading.Lock()  # held from the look at `_flows` to the read: after `block` nothing is read
        self._flows = threading.Event()
        self._flows.set()
        self._over = False

    def run(self) -> None:
        with self._target.open("ab", buffering=0) as target:
            while not self._over or _ready(self._pipe, select.POLLIN, 0):
                self._flows.wait()
                if _ready(self._pipe, select.POLLIN, LOOK_MS):
                    with self._reading:
                        if self._flows.is_set():
                            target.write(os.read(self._pipe, PIPE_BYTES))

    def block(self) -> None:
        with self._reading:
            self._flows.clear()

    def unblock(self) -> None:
        self._flows.set()

    @property
    def blocked(self) -> bool:
        """Whether the pipe is full, so that a writer would wait."""
        return not self._flows.is_set() and not _ready(self._pipe, select.POLLOUT, 0)

    @property
    def drained(self) -> bool:
        return not _ready(self._pipe, select.POLLIN, 0)

    def finish(self) -> None:
        """Copy what is left, and end."""
        self._over = True
        self.unblock()
        if self.is_alive():
            self.join()
            os.close(self._pipe)


def _ready(descriptor: int, event: int, timeout_ms: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, event)
    return bool(poller.poll(timeout_ms))
