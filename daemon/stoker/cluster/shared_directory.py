"""The directory that the daemon shares with the nodes of a cluster: orders go out through it, records come back.

Owns its layout. `claims/RUN` says who may start a run: the first claim counts, the node's, or the daemon's, which
revokes the run. `runs/RUN/` has the order, the inputs, the log and the outputs. `ends/RUN` is the record of the end,
`left/RUN` a note that the files of a run could not be removed.
`code-HASH/` is the program for the nodes, as this daemon ships it. A directory holds the runs of one instance.

Invariants: a claim and a record are whole when they appear; all in `runs/RUN/` belongs to a worker, so what is read
there is regular, bounded, and not reached through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
from msgspec import Struct

from stoker.cluster.saves_directory import SavesDirectory
from stoker.core.cluster import ClaimedBy
from stoker.core.errors import CorruptRecord, StateRefused
from stoker.files import (
    DIRECTORY,
    causes_of_workers_pass,
    open_regular,
    read_regular,
    remove_tree,
    replace_file,
    sync,
    write_new,
)
from stoker.launcher.whole_files import put_first
from stoker.process.messages import Exited
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

T = TypeVar("T")

COPY_BYTES = 1 << 20
# The batch script: it becomes the parent of the run. Everything comes as an argument.
SCRIPT = """#!/bin/sh
exec "$1" -I -S "$2/launcher/__main__.py" node "$3" "$4"
"""
ERRORS = "node.err"  # what the batch script itself complains of
LOG, OUTPUT, CHECKPOINT, INPUTS, EVENTS = "log", "output", "checkpoint", "inputs", "events"
SAVES = "saves"  # the checkpoints that a run saves
STOP, WARNING = "stop", "warning"  # what a signal to the node is about


class Claim(Struct, frozen=True):
    """The right to start a run. Of a node: the engine's job, the process that is the run's parent, and its begin."""

    by: ClaimedBy
    host: str | None = None
    pid: int | None = None
    boot_id: str | None = None
    engine_job: str | None = None
    at_ms: int | None = None


REVOKED = msgspec.json.encode(Claim(ClaimedBy.DAEMON))
_CLAIM = msgspec.json.Decoder(Claim)
_END = msgspec.json.Decoder(Exited)


class SharedDirectory:
    """Every call works on the file system and may take long: none belongs into the event loop."""

    def __init__(self, root: Path, instance: str) -> None:
        self.root = root
        self._instance = instance
        self._claims, self._runs, self._ends = root / "claims", root / "runs", root / "ends"
        self._left = root / "left"
        self.code = root  # set by `prepare`

    def prepare(self) -> None:
        """Make the directory, and put the program for the nodes there. Raises OSError, or StateRefused.

        A directory with the runs of another instance is refused: both daemons would answer for them.
        """
        for directory in (self.root, self._claims, self._runs, self._ends, self._left):
            directory.mkdir(mode=0o700, parents=directory is self.root, exist_ok=True)
        owner = self.root / "instance"
        put_first(str(owner), self._instance.encode())
        if (other := read_regular(owner).decode(errors="replace")) != self._instance:
            raise StateRefused(
                f"{self.root} has the runs of another daemon (instance {other[:64]})",
                hint="choose another [cluster] directory",
            )
        self._ship_code()

    def _ship_code(self) -> None:
        source = Path(str(resources.files("stoker.launcher")))
        files = sorted(path for path in source.glob("*.py"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
        self.code = self.root / f"code-{digest}"
        if self.code.is_dir():
            return
        fresh = self.root / f".code-{digest}"
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / "launcher").mkdir(mode=0o700, parents=True)
        for path in files:
            write_new(fresh / "launcher" / path.name, path.read_bytes())
        write_new(fresh / "start", SCRIPT.encode())
        sync(fresh / "launcher")
        fresh.rename(self.code)
        sync(self.root)

    @property
    def script(self) -> Path:
        return self.code / "start"

    def arguments(self, python: str, run_id: str) -> tuple[str, ...]:
        """The arguments of the script for a run."""
        return (python, str(self.code), str(self.root), run_id)

    # --- runs ---

    def path(self, run_id: str, name: str) -> Path:
        """A file of a run, as both sides see it."""
        return self._runs / run_id / name

    def put_order(self, run_id: str, order: bytes, files: Mapping[str, Path]) -> None:
        """Write the order of a run, with copies of files that it needs. Raises OSError."""
        directory = self._runs / run_id
        for path in (directory, directory / SAVES):
            path.mkdir(mode=0o700, exist_ok=True)
        for name, source in files.items():
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, directory / name)
        write_new(directory / "order", order)
        sync(directory)

    def revoke(self, run_id: str) -> bool:
        """Keep a run from starting. False: a node has claimed it before. Raises OSError."""
        path = self._claims / run_id
        return put_first(str(path), REVOKED) or self.claim(run_id).by is ClaimedBy.DAEMON

    def put_stop(self, run_id: str, grace_ms: int) -> None:
        """Say that the stop for which the engine is asked next is the daemon's. Raises OSError."""
        replace_file(self._runs / run_id / STOP, msgspec.json.encode({"grace_ms": grace_ms}))

    def put_warning(self, run_id: str, signum: int) -> None:
        """Name the signal for the main process, before the engine is asked to tell the node. Raises OSError."""
        replace_file(self._runs / run_id / WARNING, msgspec.json.encode({"signal": signum}))

    def claimed(self) -> set[str]:
        return _names(self._claims)

    def ended(self) -> set[str]:
        return _names(self._ends)

    def known(self) -> set[str]:
        """Every run that has a file here."""
        return self.claimed() | self.ended() | _names(self._runs)

    def claim(self, run_id: str) -> Claim:
        """Raises OSError, or CorruptRecord."""
        return _decoded(self._claims / run_id, _CLAIM)

    def end(self, run_id: str) -> Exited:
        """Raises OSError, or CorruptRecord."""
        return _decoded(self._ends / run_id, _END)

    def remove(self, run_ids: Collection[str]) -> None:
        """Remove all files of runs that are settled: the claim last, as it keeps a late node from starting one.

        A run whose files we have no right to remove keeps both, and is noted in `left`. Raises OSError.
        """
        runs = os.open(self._runs, DIRECTORY)
        try:
            for run_id in run_ids:
                try:
                    with contextlib.suppress(FileNotFoundError):
                        remove_tree(run_id, runs)
                except PermissionError as error:  # to try again would not help: a person has to
                    log(LogEvent.RUN_FILES_LEFT, run_id=run_id, path=str(self._runs / run_id), error=error)
                    replace_file(self._left / run_id, str(error.strerror).encode())
                    continue
                for directory in (self._ends, self._left, self._claims):
                    (directory / run_id).unlink(missing_ok=True)
        finally:
            os.close(runs)

    def left(self) -> set[str]:
        """The runs whose files could not be removed. The next start of the daemon tries it again."""
        return _names(self._left) & _names(self._runs)

    # --- what a worker wrote ---

    def take(self, run_id: str, name: str, to: Path, most: int) -> None:
        """Copy a file of a run, if it is there and can be read, and at most so many bytes of it. Raises OSError."""
        with self._content(run_id, name) as source:
            if source is not None:
                write_new(to, source.read(most))

    def saves(self, run_id: str) -> SavesDirectory:
        """The checkpoints that a run saves."""
        return SavesDirectory(self._runs / run_id / SAVES)

    def pull_log(self, run_id: str, to: Path) -> None:
        """Bring a log up to date, with its hole: readers at home find the same bytes at the same places.

        Raises OSError.
        """
        with self._content(run_id, LOG) as source:
            if source is not None:
                _append_data(source.fileno(), to)

    @contextlib.contextmanager
    def _content(self, run_id: str, name: str) -> Iterator[BinaryIO | None]:
        """None if the worker left no such file, or something else in its place."""
        with contextlib.ExitStack() as stack:
            file = None
            with causes_of_workers_pass():
                file = stack.enter_context(os.fdopen(open_regular(self._runs / run_id / name), "rb"))
            yield file


def _append_data(source: int, to: Path) -> None:
    """Copy what `to` lacks. A part that was dropped from the source becomes a hole, also where it was copied before."""
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = os.open(to, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        at, end = os.fstat(target).st_size, os.fstat(source).st_size
        while at < end:
            try:
                begin = os.lseek(source, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            stop = os.lseek(source, begin, os.SEEK_HOLE)
            at = begin
            while at < stop:
                data = os.pread(source, min(COPY_BYTES, stop - at), at)
                if not data:
                    break
                at += os.pwrite(target, data, at)
        os.ftruncate(target, max(end, os.fstat(target).st_size))
    finally:
        os.close(target)


def _names(directory: Path) -> set[str]:
    """The names in a directory, but for files that are being written."""
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries if not entry.name.startswith(".")}


def _decoded(path: Path, decoder: msgspec.json.Decoder[T]) -> T:
    content = read_regular(path)
    try:
        return decoder.decode(content)
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"{path}: {error}: {content[:200]!r}", hint="move the file aside") from error
