"""Opens and removes files in directories that workers can write, makes names durable, measures the free space; names
the owner of a file.

A worker runs as the daemon's user. It can replace its log, its output, its checkpoint or a launcher's files by a FIFO,
a device, a link or a directory; opening one of these can block for ever or lead to another file.
Invariant: every descriptor returned here is of the regular file that has that name, and no open blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from stoker.foreign import MAX_BYTES, PLACE, reached

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
# A link, a socket, a device that is not there; another file system where that is not expected.
NOT_REGULAR = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EXDEV})
# What a worker can cause by other means, too: it removes a name, takes rights away, or gives a name that is too long.
BY_WORKER = NOT_REGULAR | {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
LOCK_S = 0.5
LOCK_TRIES = 25
MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
HERE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotRegular(OSError):
    """Something other than a regular file has that name."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file", str(path))


@contextlib.contextmanager
def causes_of_workers_pass() -> Iterator[None]:
    """Go on behind the block after an error that a worker can cause. Raises OSError for all others."""
    try:
        yield
    except NotRegular:
        pass
    except OSError as error:
        if error.errno not in BY_WORKER:
            raise


def open_regular(path: str | Path) -> int:
    """A descriptor for reading. Raises FileNotFoundError (also if the file loses its name meanwhile) or NotRegular."""
    owner = PLACE.owner_of(str(path))
    try:
        descriptor = os.open(path, READ) if owner is None else PLACE.open(str(path), READ)
    except OSError as error:
        if error.errno in NOT_REGULAR:
            raise NotRegular(path) from error
        raise
    try:
        (_check if owner is None else _check_foreign)(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | Path) -> bytes:
    """The whole content. Raises as `open_regular` does, and EFBIG for a large file of another user."""
    with open(open_regular(path), "rb") as file:
        if PLACE.owner_of(str(path)) is not None and os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read(-1 if PLACE.owner_of(str(path)) is None else MAX_BYTES)


def paths_in(directory: Path, suffix: str) -> list[Path]:
    """The paths in a directory that end so, sorted; an empty list if it does not exist.

    Raises OSError: Path.glob takes a directory that it cannot read for an empty one, depending on the Python version.
    """
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if path.name.endswith(suffix))
    return []


def remove_tree(name: str, parent: int, *, files: bool = True) -> None:
    """Remove a directory and all that is in it; `parent` is the descriptor of the directory above.

    Any depth takes the same few descriptors and no recursion: a worker can nest directories deeper than Python calls.
    It can also close a directory to itself: one that is ours is opened again. `files`: False where the files vanish
    with their directory, as in a cgroup. Raises OSError.
    """
    here = _open_own(name, parent)
    try:
        above: list[tuple[str, os.stat_result, list[str]]] = []  # the way down, and what is left to remove there
        left = _clear(here, files=files)
        while left or above:
            if left:
                child = left.pop()
                above.append((child, os.fstat(here), left))
                here = _replace(here, _open_own(child, here))
                left = _clear(here, files=files)
            else:
                child, expected, left = above.pop()
                here = _replace(here, os.open("..", DIRECTORY, dir_fd=here))
                if not os.path.samestat(os.fstat(here), expected):
                    raise OSError(errno.ESTALE, "a directory was moved while it was removed", child)
                os.rmdir(child, dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=parent)


def _clear(directory: int, *, files: bool) -> list[str]:
    """Remove all but directories. Gives the names of these."""
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        if files and not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in listed if is_directory]


def _replace(here: int, there: int) -> int:
    """The descriptor `there`, in place of `here`."""
    os.close(here)
    return there


def _open_own(name: str, parent: int) -> int:
    """The descriptor of a directory, whose owner, if that is us, gets all rights in it."""
    place = os.open(name, HERE, dir_fd=parent)
    try:
        status = os.fstat(place)
        if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)  # noqa: PTH101 - by its name it could be a link by now
        return os.open(".", DIRECTORY, dir_fd=place)
    finally:
        os.close(place)


def sync(path: str | Path) -> None:
    """Make the data of a file, or the names in a directory, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: str | Path, opened: os.stat_result) -> None:
    if not stat.S_ISREG(opened.st_mode):
        raise NotRegular(path)
    if not os.path.samestat(os.lstat(path), opened):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _check_foreign(path: str | Path, opened: os.stat_result) -> None:
    """A file of the user, by one name only, so that it is no hard link to the file of another."""
    if not stat.S_ISREG(opened.st_mode) or opened.st_uid != PLACE.owner_of(str(path)) or opened.st_nlink > 1:
        raise NotRegular(path)


def make_regular(path: str) -> int:
    """A descriptor for writing to a new file, which replaces an existing file of that name.

    In the directory of a user that user can read it, and others cannot enter that directory.
    """
    with reached(path) as name:
        try:
            descriptor = os.open(name, MAKE, 0o600)
        except FileExistsError:
            os.unlink(name)  # noqa: PTH108 - as everywhere here, a path may be text
            descriptor = os.open(name, MAKE, 0o600)
    if PLACE.owner_of(path) is not None:
        os.fchmod(descriptor, 0o644)
    return descriptor


def write_new(path: Path, content: bytes) -> None:
    """Write a file durably, in place of an existing one; its name is durable once the directory is synced.

    Raises OSError.
    """
    with os.fdopen(make_regular(str(path)), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file durably: after a crash it has the old or the new content. Raises OSError."""
    fresh = path.with_suffix(".new")
    write_new(fresh, content)
    fresh.replace(path)
    sync(path.parent)


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write to the file system of `path`.

    Raises OSError if the path is gone; does not return while its file system hangs.
    """
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def take_lock(descriptor: int) -> None:
    """An exclusive flock(2). Raises BlockingIOError if it stays taken for LOCK_S.

    A daemon that was killed between fork and exec of a launcher leaves its locks to that child for a moment.
    """
    for _ in range(LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_S / LOCK_TRIES)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
