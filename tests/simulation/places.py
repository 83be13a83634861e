"""The files of the simulated host for which jobs wait, and the notices of the kernel about them (inotify).

Owns the truth about each path and the notices that wait to be read. The product's own look walks it: only what asks the
kernel is simulated. Invariant: as in the kernel, every change of something that is watched leaves a notice, and a watch
ends with what it watches; a full queue reports that notices were lost.
"""

from __future__ import annotations

import errno
import os
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from stoker.host.inotify import FileNotice

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulation.host import Host

FOLDER: Final = "/work"
PATHS: Final = (f"{FOLDER}/one", f"{FOLDER}/two")
INOTIFY_FD, MOUNTS_FD = 3, 4
LOST: Final = FileNotice(-1, b"")
LOST_SHARE, CHANGED_SHARE = 0.2, 0.2
# The daemon looks again every ten seconds where it could not watch.
BLIND_MS = 15_000


class Places:
    """`check` raises OSError where the host denies a watch; `count` gets the name of each happening."""

    def __init__(
        self, host: Host, chance: random.Random, check: Callable[[], None], count: Callable[[str], None]
    ) -> None:
        self._host = host
        self._chance = chance
        self._check = check
        self._count = count
        self._inodes: dict[str, int] = {}  # of what is there
        self._changed: dict[str, int] = {}  # by path, the time of the last change
        self._changes = 0
        self._watches: dict[str, int] = {}
        self._numbers = 0
        self._notices: list[FileNotice] = []
        self._denied_at = 0
        self.calm = False  # no file changes during a look

    def forget(self) -> None:
        """The daemon has died, and its inotify instance with it."""
        self._watches.clear()
        self._notices.clear()
        for fd in (INOTIFY_FD, MOUNTS_FD):
            self._host.readers.pop(fd, None)
        self._host.readable.clear()
        self._denied_at = 0

    # --- changes

    def touch(self, *, there: bool) -> None:
        """A program changes a path. `there`: something is there afterwards."""
        self._change(self._chance.choice(PATHS), there=there)

    def _change(self, path: str, *, there: bool) -> None:
        self._changes += 1
        draw = self._chance.random()
        if path not in self._inodes or draw < 0.3:  # a new file, or one that is moved over the old one
            self._remove(path)
            self._inodes[path] = self._changes
        elif draw < 0.6 and not there:
            self._remove(path)
            self._announce(FOLDER, path)
            return
        self._changed[path] = self._changes
        self._announce(FOLDER, path)
        self._announce(path)

    def _remove(self, path: str) -> None:
        if self._inodes.pop(path, None) is not None and path in self._watches:
            self._announce(path)
            self._notices.append(FileNotice(self._watches.pop(path), b""))

    def _announce(self, watched: str, path: str = "") -> None:
        if watched not in self._watches:
            return
        self._notices.append(FileNotice(self._watches[watched], os.fsencode(path.rpartition("/")[2])))
        if self._chance.random() < LOST_SHARE:
            self._count("notices lost")
            self._notices = [LOST]
        self._host.readable.add(INOTIFY_FD)
        if INOTIFY_FD in self._host.readers:
            self._host.readers[INOTIFY_FD]()

    # --- the kernel's side

    def open_inotify(self) -> Any:
        """In place of `Inotify()`."""
        self._deny()
        return SimpleNamespace(fd=INOTIFY_FD, watch=self._watch, unwatch=self._unwatch, read=self._read)

    def open_mounts(self) -> Any:
        """In place of `Mounts()`: a host with one file system."""
        return SimpleNamespace(
            fd=MOUNTS_FD,
            kinds={},
            point_of=lambda _path: "/",
            device_of=lambda _path: 0,
            points_of=lambda _devices: frozenset(),
        )

    def path(self, path: str) -> SimulatedPath:
        """In place of `Path()`."""
        return SimulatedPath(self, path)

    def status(self, path: str) -> SimpleNamespace:
        """As lstat(2). Now and then a file changes just before, or just after."""
        self._interfere(path, "changed before a look")
        try:
            return self._status(path)
        finally:
            self._interfere(path, "changed after a look")

    def _interfere(self, path: str, what: str) -> None:
        if not self.calm and self._chance.random() < CHANGED_SHARE:
            self._count(what)
            self._change(path if path in PATHS else self._chance.choice(PATHS), there=False)

    def _status(self, path: str) -> SimpleNamespace:
        mode = stat.S_IFREG if path in PATHS else stat.S_IFDIR
        if path in PATHS and path not in self._inodes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        changed, inode = self._changed.get(path, 0), self._inodes.get(path, 0)
        return SimpleNamespace(st_mode=mode, st_dev=1, st_mtime_ns=changed, st_size=0, st_ino=inode)

    def _watch(self, path: bytes) -> int:
        self._deny()
        watched = os.fsdecode(path)
        if watched in PATHS and watched not in self._inodes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), watched)
        if watched not in self._watches:
            self._numbers += 1
            self._watches[watched] = self._numbers
        return self._watches[watched]

    def _unwatch(self, watch: int) -> None:
        for path, number in list(self._watches.items()):
            if number == watch:
                del self._watches[path]
                self._notices.append(FileNotice(watch, b""))

    def _read(self) -> list[FileNotice]:
        read, self._notices = self._notices, []
        self._host.readable.discard(INOTIFY_FD)
        return read

    def _deny(self) -> None:
        try:
            self._check()
        except OSError:
            self._denied_at = self._host.boot_ms
            raise

    # --- for the laws

    @property
    def silent(self) -> bool:
        """Whether the kernel has delivered every notice, and could deliver it."""
        blind = self._denied_at and self._host.boot_ms < self._denied_at + BLIND_MS
        return not self._notices and not blind

    def seen(self, path: str) -> str:
        """The result of a look now; empty: nothing is there."""
        return f"{self._changed[path]} 0 {self._inodes[path]}" if path in self._inodes else ""


class SimulatedPath:
    """The part of pathlib.Path that a look uses."""

    def __init__(self, places: Places, path: str) -> None:
        self._places = places
        self._path = path

    def __truediv__(self, name: str) -> SimulatedPath:
        return SimulatedPath(self._places, f"{self._path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self._path

    def __fspath__(self) -> str:
        return self._path

    def lstat(self) -> SimpleNamespace:
        return self._places.status(self._path)
