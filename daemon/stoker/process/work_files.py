"""The files through which daemon and worker hand data to each other, in `work/` of the state directory.

Owns their names, and how they are opened: a worker can make its output a FIFO, or a terabyte. `core.outputs` says what
an output may hold. Invariants: names come from run ids alone; the files of a run are gone once it is settled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core import outputs
from stoker.core.job.model import Outcome, Spec
from stoker.core.job.run_id import RunId
from stoker.core.job.verdict import failed_by_itself
from stoker.core.shortage import OWN_SHORTAGES
from stoker.core.sorted_json import encode_sorted
from stoker.files import make_regular, open_regular
from stoker.foreign import PLACE, reached
from stoker.paths import SOCKET_PATH_BYTES
from stoker.process.attempt_logs import last_words
from stoker.process.run_roots import RunRoots
from stoker.process.secret_files import SecretFiles, places
from stoker.process.shared_files import SharedFiles


class RunOutput(Struct, frozen=True):
    """The outputs of a run as a JSON object of strings, or the reason why they were refused."""

    text: str | None = None
    error: str | None = None


NO_OUTPUT = RunOutput()
SUFFIXES = OUTPUT, CHECKPOINT, INPUTS, EVENTS, SOURCES = ".output", ".checkpoint", ".inputs", ".events", ".sources"
MOST_SOURCES_BYTES = 16 << 20  # 2 000 paths of 4 KiB, as JSON
# The cost of reading the directory, by its number of names, in lookups of a missing name.
NAMES_PER_LOOKUP = 6
NAMES_PER_LISTING = 15
# A directory has the time of its last change, which of all file systems FAT rounds most, to two seconds. If it was the
# same for longer, a later change gets another time: what is read then holds until the time differs.
UNCHANGED_S = 2.5


class WorkFiles:
    """`secrets`: the files that are not here, as they may not lie on a disk; `environ` says where they may.

    In the directory of a user (`roots`), `work` can be written by that user and by the daemon.
    """

    def __init__(
        self,
        state_dir: Path,
        instance: str = "",
        environ: Mapping[str, str] | None = None,
        roots: RunRoots | None = None,
    ) -> None:
        self.secrets = SecretFiles(() if environ is None else places(environ), instance)
        self.roots = RunRoots(state_dir) if roots is None else roots
        self._root = state_dir / "work"
        self._same_inputs = SharedFiles(f"{self._root}/same{INPUTS}")
        self._same_events = SharedFiles(f"{self._root}/same{EVENTS}")
        self._guessed = 0  # how many names the directory has
        self._changed_at = -1  # when the directory was changed, as it says
        self._seen_at = 0.0  # when that was seen first (monotonic)
        self._names: frozenset[str] | None = None  # all that it has since then

    def prepare(self, open_runs: Container[str]) -> None:
        """Make the directory and the files that all runs share; remove those of runs that have ended."""
        self.secrets.prepare(open_runs)
        self._root.mkdir(mode=0o700, exist_ok=True)
        for root in self.roots:
            self._remove_ended(root / "work", open_runs)
        shared = self.inputs("", needs=False)
        self._put(shared, b"{}\n")
        os.chmod(shared, 0o400)  # noqa: PTH101 - against workers that write to it by mistake

    def _remove_ended(self, work: Path, open_runs: Container[str]) -> None:
        """Remove the files of runs that have ended. The directory of a user may be whatever the user has made of it."""
        try:
            with reached(f"{work}/") as directory:
                names = os.listdir(directory)  # noqa: PTH208 - a name of a descriptor
        except OSError:
            if PLACE.owner_of(str(work)) is None:
                raise
            return
        for name in names:
            if name.rpartition(".")[0] not in open_runs:
                self._remove(f"{work}/{name}")

    def _work(self, run_id: str) -> str:
        return f"{self.roots.of_run(run_id)}/work" if run_id else str(self._root)

    def output(self, run_id: str) -> str:
        """STOKER_OUTPUT: the file that a worker writes its outputs to."""
        return f"{self._work(run_id)}/{run_id}{OUTPUT}"

    def checkpoint(self, run_id: str) -> str:
        """STOKER_CHECKPOINT: its newest checkpoint, if there is one."""
        return f"{self._work(run_id)}/{run_id}{CHECKPOINT}"

    def inputs(self, run_id: str, *, needs: bool = True) -> str:
        """STOKER_INPUTS_FILE: how its needs ended, and their outputs; jobs without needs share one file."""
        own = needs or (run_id != "" and self.is_foreign(run_id))
        return f"{self._work(run_id)}/{run_id}{INPUTS}" if own else f"{self._root}/none"

    def events(self, run_id: str) -> str:
        """STOKER_EVENT_FILE: the named events that its job waited for; or STOKER_HOOK_FILE: the change of its hook."""
        return f"{self._work(run_id)}/{run_id}{EVENTS}"

    def notice_address(self, run_id: str) -> str:
        """NOTIFY_SOCKET: a path, or an abstract name (`@`) where the path is longer than a socket's address may be.

        A path through our descriptor of the directory, as `process.connection` uses, means nothing to a worker.
        """
        path = f"{self._work(run_id)}/{run_id}.notify"
        return path if len(os.fsencode(path)) <= SOCKET_PATH_BYTES else f"@stoker-{run_id}"

    def put_no_inputs(self, run_id: str) -> None:
        """The inputs of a run without needs, for another user, who cannot read the shared file. Raises OSError."""
        self._put(self.inputs(run_id), b"{}\n")

    def put_checkpoint(self, run_id: str, data: bytes) -> None:
        self._put(self.checkpoint(run_id), data)

    def put_events(self, run_id: str, data: bytes) -> None:
        self._put_same(self._same_events, run_id, self.events(run_id), data)

    def put_inputs(self, run_id: str, data: bytes) -> None:
        self._put_same(self._same_inputs, run_id, self.inputs(run_id), data)

    def _put_same(self, same: SharedFiles, run_id: str, path: str, data: bytes) -> None:
        """Runs of other users share no file: each can read only what is in the own directory."""
        if self.is_foreign(run_id):
            self._put(path, data)
        else:
            same.put(path, data)

    def put_sources(self, run_id: str, hashes: bytes) -> None:
        """The hashes of its sources, until its end."""
        self._put(f"{self._root}/{run_id}{SOURCES}", hashes)

    def may_be_ordered(self, run_id: str) -> bool:
        """Whether a launcher may have got the order of a run with sources: their hashes, or its log, are there."""
        return os.path.lexists(f"{self._root}/{run_id}{SOURCES}") or os.path.lexists(self.roots.log_of(run_id))

    def take_sources(self, run_id: str) -> bytes:
        """Raises OSError."""
        with open(open_regular(f"{self._root}/{run_id}{SOURCES}"), "rb") as file:  # noqa: PTH123 - a descriptor
            return file.read(MOST_SOURCES_BYTES)

    def _put(self, path: str, data: bytes) -> None:
        with open(make_regular(path), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)

    def is_foreign(self, run_id: str) -> bool:
        """Whether its files lie in the directory of another user."""
        return self.roots.users is not None and RunId.parse(run_id).uid is not None

    def names(self, lookups: int) -> Collection[str] | None:
        """The names that are there, where to know them all costs less than to look for so many; else None.

        Few jobs write a file here, so mostly the names are known by the time of the directory alone.
        """
        if not lookups:
            return None
        try:
            unchanged = self._is_unchanged()
            if unchanged and self._names is not None:
                return self._names
            if not unchanged and lookups * NAMES_PER_LOOKUP < self._guessed + NAMES_PER_LISTING:
                self._guessed = max(0, self._guessed - lookups * NAMES_PER_LOOKUP)  # it may have become smaller
                return None
            there = frozenset(os.listdir(self._root))  # noqa: PTH208 - Path costs more than the call
        except OSError:
            return None
        self._guessed = len(there)
        if unchanged:
            self._names = there
        return there

    def _is_unchanged(self) -> bool:
        """Whether the directory has been as it is for UNCHANGED_S. Raises OSError."""
        changed_at, now = os.stat(self._root).st_mtime_ns, time.monotonic()  # noqa: PTH116 - Path costs more
        if changed_at != self._changed_at:
            self._changed_at, self._seen_at, self._names = changed_at, now, None
        return now - self._seen_at >= UNCHANGED_S

    def take_output(self, run_id: str) -> RunOutput:
        """The outputs of a run that has ended. The file stays until the commit.

        Raises OSError if the daemon lacks memory or a descriptor: that is not the fault of the job.
        """
        try:
            descriptor = open_regular(self.output(run_id))
        except FileNotFoundError:
            return NO_OUTPUT
        except OSError as error:
            if error.errno not in OWN_SHORTAGES:
                return _refused(error.strerror)
            if not os.path.lexists(self.output(run_id)):  # open(2) takes a descriptor before it looks for the file
                return NO_OUTPUT
            raise
        try:
            size = os.fstat(descriptor).st_size
            if size > outputs.MAX_BYTES:
                return _refused(outputs.too_large(size))
            return parse_output(os.read(descriptor, outputs.MAX_BYTES))
        except OSError as error:
            return _refused(error.strerror)
        finally:
            os.close(descriptor)

    def last_words(self, run_id: str) -> str | None:
        """The end of the log of a run that failed, as far as it can be read."""
        return last_words(self.roots.log_of(run_id))

    def with_results(self, run_id: str, spec: Spec, outcome: Outcome, there: Collection[str] | None = None) -> Outcome:
        """The outcome with the run's output, or why that is refused, and with the last words of one that failed.

        `there`: the names of all files since its end, where they are known. Raises OSError as `take_output` does.
        """
        known = there is not None and not self.is_foreign(run_id)
        none = outcome.exit_code is None or (known and f"{run_id}{OUTPUT}" not in (there or ()))
        output = NO_OUTPUT if none else self.take_output(run_id)
        words = self.last_words(run_id) if failed_by_itself(spec, outcome) else None
        if output is NO_OUTPUT and words is None:
            return outcome
        error = "\n".join(text for text in (outcome.error, output.error, words) if text) or None
        return replace(outcome, output=output.text, output_refused=output.error is not None, error=error)

    def remove(self, run_ids: Sequence[str]) -> None:
        self.secrets.remove(run_ids)
        there = self.names(len(run_ids) * len(SUFFIXES))
        for run_id in run_ids:
            work, known = self._work(run_id), None if self.is_foreign(run_id) else there
            for suffix in SUFFIXES:
                if known is None or run_id + suffix in known:
                    self._remove(f"{work}/{run_id}{suffix}")

    def _remove(self, path: str) -> None:
        # For every job: Path and contextlib.suppress cost more than the call.
        try:
            if PLACE.owner_of(path) is None:
                os.unlink(path)  # noqa: PTH108
                return
            with reached(path) as name:
                os.unlink(name)  # noqa: PTH108
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            pass  # a worker may have made a directory of that name; it does no harm
        except OSError:
            if PLACE.owner_of(path) is None:
                raise


class InputsFile:
    """STOKER_INPUTS_FILE, written need by need, as all of it may not fit into memory."""

    def __init__(self, path: str) -> None:
        self._file = open(make_regular(path), "wb")  # noqa: PTH123, SIM115 - a descriptor, closed by `close`
        self._before = b"{"

    def add(self, ends: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add needs by name, each with `state reason exit_code outputs`. Raises OSError."""
        for name, end in ends:
            self._file.write(self._before + _input(name, end))
            self._before = b",\n"

    def close(self) -> None:
        """Complete the file. Raises OSError."""
        with self._file:
            self._file.write(b"{}\n" if self._before == b"{" else b"}\n")


def _input(name: str, end: dict[str, Any]) -> bytes:
    return msgspec.json.encode(name) + b":" + msgspec.json.encode(end)


def inputs_text(ends: Iterable[tuple[str, dict[str, Any]]]) -> bytes:
    """The content of an `InputsFile` with these needs."""
    return b"{" + b",\n".join(_input(name, end) for name, end in ends) + b"}\n"


def parse_output(written: bytes) -> RunOutput:
    """The outputs in the text that a worker wrote."""
    try:
        values = outputs.read(written)
    except outputs.OutputRefused as error:
        return _refused(str(error))
    return RunOutput(text=encode_sorted(values).decode()) if values else NO_OUTPUT


def _refused(why: object) -> RunOutput:
    return RunOutput(error=f"STOKER_OUTPUT: {why}")
