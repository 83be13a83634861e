"""The search for a command along the job's PATH, as a shell does it, and the error for one that cannot be executed.

Owns that search, from the job's working directory, and SpawnFailedError. It starts nothing.
"""

from __future__ import annotations

import errno
import os

from .lean_stdlib import suppress

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec

    from .frames import Message

    P = ParamSpec("P")

# The host lacks something or fails, so another try may succeed. The daemon's list for its own calls is SHORTAGES in
# core/shortage.py. This one has errors that only matter to a program's start, and the launcher imports nothing of ours.
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
        errno.ETXTBSY,  # a process is writing the program
    }
)
# After these errors execvp(3) tries the next directory of PATH.
PASSED_OVER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES})

SHEBANG_BYTES = 256


class SpawnFailedError(Exception):
    """The command was not executed. `errno` is the kernel's, `text` names the file or setting that it was about.

    `transient`: the host is at fault and not the job, so the same start may succeed later.
    """

    def __init__(self, number: int, text: str, *, transient: bool | None = None) -> None:
        super().__init__(text)
        self.errno = number
        # Bytes that are not UTF-8 become `\xff`: the daemon stores this text.
        self.text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        self.transient = number in HOST_LACKS if transient is None else transient

    @classmethod
    def about(cls, subject: str, error: OSError) -> SpawnFailedError:
        return cls(error.errno or errno.EIO, f"{subject}: {error.strerror}")

    @classmethod
    def of_host(cls, subject: str, error: OSError) -> SpawnFailedError:
        """The error for something that the host provides for every job, so the job is not at fault."""
        return cls(error.errno or errno.EIO, f"{subject}: {error.strerror}", transient=True)

    @classmethod
    def of_program(cls, name: str, path: str, error: OSError) -> SpawnFailedError:
        """The error for a file that exists but could not be executed."""
        return cls(error.errno or errno.EIO, f"{name}: {_explain(path, error)}")


def prepare(subject: str, call: Callable[P, object], *args: P.args, **kw: P.kwargs) -> None:
    """Prepare what every start needs, and charge errors to the host."""
    try:
        call(*args, **kw)
    except OSError as error:
        raise SpawnFailedError.of_host(subject, error) from error


def _explain(path: str, error: OSError) -> str:
    """The kernel gives ENOENT for a script whose interpreter is missing, and ENOEXEC for a file without `#!`."""
    if error.errno == errno.ENOEXEC:
        return (
            f"{error.strerror}: {path} is not a program and does not begin with #!; to have a shell run it: sh {path}"
        )
    if error.errno != errno.ENOENT or not os.path.exists(path):
        return error.strerror or str(error)
    interpreter = _read_interpreter(path)
    if interpreter is None:
        return f"{error.strerror}: {path} exists, but the loader that it was linked for does not"
    if interpreter.endswith("\r"):
        fix = f"sed -i 's/\\r$//' {path}"
        return f"{error.strerror}: the first line of {path} ends with a carriage return, as in DOS: {fix}"
    return f"{error.strerror}: {path} wants the interpreter {interpreter}, which does not exist"


def _read_interpreter(path: str) -> str | None:
    """The path after `#!`, as the kernel reads it; None if the file is not a script or may not be read."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            begin = os.read(fd, SHEBANG_BYTES)
        finally:
            os.close(fd)
        if begin.startswith(b"#!"):
            words = begin[2:].split(b"\n", 1)[0].strip(b" \t").split(b" ", 1)
            return words[0].decode(errors="replace")
    return None


def make_native(order: Message) -> None:
    """Bring the texts of an order into the form of os functions: those that are not UTF-8 come as `{"base64": …}`."""
    order["argv"] = [text if isinstance(text, str) else _native(text) for text in order["argv"]]
    env = order["env"]
    for name, text in env.items():
        if not isinstance(text, str):
            env[name] = _native(text)
    if not isinstance(order["working_dir"], str):
        order["working_dir"] = _native(order["working_dir"])


def _native(text: dict[str, str]) -> str:
    from binascii import a2b_base64  # noqa: PLC0415 - few jobs have such texts

    return a2b_base64(text["base64"]).decode("utf-8", "surrogateescape")


def enter(working_dir: str) -> None:
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise SpawnFailedError.about(f"working_dir {working_dir}", error) from error


def candidates(name: str, env: dict[str, str]) -> Iterator[str]:
    """The paths to try in turn, relative to the working directory, which must have been entered."""
    if "/" in name:
        yield name
        return
    for directory in env.get("PATH", os.defpath).split(":"):
        path = f"{directory or '.'}/{name}"
        # access(2) is a hundred times cheaper than a spawn that fails.
        if os.access(path, os.X_OK):
            yield path


def not_found(name: str, env: dict[str, str]) -> OSError:
    """The error if no candidate could be executed: EACCES if a file of that name exists, else ENOENT.

    access(2) may have failed for other reasons, as on a disk that is gone: if the host is at fault, its error.
    """
    number = errno.ENOENT
    for directory in env.get("PATH", os.defpath).split(":"):
        try:
            os.lstat(f"{directory or '.'}/{name}")
        except OSError as error:
            if error.errno in HOST_LACKS:
                return error
        else:
            number = errno.EACCES
    return OSError(number, os.strerror(number))
