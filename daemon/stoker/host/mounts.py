"""The mounted file systems of this process, and when they change (/proc/self/mountinfo, proc(5)).

The kernel reports a mount or an unmount as an exceptional condition on that file. As event loops wait only for input,
the file stands in an epoll instance, which is readable then.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Container
from pathlib import Path
from typing import Final

READ_BYTES: Final = 65_536
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Mounts:
    """`kinds`: the type of each file system by its device number. Raises OSError."""

    def __init__(self) -> None:
        self._file = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._epoll = select.epoll()
        except OSError:
            os.close(self._file)
            raise
        self._epoll.register(self._file, select.EPOLLPRI | select.EPOLLERR | select.EPOLLET)
        self.fd = self._epoll.fileno()
        self.kinds: dict[int, str] = {}
        self._points: dict[str, int] = {}  # device number of what is mounted there
        self._above: set[str] = set()  # directories with a mount point below them
        self.read()

    def read(self) -> None:
        """Read the mounts as they are now, and take the notice of a change."""
        self._epoll.poll(0)
        self.kinds, self._points, self._above = {}, {}, set()
        for line in self._lines():
            fields = line.split(" ")
            major, _, minor = fields[2].partition(":")
            device = os.makedev(int(major), int(minor))
            self.kinds[device] = fields[fields.index("-") + 1]
            self._add(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]), device)

    def _lines(self) -> list[str]:
        """Read through the descriptor that is open: there may be no other one left, and the notice is taken."""
        os.lseek(self._file, 0, os.SEEK_SET)
        text = b"".join(iter(lambda: os.read(self._file, READ_BYTES), b""))
        return text.decode("utf-8", "surrogateescape").split("\n")[:-1]

    def _add(self, point: str, device: int) -> None:
        self._points[point] = device
        while (point := point.rpartition("/")[0]) and point not in self._above:
            self._above.add(point)

    def point_of(self, path: str) -> str:
        """The mount point above a path, as it is written. A host may have thousands: few of them are looked at."""
        point, place = "/", ""
        for name in path.split("/")[1:]:
            place = f"{place}/{name}"
            if place in self._points:
                point = place
            elif place not in self._above:
                break
        return point

    def device_of(self, path: str) -> int:
        """The device number of the file system at the mount point above a path."""
        return self._points.get(self.point_of(path), 0)

    def points_of(self, devices: Container[int]) -> frozenset[str]:
        """All mount points of these file systems: one may be mounted at many places."""
        return frozenset(point for point, device in self._points.items() if device in devices)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._file)
