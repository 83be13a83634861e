"""Logs of attempts for readers: their paths, their content, and following them as they grow.

Owns paths (made of numbers, never of a client's words), the reading of holes, and following by inotify. Only the
launcher writes logs. A follower locks what it has yet to read: before the launcher drops any of that, it waits for a
bounded time (`launcher/logs.py`). Invariants: a chunk is data or a hole, never both; offsets are those of the file, so
a reader can go on where it was.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stoker.core.job.run_id import RunId
from stoker.files import open_regular
from stoker.foreign import PLACE, reached

CHUNK = 256 * 1024
TAIL_SEARCH_BYTES = 1 << 28  # any process of the daemon's user can make a log of terabytes without a byte in it
IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
LAST_WORDS_BYTES = 2_000
TRACEBACK_BYTES = 8_000  # of a traceback; the end of a longer one is enough
TRACEBACK = b"Traceback (most recent call last):"
# A user has 128 inotify instances and a limited number of watches, and other programs may use them up; or the path is
# gone again. Then the log is polled.
NO_WATCH = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOENT})
POLL_S = 0.2
FLOCK = struct.Struct("hhqqi0q")  # struct flock of fcntl(2)
TO_THE_END = 0

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
    """The path of a log in the state directory: `logs/<id / 1000>/<id>/<attempt>.log`."""
    return f"logs/{job_id // 1000}/{job_id}/{ordinal}.log"


def log_path(state_dir: Path, job_id: int, ordinal: int) -> Path:
    return state_dir / log_name(job_id, ordinal)


def log_of(state_dir: Path, run_id: str) -> Path:
    run = RunId.parse(run_id)
    return log_path(state_dir, run.job_id, run.ordinal)


async def follow(path: Path, *, offset: int, closed: asyncio.Event, threads: Executor) -> AsyncGenerator[Chunk, None]:
    """The log from `offset` on, with all that is appended until `closed` is set. A missing log is empty.

    It is read in `threads`: a read may hang in a file system that is gone.
    """
    growing = not closed.is_set()
    descriptor = await _open_when_there(path, closed)
    if descriptor is None:
        return
    watch: _Watch | None = None
    reading: Future[Chunk | None] | None = None
    try:
        while True:
            over = closed.is_set()
            reading = threads.submit(_read_locked if growing else _read, descriptor, offset)
            chunk = await asyncio.wrap_future(reading)
            if chunk is not None:
                offset = chunk.end
                yield chunk
            elif over:
                return
            elif watch is None:
                watch = _Watch(path, IN_MODIFY)  # then read once more, as a write before the watch is not reported
            else:
                await watch.changed(closed)
    finally:
        # A read whose client left goes on in its thread: closed beneath it, the number could be another file's.
        if reading is None:
            os.close(descriptor)
        else:
            reading.add_done_callback(lambda _: os.close(descriptor))
        if watch is not None:
            watch.close()


async def _open_when_there(path: Path, closed: asyncio.Event) -> int | None:
    """Wait for the log, which is made at its first byte. Its directory is made to watch it, and removed if empty."""
    watch: _Watch | None = None
    directory_made = False
    try:
        while True:
            over = closed.is_set()
            descriptor = _open(path)
            if descriptor is not None or over:
                break
            if watch is None:
                if PLACE.owner_of(str(path)) is None:  # the log of another user is polled until it is there
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


def _read_locked(descriptor: int, offset: int) -> Chunk | None:
    """As `_read`; until the next call the chunk counts as not yet read."""
    with suppress(OSError):  # a file system without locks: then the launcher waits for no follower
        _lock(descriptor, fcntl.F_RDLCK, offset, TO_THE_END)
        if offset:
            _lock(descriptor, fcntl.F_UNLCK, 0, offset)
    return _read(descriptor, offset)


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    """A lock of the open file description (fcntl_locking(2)): it ends with the descriptor."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _read(descriptor: int, offset: int) -> Chunk | None:
    """The chunk at `offset`; None at the end of the file."""
    size = os.fstat(descriptor).st_size
    if offset >= size:
        return None
    data_at = _seek(descriptor, offset, os.SEEK_DATA, size)
    if data_at > offset:
        return Chunk(offset, None, data_at - offset)
    hole_at = _seek(descriptor, offset, os.SEEK_HOLE, size)
    return Chunk(offset, os.pread(descriptor, min(CHUNK, hole_at - offset), offset))


def _seek(descriptor: int, offset: int, what: int, size: int) -> int:
    """SEEK_DATA or SEEK_HOLE; the end of the file if there is neither."""
    try:
        return os.lseek(descriptor, offset, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def tail_offset(path: Path, lines: int | None, most_bytes: int | None = None) -> int:
    """The offset of the last `lines` lines, searched in the last 256 MiB, or of the last `most_bytes` if that is later.

    0 if there are fewer, or no log.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return 0
    try:
        look = TAIL_SEARCH_BYTES if most_bytes is None else min(TAIL_SEARCH_BYTES, most_bytes)
        return _line_start(descriptor, lines, look)
    finally:
        os.close(descriptor)


def tail(path: Path, limit: int) -> tuple[bytes, int]:
    """The last bytes of a log, and its size; b"" and 0 if there is none. Raises OSError."""
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

    None if it is empty or cannot be read.
    """
    try:
        end, _ = tail(path, TRACEBACK_BYTES)
    except OSError:
        return None
    at = end.rfind(TRACEBACK)
    words = end[at:] if at >= 0 else end[-LAST_WORDS_BYTES:]
    return words.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}").strip() or None


def _line_start(descriptor: int, lines: int | None, look_bytes: int) -> int:
    """Searched in the last `look_bytes`; their beginning if there are fewer lines in them, or for None."""
    end = size = os.fstat(descriptor).st_size
    if lines == 0:
        return size
    last_look = max(0, size - look_bytes)
    if lines is None:
        return last_look
    wanted = lines + 1 if size and os.pread(descriptor, 1, size - 1) == b"\n" else lines
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
    """Waits for a change of one path by inotify(7); if that is not available, by polling."""

    def __init__(self, path: Path, mask: int) -> None:
        self._event = asyncio.Event()
        self._descriptor = _watched(path, mask, self._readable)

    def _readable(self, descriptor: int) -> None:
        with suppress(BlockingIOError):
            while os.read(descriptor, 4096):
                self._event.set()

    async def changed(self, closed: asyncio.Event) -> None:
        """Return when the path changed or may have, or `closed` is set."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._event, closed)]
        timeout_s = POLL_S if self._descriptor is None else None
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._event.clear()

    def close(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)


def _watched(path: Path, mask: int, readable: Callable[[int], None]) -> int | None:
    """An inotify descriptor on `path` for which the loop calls `readable`; None if none is available."""
    descriptor: int | None = None
    try:
        descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        with reached(os.fspath(path)) as name:
            _checked(_libc.inotify_add_watch(descriptor, os.fsencode(name), mask))
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
