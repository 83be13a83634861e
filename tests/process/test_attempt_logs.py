"""Logs for readers: their content, what is appended, and the hole of a bounded log."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stoker.process import attempt_logs
from stoker.process.attempt_logs import CHUNK, TAIL_SEARCH_BYTES, Chunk, follow, log_of, log_path, tail_offset
from tests.support.apart import run_apart_async, spare_descriptors
from tests.support.descriptors import count_fds
from tests.support.facts import DEADLINE_S, until_async
from tests.support.strace import why_not

KIB = 1024
OF_THE_LOOP = 1  # asyncio watches the end of a pipe of its own
READERS = ThreadPoolExecutor(2, "logs")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "1.log"


async def read(path: Path, offset: int = 0) -> list[Chunk]:
    """The whole content of a closed log."""
    closed = asyncio.Event()
    closed.set()
    return [chunk async for chunk in follow(path, offset=offset, closed=closed, threads=READERS)]


def punch(path: Path, start: int, end: int) -> None:
    command = ["fallocate", "--punch-hole", "--offset", str(start), "--length", str(end - start), str(path)]
    subprocess.run(command, check=True)


class Follower:
    """A reader of a log that grows."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.closed = asyncio.Event()
        self._chunks = follow(path, offset=offset, closed=self.closed, threads=READERS)

    async def next(self) -> Chunk:
        return await asyncio.wait_for(anext(self._chunks), DEADLINE_S)

    async def text(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += (await self.next()).data or b""
        return data

    async def end(self) -> None:
        self.closed.set()
        with pytest.raises(StopAsyncIteration):
            await self.next()


async def test_follow_when_the_log_is_closed_then_all_of_it_comes_and_then_the_end(log: Path) -> None:
    log.write_bytes(b"one\ntwo\n")

    assert await read(log) == [Chunk(0, b"one\ntwo\n")]
    assert await read(log, 4) == [Chunk(4, b"two\n")]
    assert await read(log, 8) == []
    assert await read(log, 800) == []


async def test_follow_when_the_log_is_large_then_it_comes_in_pieces_that_join(log: Path) -> None:
    data = os.urandom(2 * CHUNK + 17)
    log.write_bytes(data)

    chunks = await read(log)

    assert [chunk.offset for chunk in chunks] == [0, CHUNK, 2 * CHUNK]
    assert b"".join(chunk.data or b"" for chunk in chunks) == data


async def test_follow_when_there_is_a_hole_then_it_is_a_chunk_of_its_own(log: Path) -> None:
    log.write_bytes(b"x" * 64 * KIB)
    punch(log, 16 * KIB, 48 * KIB)

    assert await read(log) == [
        Chunk(0, b"x" * 16 * KIB),
        Chunk(16 * KIB, None, 32 * KIB),
        Chunk(48 * KIB, b"x" * 16 * KIB),
    ]
    assert await read(log, 20 * KIB) == [Chunk(20 * KIB, None, 28 * KIB), Chunk(48 * KIB, b"x" * 16 * KIB)]


async def test_follow_when_the_hole_reaches_the_end_then_it_still_has_a_size(log: Path) -> None:
    log.write_bytes(b"x" * 4 * KIB)
    os.truncate(log, 12 * KIB)

    assert await read(log) == [Chunk(0, b"x" * 4 * KIB), Chunk(4 * KIB, None, 8 * KIB)]


async def test_follow_when_the_log_is_missing_and_closed_then_it_is_empty(log: Path) -> None:
    assert await read(log) == []
    assert await read(log.parent / "no" / "such" / "1.log") == []


async def test_follow_when_the_log_is_a_link_then_it_is_not_followed(log: Path) -> None:
    log.symlink_to("/etc/passwd")

    with pytest.raises(OSError, match="not a regular file"):
        await read(log)


async def test_follow_when_lines_are_appended_then_each_comes_without_an_end(log: Path) -> None:
    log.write_bytes(b"first\n")
    follower = Follower(log)
    assert await follower.text(6) == b"first\n"

    for number in range(50):
        waiting = asyncio.ensure_future(follower.text(4))
        await asyncio.sleep(0)
        with log.open("ab") as file:
            file.write(b"%03d\n" % number)
        assert await waiting == b"%03d\n" % number

    await follower.end()


async def test_follow_when_inotify_is_not_available_then_appended_bytes_still_come(log: Path) -> None:
    assert await run_apart_async(follow_without_inotify, str(log)) == "last\n"


async def follow_without_inotify(path: str) -> str:
    log = Path(path)
    log.write_bytes(b"first\n")
    follower = Follower(log)
    await follower.text(6)
    with log.open("ab", buffering=0) as file, spare_descriptors(0):
        waiting = asyncio.ensure_future(follower.text(5))
        await asyncio.wait({waiting}, timeout=0.02)
        file.write(b"last\n")
        text = await waiting
    await follower.end()
    return text.decode()


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
async def test_follow_when_the_kernel_has_no_room_for_a_watch_then_bytes_still_come(log: Path) -> None:
    fault = f"epoll_ctl:error=ENOMEM:when={OF_THE_LOOP + 1}"

    assert await run_apart_async(follow_unwatched, str(log), fault=fault) == "last\n"


async def follow_unwatched(path: str) -> str:
    fds = count_fds()
    log = Path(path)
    log.touch()
    follower = Follower(log)
    waiting = asyncio.ensure_future(follower.text(5))
    await asyncio.wait({waiting}, timeout=0.02)
    with log.open("ab", buffering=0) as file:
        file.write(b"last\n")
        text = await waiting
    await follower.end()
    await until_async(lambda: count_fds() == fds, why="its descriptors, closed")
    return text.decode()


async def test_follow_when_the_log_comes_late_then_it_is_waited_for(log: Path) -> None:
    path = log.parent / "7" / "1.log"
    follower = Follower(path)
    waiting = asyncio.ensure_future(follower.text(5))
    await asyncio.sleep(0)

    path.parent.mkdir(exist_ok=True)  # the follower makes it too
    path.write_bytes(b"late\n")

    assert await waiting == b"late\n"
    await follower.end()


async def test_follow_when_another_reader_removed_the_directory_then_the_log_still_comes(log: Path) -> None:
    path = log.parent / "7" / "1.log"
    follower = Follower(path)
    waiting = asyncio.ensure_future(follower.text(5))
    await until_async(path.parent.is_dir)

    path.parent.rmdir()
    await until_async(path.parent.is_dir)
    path.write_bytes(b"late\n")

    assert await waiting == b"late\n"
    await follower.end()


async def test_follow_when_nothing_was_ever_written_then_nothing_is_left(log: Path) -> None:
    path = log.parent / "7" / "1.log"
    follower = Follower(path)
    waiting = asyncio.ensure_future(follower.end())
    await until_async(follower.closed.is_set)

    await waiting

    assert not path.parent.exists()


async def test_follow_when_it_is_closed_while_waiting_then_the_last_words_still_come(log: Path) -> None:
    log.write_bytes(b"first\n")
    follower = Follower(log)
    await follower.next()

    with log.open("ab") as file:
        file.write(b"last\n")
    follower.closed.set()

    assert await follower.text(5) == b"last\n"
    await follower.end()


async def test_follow_when_its_reader_goes_then_no_descriptor_stays(log: Path) -> None:
    log.write_bytes(b"first\n")
    before = count_fds()

    for _ in range(5):
        chunks = follow(log, offset=0, closed=asyncio.Event(), threads=READERS)
        await anext(chunks)
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.wait({waiting}, timeout=0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await chunks.aclose()

    await until_async(lambda: count_fds() == before, why="the logs closed, also by a thread that still read")


async def test_follow_when_its_reader_goes_during_a_read_then_the_log_stays_open(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_bytes(b"first\n")
    begun, gone = threading.Event(), threading.Event()
    inodes: list[tuple[str, int]] = []

    def slow_read(descriptor: int, _offset: int) -> None:
        begun.set()
        gone.wait(DEADLINE_S)
        inodes.append((threading.current_thread().name[:4], os.fstat(descriptor).st_ino))

    monkeypatch.setattr(attempt_logs, "_read", slow_read)
    before = count_fds()
    chunks = follow(log, offset=0, closed=asyncio.Event(), threads=READERS)
    waiting = asyncio.ensure_future(anext(chunks))
    await until_async(begun.is_set, why="the read")

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gone.set()

    await until_async(lambda: inodes, why="the end of the read")
    assert inodes == [("logs", log.stat().st_ino)]
    await until_async(lambda: count_fds() == before, why="the log closed")


LINES = b"".join(b"line %06d\n" % number for number in range(40_000))  # 480 KiB: more than one block from the end


@pytest.mark.parametrize(
    ("data", "lines", "expected"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"\n", 1, b"\n"),
        (b"no newline", 1, b"no newline"),
        (b"no newline", 5, b"no newline"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (LINES, 1, LINES[-12:]),
        (LINES, 30_000, LINES[-30_000 * 12 :]),
        (LINES, 40_000, LINES),
        (LINES[:-1], 30_000, LINES[-30_000 * 12 : -1]),
        (b"head\n" + b"x" * (CHUNK + 100), 1, b"x" * (CHUNK + 100)),
        (b"x" * CHUNK + b"\ny\n", 1, b"y\n"),
        (b"\n" + b"y" * CHUNK, 1, b"y" * CHUNK),
    ],
)
def test_tail_when_lines_are_counted_from_the_end_then_they_begin_there(
    log: Path, data: bytes, lines: int, expected: bytes
) -> None:
    log.write_bytes(data)

    assert data[tail_offset(log, lines) :] == expected


@pytest.mark.parametrize(("lines", "expected"), [(2, b"y\nz\n"), (3, b"xxxx\ny\nz\n"), (None, b"xxxx\ny\nz\n")])
def test_tail_when_its_bytes_are_bounded_then_a_long_line_is_cut(log: Path, lines: int | None, expected: bytes) -> None:
    data = b"x" * CHUNK + b"\ny\nz\n"
    log.write_bytes(data)

    assert data[tail_offset(log, lines, 9) :] == expected


def test_tail_when_there_is_no_log_then_it_begins_at_0(log: Path) -> None:
    assert tail_offset(log, 10) == 0


def test_tail_when_a_log_has_terabytes_without_a_line_then_only_its_end_is_searched(log: Path) -> None:
    size = 8 << 40
    log.touch()
    os.truncate(log, size)

    assert tail_offset(log, 3) == size - TAIL_SEARCH_BYTES


def test_path_when_it_is_made_then_numbers_alone_make_it() -> None:
    assert log_path(Path("/s"), 12_345, 2) == Path("/s/logs/12/12345/2.log")
    assert log_of(Path("/s"), "7.3.deadbeef") == Path("/s/logs/0/7/3.log")
