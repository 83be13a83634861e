"""The hashes of files that workers own, by content, read in a thread that may hang without harm.

Owns the bounds: files of a step, bytes and time of a request. A path must be a regular file and is opened without
blocking: no FIFO or device is waited for, nor opened, as that alone can have effects. Invariant: a request is answered
in the given time, even if a file system does not answer; at most `MOST_THREADS` threads can hang in one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from stoker.core.job.taken_over import FileHashes
from stoker.core.raw_bytes import AnyText, native, printable
from stoker.foreign import check_open_to_all
from stoker.host.file_patterns import matching
from stoker.host.threads import count_threads, run_apart

THREAD_NAME: Final = "file-hashes"
MOST_THREADS: Final = 8
MOST_FILES: Final = 2_000  # each is a line in the record of the step
MOST_BYTES: Final = 4 << 30
PIECE: Final = 1 << 20
DIRECTORY: Final = "directory"  # in place of a hash: only that it is there counts


class FilesWanted(Struct, frozen=True):
    """The patterns of one step, relative to its directory."""

    directory: AnyText
    sources: Sequence[str] = ()
    produces: Sequence[str] = ()


class FilesFound(Struct, frozen=True):
    """`missing`: the patterns of `produces` that no file matches."""

    hashes: FileHashes
    missing: Sequence[str] = ()


class _Request(Struct):
    """The limits of what is still to be read, and the hashes that are known already."""

    until: float
    bytes_left: int = MOST_BYTES
    known: dict[str, str | None] = field(default_factory=dict)

    def check(self) -> None:
        """Raises _FilesUnknownError once the time is over."""
        if time.monotonic() > self.until:
            raise _FilesUnknownError("they could not be read in time")


class _FilesUnknownError(Exception):
    """Why the hashes are not known."""


async def hashes_of(wanted: Sequence[FilesWanted], within_s: float) -> list[FilesFound]:
    """The hashes of the files of each step, or why they are not known."""
    if count_threads(THREAD_NAME) >= MOST_THREADS:
        return _unknown(wanted, f"{MOST_THREADS} other readers of files have not returned yet")
    request = _Request(time.monotonic() + within_s)
    try:
        reading = run_apart(lambda: [_look(one, request) for one in wanted], THREAD_NAME)
        return await asyncio.wait_for(reading, within_s + 1)
    except TimeoutError:
        return _unknown(wanted, f"a file system did not answer within {within_s:g}s")
    except RuntimeError as error:  # the kernel refuses the thread
        return _unknown(wanted, str(error))


def _unknown(wanted: Sequence[FilesWanted], why: str) -> list[FilesFound]:
    return [FilesFound(FileHashes(unknown=why))] * len(wanted)


def _look(wanted: FilesWanted, request: _Request) -> FilesFound:
    try:
        sources, _ = _matching(wanted, wanted.sources, request)
        produces, missing = _matching(wanted, wanted.produces, request)
    except _FilesUnknownError as error:
        return FilesFound(FileHashes(unknown=printable(str(error))))
    return FilesFound(FileHashes(sources, produces), missing)


def _matching(wanted: FilesWanted, patterns: Sequence[str], request: _Request) -> tuple[dict[str, str], list[str]]:
    """The hash of each file that a pattern matches, and the patterns that match none."""
    directory = native(wanted.directory)
    found: dict[str, str] = {}
    missing = []
    for pattern in patterns:
        matches = 0
        for path in matching(directory, pattern, request.check):
            digest = _hash(os.path.join(directory, path), request)  # noqa: PTH118 - a path of any bytes
            if digest is not None:
                found[printable(path)] = digest
                matches += 1
            if len(found) > MOST_FILES:
                raise _FilesUnknownError(f"they are more than {MOST_FILES} files")
        if not matches:
            missing.append(pattern)
    return found, missing


def _hash(path: str, request: _Request) -> str | None:
    """The hash of a file; None if it is not there."""
    if path not in request.known:
        try:
            request.known[path] = _read(path, request)
        except FileNotFoundError:
            request.known[path] = None
        except OSError as error:
            raise _FilesUnknownError(f"{path} cannot be read: {error.strerror}") from error
    return request.known[path]


def _read(path: str, request: _Request) -> str:
    """Raises OSError."""
    if stat.S_ISDIR(mode := os.stat(path).st_mode):  # noqa: PTH116 - a path of any bytes
        _check_directory(path)
        return DIRECTORY
    _check_regular(path, mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)  # a worker may have replaced it
        check_open_to_all(descriptor)
        digest = hashlib.blake2b(digest_size=16)
        while piece := os.read(descriptor, PIECE):
            digest.update(piece)
            request.bytes_left -= len(piece)
            if request.bytes_left < 0:
                raise _FilesUnknownError(f"they have more than {MOST_BYTES >> 30} GiB")
            request.check()
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _check_directory(path: str) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_open_to_all(descriptor)
    finally:
        os.close(descriptor)


def _check_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _FilesUnknownError(f"{path} is no regular file")
