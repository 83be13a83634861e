"""Whether a command could be executed: a look at its directory and its program.

The look may hang on a dead file system: the daemon makes it in a thread.
"""

from __future__ import annotations

import errno
import os
from enum import StrEnum, auto
from pathlib import Path
from typing import NamedTuple

from stoker.files import user_name

NO_PROGRAM = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG})


class ProblemKind(StrEnum):
    """The property of a problem that decides its hint, beside the command itself."""

    NOT_IN_PATH = auto()
    NOT_EXECUTABLE = auto()
    MAY_NOT_ENTER = auto()
    MISSING = auto()
    OTHER = auto()


class Problem(NamedTuple):
    """The wrong field, a message, and the kind of the problem."""

    field: str
    message: str
    kind: ProblemKind = ProblemKind.OTHER


CommandProblem = Problem | None  # None: no problem


def problem(command: str, working_dir: str, path: str) -> CommandProblem:
    """The problem that keeps this command from being executed, or None."""
    directory = Path(working_dir)
    try:
        if not directory.is_dir():
            if directory.exists():
                return Problem("working_dir", f"working_dir: {working_dir} is not a directory")
            return Problem("working_dir", f"working_dir: {working_dir} does not exist", ProblemKind.MISSING)
        if not os.access(directory, os.X_OK):
            return _may_not_enter(working_dir)
        return _program_problem(command, working_dir, path)
    except PermissionError:  # a directory above it is closed
        return _may_not_enter(working_dir)
    except OSError as error:
        return Problem("working_dir", f"working_dir: {working_dir}: {error.strerror}")


def _may_not_enter(working_dir: str) -> CommandProblem:
    message = f"working_dir: {working_dir} may not be entered by {user_name(os.geteuid())}"
    return Problem("working_dir", message, ProblemKind.MAY_NOT_ENTER)


def _program_problem(command: str, working_dir: str, path: str) -> CommandProblem:
    if "/" not in command:
        return _path_problem(command, working_dir, path)
    program = Path(working_dir, command)
    try:
        if _executable(str(program)):
            return None
    except OSError as error:
        return Problem("command", f"command: {command}: {error.strerror}")
    if not program.exists():
        return Problem("command", f"command: {command} does not exist", ProblemKind.MISSING)
    if program.is_dir():
        return Problem("command", f"command: {command} is a directory")
    return Problem("command", f"command: {command} is not executable", ProblemKind.NOT_EXECUTABLE)


def _path_problem(command: str, working_dir: str, path: str) -> CommandProblem:
    """Not pathlib: a flow may ask for ten thousand programs at once."""
    unreadable: OSError | None = None
    for entry in path.split(":"):
        try:
            if _executable(os.path.join(working_dir, entry, command)):  # noqa: PTH118
                return None
        except OSError as error:  # the disk of that directory is gone; others may have the program
            unreadable = error
    if unreadable is not None:
        reason = f"{unreadable.filename}: {unreadable.strerror}"
        return Problem("command", f"command: there is no program {command!r} where PATH can be read; {reason}")
    return Problem("command", f"command: there is no program {command!r} in PATH", ProblemKind.NOT_IN_PATH)


def _executable(program: str) -> bool:
    """Raises OSError if that cannot be known now. access(2) is cheaper, but os.access hides its error."""
    if os.access(program, os.X_OK):
        return os.path.isfile(program)  # noqa: PTH113 - as above
    try:
        os.stat(program)  # noqa: PTH116 - as above
    except OSError as error:
        if error.errno not in NO_PROGRAM:
            raise
    return False
