"""The files that a pattern names, as `glob` of the standard library finds them, with two differences.

A check is called for each name that is looked at, so a search over a whole disk can be ended. And `**` follows no link
to a directory: two links to the directory that they stand in are a tree without an end.

While jobs run as other users, a directory that not everybody may read counts as one that cannot be read.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence

from stoker.foreign import check_open_to_all

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
Check = Callable[[], None]


def matching(directory: str, pattern: str, check: Check) -> Iterator[str]:
    """Paths relative to `directory`, some of them twice. Raises what `check` raises."""
    start = "/" if pattern.startswith("/") else ""
    return _below(_Tree(directory, check), start, pattern.lstrip("/").split("/"))


class _Tree:
    def __init__(self, directory: str, check: Check) -> None:
        self._directory = directory
        self._check = check

    def path(self, at: str) -> str:
        return os.path.join(self._directory, at)  # noqa: PTH118 - a path of any bytes

    def entries(self, at: str) -> Iterator[os.DirEntry[str]]:
        """The entries of a directory; none if it cannot be read."""
        self._check()
        try:
            descriptor = os.open(self.path(at), DIRECTORY)
        except OSError:
            return
        try:
            check_open_to_all(descriptor)
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self._check()
                    yield entry
        except OSError:
            return
        finally:
            os.close(descriptor)


def _below(within: _Tree, at: str, parts: Sequence[str]) -> Iterator[str]:
    """The paths that match `parts` below the path `at`."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        found = _directories(within, at, with_files=not rest)
    elif glob.has_magic(part):
        found = _named(within, at, part)
    else:
        found = iter([os.path.join(at, part)])  # noqa: PTH118
    for path in found:
        if rest:
            yield from _below(within, path, rest)
        elif path and os.path.lexists(within.path(path)):
            yield path


def _named(within: _Tree, at: str, part: str) -> Iterator[str]:
    names = [entry.name for entry in within.entries(at)]
    for name in fnmatch.filter(names, part):
        if part.startswith(".") or not name.startswith("."):
            yield os.path.join(at, name)  # noqa: PTH118


def _directories(within: _Tree, at: str, *, with_files: bool) -> Iterator[str]:
    """A directory and all directories in it, of any depth; hidden ones are left out."""
    left = [at]
    while left:
        yield (here := left.pop())
        for entry in within.entries(here):
            path = os.path.join(here, entry.name)  # noqa: PTH118
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                left.append(path)
            elif with_files:
                yield path
