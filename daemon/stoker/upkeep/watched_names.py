"""Finds the paths that a notice of the kernel concerns, by the watch of a directory and the name in it.

A directory may have ten thousand names for which jobs wait, and as many others that come and go: the cost of a notice
depends only on the paths that it concerns. Invariant: a watch is known here as long as a path has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stoker.host.inotify import FileNotice

WatchedName = tuple[int, bytes | None]
"""A watch, and the name in its directory that matters; None for every name."""


class WatchedNames:
    def __init__(self) -> None:
        self._paths: dict[int, dict[bytes | None, set[str]]] = {}

    def __contains__(self, watch: int) -> bool:
        return watch in self._paths

    def add(self, path: str, names: Iterable[WatchedName]) -> None:
        for watch, name in names:
            self._paths.setdefault(watch, {}).setdefault(name, set()).add(path)

    def remove(self, path: str, names: Iterable[WatchedName]) -> None:
        for watch, name in set(names):
            paths = self._paths[watch][name]
            paths.discard(path)
            if not paths:
                del self._paths[watch][name]
            if not self._paths[watch]:
                del self._paths[watch]

    def concerned(self, notice: FileNotice) -> Iterator[str]:
        """The paths that lead through the name in a notice; if it has no name, those through its directory."""
        by_name = self._paths.get(notice.watch, {})
        for name in (notice.name, None) if notice.name else by_name:
            yield from by_name.get(name, ())
