"""Files that appear whole in a directory that several hosts share, and are durable once a call returns.

The daemon and the nodes claim a run by the same function: which of them comes first is decided by the file system.
"""

from __future__ import annotations

import os

from .lean_stdlib import suppress

MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put(path: str, content: bytes) -> None:
    """Put a file there, in place of an existing one. Raises OSError."""
    own = _written_beside(path, content)
    try:
        os.rename(own, path)
    except OSError:
        os.unlink(own)
        raise
    _sync_directory_of(path)


def put_first(path: str, content: bytes) -> bool:
    """Put a file there, if there is none. Returns whether this call did. Raises OSError.

    link(2) is atomic on NFS too, but its answer may get lost and the repetition fail: the number of links tells.
    """
    own = _written_beside(path, content)
    try:
        with suppress(FileExistsError):
            os.link(own, path)
        first = os.stat(own).st_nlink == 2  # noqa: PLR2004 - its own name and `path`
    finally:
        os.unlink(own)
    _sync_directory_of(path)
    return first


def _written_beside(path: str, content: bytes) -> str:
    """The path of a new file in the same directory. Nothing is left of one that could not be written."""
    directory, _, name = path.rpartition("/")
    own = f"{directory}/.{name}.{os.urandom(8).hex()}"
    fd = os.open(own, MADE, 0o600)
    try:
        while content:
            content = content[os.write(fd, content) :]
        os.fsync(fd)
    except OSError:
        os.unlink(own)
        raise
    finally:
        os.close(fd)
    return own


def _sync_directory_of(path: str) -> None:
    fd = os.open(path.rpartition("/")[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
