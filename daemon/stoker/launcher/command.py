"""What is to be executed, and where: found as a shell would find it, in the job's own terms.

Owns the search along the job's PATH from its working directory, and the one error for everything that
keeps a command from being executed. Refuses to start anything.
"""

from __future__ import annotations

import contextlib
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


SHEBANG_BYTES = 256


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

    @classmethod
    def of_program(cls, name: str, path: str, error: OSError) -> SpawnFailedError:
        """About a file that was found and could not be executed."""
        return cls(error.errno or errno.EIO, f"{name}: {_explain(path, error)}")


def _explain(path: str, error: OSError) -> str:
    """The kernel says ENOENT also of a script whose interpreter is missing, and ENOEXEC of one that names none."""
    if error.errno == errno.ENOEXEC:
        return f"{error.strerror}: {path} is no program and does not begin with #!; to have a shell run it: sh {path}"
    if error.errno != errno.ENOENT or not os.path.exists(path):  # noqa: PTH110
        return error.strerror or str(error)
    interpreter = _read_interpreter(path)
    if interpreter is None:
        return f"{error.strerror}: {path} is there, but not the loader that it was linked for"
    if interpreter.endswith("\r"):
        fix = f"sed -i 's/\\r$//' {path}"
        return f"{error.strerror}: the first line of {path} ends with a carriage return, as in DOS: {fix}"
    return f"{error.strerror}: {path} wants the interpreter {interpreter}, which does not exist"


def _read_interpreter(path: str) -> str | None:
    """As the kernel reads it; None where the file is no script, or not ours to read."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            begin = os.read(fd, SHEBANG_BYTES)
        finally:
            os.close(fd)
        if begin.startswith(b"#!"):
            words = begin[2:].split(b"\n", 1)[0].strip(b" \t").split(b" ", 1)
            return words[0].decode(errors="replace")
    return None


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
