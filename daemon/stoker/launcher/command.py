"""What is to be executed, and where: found as a shell would find it, in the job's own terms.

Owns the search along the job's PATH from its working directory, and the one error for everything that
keeps a command from being executed. Refuses to start anything.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Trying again can help. The last two are met when the log is made: a full disk is no fault of the command.
TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})
# A candidate that fails like this is passed over for the next directory of PATH, as execvp does.
PASSED_OVER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})


class SpawnFailedError(Exception):
    """Nothing was executed. `errno` is the kernel's word, `text` names what it was about."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number
        self.text = text

    @classmethod
    def about(cls, subject: str, error: OSError) -> SpawnFailedError:
        return cls(error.errno or errno.EIO, f"{subject}: {error.strerror}")

    @property
    def transient(self) -> bool:
        return self.errno in TRANSIENT


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
