"""The files through which daemon and worker hand data to each other, in `work/` of the state directory.

Owns their names, and the reading of what a worker wrote: `key=value` lines or one JSON object of strings. Refuses what
is no regular file, too large, or neither of the two; a worker can make a FIFO of it, or a terabyte. Invariant: names
come from run ids alone, and the files of a run are gone once it is settled.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from stoker.paths import SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

MAX_OUTPUT_BYTES = 64 * 1024
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Output(Struct, frozen=True):
    """What a run handed on, as JSON of an object of strings; `error` says what was wrong with it instead."""

    text: str | None = None
    error: str | None = None


NO_OUTPUT = Output()


class Exchange:
    """The files of all runs of one instance."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "work"

    def prepare(self, open_runs: Container[str]) -> None:
        """Make the directory; remove what runs that are over left in it."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        for entry in os.scandir(self._root):
            if entry.name.rpartition(".")[0] not in open_runs:
                self._remove(entry.path)

    def output(self, run_id: str) -> str:
        """Where a worker writes what it hands on."""
        return f"{self._root}/{run_id}.output"

    def checkpoint(self, run_id: str) -> str:
        """Where a worker finds its newest checkpoint, if there is one."""
        return f"{self._root}/{run_id}.checkpoint"

    def notice_address(self, run_id: str) -> str:
        """Where a worker speaks to the daemon: a path, or an abstract name (`@`) where a path would be too long.

        The address of a socket has 107 bytes, and a worker cannot borrow our descriptor of the directory.
        """
        path = f"{self._root}/{run_id}.notify"
        return path if len(os.fsencode(path)) <= SOCKET_PATH_BYTES else f"@stoker-{run_id}"

    def put_checkpoint(self, run_id: str, data: bytes) -> None:
        """Lay a checkpoint ready, before the worker begins."""
        fd = os.open(self.checkpoint(run_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)

    def take(self, run_id: str) -> Output:
        """What a run that is over wrote. Nothing is removed: that comes after the commit."""
        try:
            fd = os.open(self.output(run_id), _FLAGS)
        except FileNotFoundError:
            return NO_OUTPUT
        except OSError as error:
            return Output(error=f"STOKER_OUTPUT: {error.strerror}")
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                return Output(error="STOKER_OUTPUT: not a regular file")
            if about.st_size > MAX_OUTPUT_BYTES:
                return Output(error=f"STOKER_OUTPUT: {about.st_size} bytes; the limit is {MAX_OUTPUT_BYTES}")
            return read_output(os.read(fd, MAX_OUTPUT_BYTES))
        except OSError as error:
            return Output(error=f"STOKER_OUTPUT: {error.strerror}")
        finally:
            os.close(fd)

    def remove(self, run_ids: Iterable[str]) -> None:
        """The files of runs whose end is committed."""
        for run_id in run_ids:
            self._remove(self.output(run_id))
            self._remove(self.checkpoint(run_id))

    def _remove(self, path: str) -> None:
        # A directory in its place is the worker's own doing; it hurts nobody and goes with the state directory.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            os.unlink(path)  # noqa: PTH108 - for every job, and Path costs more than the call


def read_output(written: bytes) -> Output:
    """An object of strings from JSON or from `key=value` lines; a value that is no string keeps its JSON."""
    try:
        text = written.decode()
    except UnicodeDecodeError:
        return Output(error="STOKER_OUTPUT: not UTF-8")
    if not text.strip():
        return NO_OUTPUT
    try:
        said = _object(text) if text.lstrip().startswith("{") else _lines(text)
    except ValueError as error:
        return Output(error=f"STOKER_OUTPUT: {error}")
    except RecursionError:
        return Output(error="STOKER_OUTPUT: nested too deeply")
    return Output(text=msgspec.json.encode(said, order="sorted").decode())


def _object(text: str) -> dict[str, str]:
    try:
        said = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON object: {error}") from error
    return {key: _text(value) for key, value in said.items()}


def _text(value: msgspec.Raw) -> str:
    found = msgspec.json.decode(value)
    return found if isinstance(found, str) else bytes(value).decode().strip()


def _lines(text: str) -> dict[str, str]:
    said = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, found, value = line.partition("=")
        if line.strip() and not (found and key.strip()):
            raise ValueError(f"line {number} is not key=value: {line[:80]!r}")
        if line.strip():
            said[key.strip()] = value
    return said
