"""A look at a path, name by name, that puts a watch on each directory whose change could change the answer.

Links are followed, the last one too, and their directories are watched as well; directories that do not exist yet need
no watch, as the name that is missing is watched for. Invariant: a directory is watched before anything in it is looked
at, so that every later change gives a notice. A look may block as long as a file system does: call it off the loop.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from stoker.core.raw_bytes import printable
from stoker.foreign import check_passable

MOST_LINKS: Final = 40  # as the kernel
# Other hosts change files there without a notice to this kernel, and some give no notice of changes at all.
UNTOLD: Final = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "ocfs2", "orangefs", "proc", "smb3", "smbfs", "sysfs", "virtiofs", "vboxsf",
)  # fmt: skip
LIMITS: Final = {
    errno.ENOSPC: "the limit of watches of the user of the daemon is reached (sysctl fs.inotify.max_user_watches)",
    errno.EMFILE: "the limit of inotify instances or descriptors is reached (sysctl fs.inotify.max_user_instances)",
}


class Sight(Struct):
    """The result of a look.

    `seen`: time of the last change, size and inode; empty: nothing is there; None: unknown. `watches`: each watch, and
    the name in it that matters; None for every name. `state`: the result in words. `untold`: why the kernel may not
    report changes. `at`: the present place of the look, in case it hangs, as the functions of `os` take it: a link may
    lead to any bytes. The words are printable.
    """

    seen: str | None = None
    watches: list[tuple[int, bytes | None]] = field(default_factory=list)
    state: str = ""
    untold: str | None = None
    at: str = "/"
    begun: bool = False


Watch = Callable[[bytes], int]


class Surroundings(Struct, frozen=True):
    """The facts about the host for a look: file systems by device number, and mount points where looks hang."""

    kinds: Mapping[int, str] = field(default_factory=dict)
    hanging: Container[str] = ()


def look_at_path(sight: Sight, path: str, watch: Watch | None, around: Surroundings, *, content: bool) -> None:
    """Look at an absolute path. `content`: watch what is there, too.

    The result is in `sight`, so that a look that hangs can be asked where.
    """
    sight.begun = True
    try:
        place = _walk(sight, path, watch, around)
        if content:
            _add(sight, place, None, watch)
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is no directory" if isinstance(error, NotADirectoryError) else "does not exist"
        sight.seen, sight.state = "", printable(f"{error.filename} {what}")
    except OSError as error:
        sight.state = printable(f"{error.filename} cannot be read by the user of the daemon: {error.strerror}")
        sight.untold = sight.untold or error.strerror
    else:
        sight.seen, sight.state = f"{status.st_mtime_ns} {status.st_size} {status.st_ino}", f"{path} is there"


def _walk(sight: Sight, path: str, watch: Watch | None, around: Surroundings) -> Path:
    """The same path without links. Raises OSError, also at a mount point where another look hangs."""
    rest, directory, links = deque(_names(path)), Path("/"), 0
    status = directory.lstat()
    while rest:
        name = rest.popleft()
        if not stat.S_ISDIR(status.st_mode):
            raise _error(errno.ENOTDIR, directory)
        check_passable(directory, status)
        if name == "..":
            directory = directory.parent
        else:
            _add(sight, directory, name, watch)
            sight.untold = sight.untold or _untold(status.st_dev, around.kinds)
            place = directory / name
            if str(place) in around.hanging:
                raise OSError(errno.ETIMEDOUT, "its file system does not answer", str(place))
            sight.at = str(place)
            if stat.S_ISLNK(place.lstat().st_mode):
                links += 1
                if links > MOST_LINKS:
                    raise _error(errno.ELOOP, place)
                target = str(place.readlink())
                rest.extendleft(reversed(_names(target)))
                directory = Path("/") if target.startswith("/") else directory
            else:
                directory = place
        status = directory.lstat()
    sight.untold = sight.untold or _untold(status.st_dev, around.kinds)
    return directory


def _error(number: int, place: Path) -> OSError:
    return OSError(number, os.strerror(number), str(place))


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _add(sight: Sight, directory: Path, name: str | None, watch: Watch | None) -> None:
    """If the watch fails, the look goes on: the present state counts nevertheless."""
    if watch is None:
        return
    try:
        sight.watches.append((watch(os.fsencode(directory)), None if name is None else os.fsencode(name)))
    except FileNotFoundError:
        return  # the look itself finds that out
    except OSError as error:
        reason = LIMITS.get(error.errno or 0) or f"{directory} cannot be watched: {error.strerror}"
        sight.untold = sight.untold or printable(reason)


def _untold(device: int, kinds: Mapping[int, str]) -> str | None:
    kind = kinds.get(device, "")
    remote = kind in UNTOLD or kind.startswith("fuse.")
    return f"a {kind} file system does not report all changes" if remote else None
