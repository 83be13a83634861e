"""The host as one daemon sees it: the descriptors that it opens, and the opens and reads that the host denies it.

Owns the descriptors of the living daemon, and two faults: no descriptor is left for a while, and one call fails. The
launchers are other processes and are denied nothing here. Invariant: a daemon that has nothing to do has no descriptor
of a process open.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from tests.simulation.host import Host

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

ERRNOS = (errno.EIO, errno.EMFILE, errno.ENOMEM)
PASSES = (0, 0, 1, 3, 10, 30, 100, 300)


class Denials:
    """`happened` is called for each denial."""

    def __init__(self, host: Host, happened: Callable[[], None]) -> None:
        self._host = host
        self._happened = happened
        self._lasting: int | None = None
        self._once: int | None = None
        self._passes = 0  # calls that succeed before that one
        self.open: set[int] = set()

    @property
    def short(self) -> bool:
        return self._lasting is not None

    def begin(self) -> None:
        """Begin a shortage: no descriptor can be opened from now on."""
        self._lasting = errno.EMFILE

    def deny_once(self, chance: random.Random) -> None:
        """Let one of the next calls fail, perhaps in the middle of a search."""
        self._once, self._passes = chance.choice(ERRNOS), chance.choice(PASSES)

    def end(self) -> None:
        self._lasting = self._once = None

    def forget(self) -> None:
        """The daemon has died: its descriptors are closed."""
        self.open.clear()

    def check(self) -> None:
        """Raises OSError where the host denies it."""
        number = self._lasting
        if number is None and self._once is not None:
            self._passes -= 1
            if self._passes < 0:
                number, self._once = self._once, None
        if number is not None:
            self._happened()
            raise OSError(number, os.strerror(number))

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, which raises OSError while the host denies it."""

        def asked(*args: Any) -> Any:
            self.check()
            return call(*args)

        return asked

    # --- descriptors of processes

    def open_pidfd(self, pid: int) -> int | None:
        self.check()
        return self._opened(self._host.open_pidfd(pid))

    def dup(self, fd: int) -> int:
        self.check()
        own = self._opened(self._host.dup(fd))
        assert own is not None
        return own

    def _opened(self, fd: int | None) -> int | None:
        if fd is not None:
            self.open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self.open.remove(fd)
        self._host.close(fd)
