"""Logs of attempts as readers see them: where they are, what is in them, what comes next.

Owns paths (made of numbers, never of a client's words), the reading of holes, and following by inotify. Refuses
to write: the launcher does, from the first byte on. Invariants: a chunk is data or a hole, never both; offsets are
those of the file, so a reader can come back where it was.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stoker.core.job.model import RunId
from stoker.files import open_regular

CHUNK = 256 * 1024
LOOK_BACK_BYTES = 1 << 28  # whoever runs as the daemon's user can make a log of terabytes without a byte in it
IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
LAST_WORDS_BYTES = 2_000
TRACEBACK_BYTES = 8_000  # of a traceback; where it is longer, the end is what tells
TRACEBACK = b"Traceback (most recent call last):"
# Every user has 128 inotify instances and a bound on watches, which anybody may use up; or the path is gone again. Then
# the log is looked at.
NO_WATCH = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOENT})
LOOK_S = 0.2

_libc = ctypes.CDLL(None, use_errno=True)


class Chunk(Struct, frozen=True):
    """Bytes at `offset`, or (data is None) a hole of `hole_bytes` that was punched to bound the log."""

    offset: int
    data: bytes | None = None
    hole_bytes: int = 0

    @property
    def end(self) -> int:
        return self.offset + (self.hole_bytes if self.data is None else len(self.data))


def log_name(job_id: int, ordinal: int) -> str:
    """Where a log is in the state directory: `logs/<id / 1000>/<id>/<attempt>.log`."""
    return f"logs/{job_id // 1000}/{job_id}/{ordinal}.log"


def log_path(state_dir: Path, job_id: int, ordinal: int) -> Path:
    """The path of a log."""
    return state_dir / log_name(job_id, ordinal)


def log_of(state_dir: Path, run_id: str) -> Path:
    """The log of the attempt with that run id."""
    run = RunId.parse(run_id)
    return log_path(state_dir, run.job_id, run.ordinal)


async def follow(path: Path, *, offset: int, closed: asyncio.Event) -> AsyncGenerator[Chunk, None]:
    """What is in the log from `offset` on, and what is appended until `closed` is set; a missing log is empty."""
    descriptor = await _open_when_there(path, closed)
    if descriptor is None:
        return
    watch: _Watch | None = None
    try:
        while True:
            over = closed.is_set()
            chunk = await asyncio.to_thread(_read, descriptor, offset)
            if chunk is not None:
                offset = chunk.end
                yield chunk
            elif over:
                return
            elif watch is None:
                watch = _Watch(path, IN_MODIFY)  # look once more after the watch stands, or a write between is missed
            else:
                await watch.changed(closed)
    finally:
        os.close(descriptor)
        if watch is not None:
            watch.close()


async def _open_when_there(path: Path, closed: asyncio.Event) -> int | None:
    """A log appears with its first byte. Its directory is made here to watch it, and removed if it stays empty."""
    watch: _Watch | None = None
    directory_made = False
    try:
        while True:
            over = closed.is_set()
            descriptor = _open(path)
            if descriptor is not None or over:
                break
            if watch is None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory_made = True
                watch = _Watch(path.parent, IN_CREATE | IN_DELETE_SELF)
            else:
                await watch.changed(closed)
                watch.close()
                watch = None
    finally:
        if watch is not None:
            watch.close()
    if descriptor is None and directory_made:
        with suppress(OSError):  # logs of other attempts are in it
            path.parent.rmdir()
    return descriptor


def _open(path: Path) -> int | None:
    """None when there is no such log."""
    with suppress(FileNotFoundError):
        return open_regular(path)
    return None


def _read(descriptor: int, offset: int) -> Chunk | None:
    """The next piece at `offset`; None at the end of the file."""
    size = os.fstat(descriptor).st_size
    if offset >= size:
        return None
    data_at = _seek(descriptor, offset, os.SEEK_DATA, size)
    if data_at > offset:
        return Chunk(offset, None, data_at - offset)
    hole_at = _seek(descriptor, offset, os.SEEK_HOLE, size)
    return Chunk(offset, os.pread(descriptor, min(CHUNK, hole_at - offset), offset))


def _seek(descriptor: int, offset: int, what: int, size: int) -> int:
    """SEEK_DATA or SEEK_HOLE, where the end of the file counts as the answer."""
    try:
        return os.lseek(descriptor, offset, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin, looked for in the last 256 MiB; 0 when there are no more, or no log."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return 0
    try:
        return _line_start(descriptor, lines)
    finally:
        os.close(descriptor)


def tail(path: Path, limit: int) -> tuple[bytes, int]:
    """The last bytes of a log and its whole size; nothing of one that is not there. Raises OSError."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return b"", 0
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, limit, max(0, size - limit)), size
    finally:
        os.close(descriptor)


def last_words(path: Path) -> str | None:
    """The end of a log, for the record of a failure: from its last Python traceback on, if it has one.

    None where there is nothing, or nothing that can be read: the failure is recorded either way.
    """
    try:
        found, _ = tail(path, TRACEBACK_BYTES)
    except OSError:
        return None
    at = found.rfind(TRACEBACK)
    words = found[at:] if at >= 0 else found[-LAST_WORDS_BYTES:]
    return words.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}").strip() or None


def _line_start(descriptor: int, lines: int) -> int:
    end = size = os.fstat(descriptor).st_size
    if lines == 0:
        return size
    wanted = lines + 1 if size and os.pread(descriptor, 1, size - 1) == b"\n" else lines
    last_look = max(0, size - LOOK_BACK_BYTES)
    while end > last_look:
        start = max(last_look, end - CHUNK)
        block = os.pread(descriptor, end - start, start)
        count = block.count(b"\n")
        if count >= wanted:
            return start + _nth_from_end(block, wanted) + 1
        wanted -= count
        end = start
    return last_look


def _nth_from_end(block: bytes, number: int) -> int:
    at = len(block)
    for _ in range(number):
        at = block.rindex(b"\n", 0, at)
    return at


class _Watch:
    """inotify(7) on one path, waited for on the loop; where there is none to be had, a look now and then."""

    def __init__(self, path: Path, mask: int) -> None:
        self._event = asyncio.Event()
        self._descriptor = _watched(path, mask, self._readable)

    def _readable(self, descriptor: int) -> None:
        with suppress(BlockingIOError):
            while os.read(descriptor, 4096):
                self._event.set()

    async def changed(self, closed: asyncio.Event) -> None:
        """Return when that happened (or may have), or nobody will write any more."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._event, closed)]
        patience_s = LOOK_S if self._descriptor is None else None
        try:
            await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._event.clear()

    def close(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)


def _watched(path: Path, mask: int, readable: Callable[[int], None]) -> int | None:
    """An inotify descriptor on `path` for which the loop calls `readable`; None where there can be none."""
    descriptor: int | None = None
    try:
        descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        _checked(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask))
        asyncio.get_running_loop().add_reader(descriptor, readable, descriptor)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if error.errno not in NO_WATCH:
            raise
        return None
    return descriptor


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
