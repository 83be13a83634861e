"""Reads of /proc that a process can make hang, such as that of its environment.

For these the kernel takes the lock of the process's memory. A thread of the process may hold that lock for as long as a
file system does not answer (munmap(2) beside a write to a mapped file, mmap(2) of a file on NFS). So the reads are made
in a thread, and a process at which it hangs is left out.
Invariant: at most one thread hangs for each process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

READ_S = 1.0  # a read takes microseconds, and longer on a busy host

_hanging: dict[int, threading.Thread] = {}


def read_in_time(read: Callable[[int], T], pids: Iterable[int]) -> dict[int, T]:
    """The result of `read` for each pid, without those at which it hangs. Raises the error of a read."""
    results: dict[int, T] = {}
    left = [pid for pid in pids if not _hangs(pid)]
    while left:
        reader = ProcReader(read, left)
        reader.read_while_it_goes_on()
        results |= reader.results
        left = left[len(reader.results) :]
        if left:
            _hanging[left.pop(0)] = reader
    return results


def _hangs(pid: int) -> bool:
    """Whether an earlier read of it still hangs."""
    reader = _hanging.get(pid)
    if reader is not None and not reader.is_alive():
        _hanging.pop(pid, None)
        return False
    return reader is not None


class ProcReader(threading.Thread, Generic[T]):
    """Reads one process after the other. `results` goes up to the process at which it hangs."""

    def __init__(self, read: Callable[[int], T], pids: Sequence[int]) -> None:
        super().__init__(name="read-of-proc", daemon=True)
        self.results: dict[int, T] = {}
        self._read = read
        self._pids = pids
        self._error: Exception | None = None
        self._finished: dict[int, T] = {}
        self._abandoned = False

    def read_while_it_goes_on(self) -> None:
        """Return at the end, or when one read takes longer than READ_S. Raises the error of a read."""
        try:
            self.start()
        except RuntimeError:  # the kernel refuses a thread: a fork bomb must be found even so
            self.run()
        count = -1
        while self.is_alive() and count < len(self._finished):
            count = len(self._finished)
            self.join(READ_S)
        self._abandoned = True
        self.results = dict(self._finished)
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        for pid in self._pids:
            try:
                result = self._read(pid)
            except Exception as error:  # noqa: BLE001 - the waiting thread raises it
                self._error = error
                return
            if self._abandoned:
                return
            self._finished[pid] = result
