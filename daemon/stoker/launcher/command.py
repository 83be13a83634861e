"""What is to be executed, and where: found as a shell would find it, in the job's own terms.

Owns the search along the job's PATH from its working directory, and the one error for everything that
keeps a command from being executed. Refuses to start anything.
"""

from __future__ import annotations

import errno
import os
from binascii import a2b_base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The host lacks something, or something of it fails: no fault of the job, and waiting can help.
HOST_LACKS = frozenset(
    {
        errno.EAGAIN,  # processes of the user, or of a cgroup
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,  # blocks, inodes, user namespaces' objects
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ETXTBSY,  # somebody is writing the program
    }
)
# A candidate that fails like this is passed over for the next directory of PATH, as execvp does.
PASSED_OVER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})


class SpawnFailedError(Exception):
    """Nothing was executed. `errno` is the kernel's word, `text` names what it was about.

    `transient`: it is the host's fault and not the job's, so the same start may do later.
    """

    def __init__(self, number: int, text: str, *, transient: bool | None = None) -> None:
        super().__init__(text)
        self.errno = number
        # What is no UTF-8 as `\xff`: the daemon stores this text.
        self.text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        self.transient = number in HOST_LACKS if transient is None else transient

    @classmethod
    def about(cls, subject: str, error: OSError) -> SpawnFailedError:
        return cls(error.errno or errno.EIO, f"{subject}: {error.strerror}")

    @classmethod
    def of_host(cls, subject: str, error: OSError) -> SpawnFailedError:
        """About what the host provides for every job: whatever is wrong with it, the job did not do it."""
        return cls(error.errno or errno.EIO, f"{subject}: {error.strerror}", transient=True)


def native(text: str | dict[str, str]) -> str:
    """As the functions of os take it: bytes that are no UTF-8 came as `{"base64": …}`."""
    return text if isinstance(text, str) else a2b_base64(text["base64"]).decode("utf-8", "surrogateescape")


def enter(working_dir: str) -> None:
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise SpawnFailedError.about(f"working_dir {working_dir}", error) from error


def candidates(name: str, env: dict[str, str]) -> Iterator[str]:
    """Paths to try in turn, seen from the working directory, which must have been entered."""
    if "/" in name:
        yield name
        return
    for directory in env.get("PATH", os.defpath).split(":"):
        path = f"{directory or '.'}/{name}"
        # Asking first is a hundred times cheaper than a spawn that fails.
        if os.access(path, os.X_OK):
            yield path


def not_found(name: str, env: dict[str, str]) -> OSError:
    """Why nothing along PATH could be executed: something is there but may not be, or nothing is."""
    directories = env.get("PATH", os.defpath).split(":")
    there = any(os.path.lexists(f"{directory or '.'}/{name}") for directory in directories)
    number = errno.EACCES if there else errno.ENOENT
    return OSError(number, os.strerror(number))
