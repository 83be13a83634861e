"""A disk that fills up: the reserve is used, commits wait for room, and the ends of running work are still recorded.

The disk is a tmpfs of a few megabytes, which only root can mount.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.model import State
from stoker.store import attempts, jobs
from stoker.store.batch import Batch
from stoker.store.directory import StateDirectory
from stoker.store.reserve import is_full
from tests.support.batches import accepted, chain_holds, opening, over, running, tables
from tests.support.disks import fill, small_disk
from tests.support.facts import until_async
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stoker.store.open import Opened
    from tests.store.conftest import Open

MIB = 1024 * 1024
RESERVE = 2 * MIB
LARGE = MIB


@pytest.fixture
def disk_directory(tmp_path: Path) -> Iterator[StateDirectory]:
    with small_disk(tmp_path / "disk", "6m") as root:
        yield StateDirectory(root)


def large(ident: int, seq: int, size: int) -> Batch:
    return accepted(job(id=ident, asked=spec(stdin="x" * size)), seq=seq)


async def filled(state: Opened, root: Path) -> Path:
    """Fill the disk. The WAL is empty then: the migrations of a new database have left it large."""
    await state.writer.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    return fill(root / "ballast")


async def test_commit_when_the_disk_is_full_then_the_reserve_is_deleted_and_it_succeeds(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    await filled(state, disk_directory.root)
    assert (state.writer.full, disk_directory.reserve.exists()) == (False, True)

    await state.writer.commit(large(1, 1, LARGE))

    assert (state.writer.full, disk_directory.reserve.exists()) == (True, False)
    assert set(await state.reader.run(jobs.by_ids, [1])) == {1}
    rows = (await state.writer.read(tables))["changes"]
    assert len(rows) == 1
    assert chain_holds(rows)


async def test_commit_when_even_the_reserve_is_too_small_then_it_waits_until_there_is_room(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    await state.writer.commit(accepted(job(id=1)))
    ballast = await filled(state, disk_directory.root)
    before = await state.writer.read(tables)

    late = asyncio.ensure_future(state.writer.commit(large(2, 2, 3 * MIB)))
    await until_async(lambda: state.writer.waiting, why="a commit that waits for room")
    meanwhile = await state.reader.run(tables)
    ballast.unlink()
    await late

    assert meanwhile == before
    assert (state.writer.waiting, state.writer.full) == (False, True)
    assert chain_holds((await state.writer.read(tables))["changes"])


async def test_reserve_when_there_is_room_again_then_it_is_kept_and_the_disk_is_not_full(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    ballast = await filled(state, disk_directory.root)
    await state.writer.commit(large(1, 1, LARGE))
    with pytest.raises(OSError, match="No space"):
        state.writer.keep_reserve()
    assert (state.writer.full, disk_directory.reserve.exists()) == (True, False)

    ballast.unlink()
    state.writer.keep_reserve()

    assert not state.writer.full
    assert disk_directory.reserve.stat().st_size == RESERVE


async def test_open_when_there_is_no_room_for_the_reserve_then_the_disk_counts_as_full(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=20 * MIB)

    assert state.writer.full
    assert not disk_directory.reserve.exists()


@pytest.mark.parametrize("pages_left", [0, 1, 8, 9])  # 8: room for the index of the WAL, not for the WAL
async def test_open_when_the_daemon_died_on_a_full_disk_then_the_reserve_lets_it_start(
    disk_directory: StateDirectory, open_at: Open, pages_left: int
) -> None:
    """Otherwise the ends of workers could not be recorded until a person freed space."""
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    disk_directory.unlock()
    ballast = fill(disk_directory.root / "ballast")
    os.truncate(ballast, ballast.stat().st_size - 4096 * pages_left)

    again = await open_at(disk_directory, reserve_bytes=RESERVE)

    assert again.writer.full
    assert again.instance.epoch == 2


async def test_settle_when_the_disk_is_full_then_the_end_of_running_work_is_still_recorded(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    going = [running(ident) for ident in range(1, 65)]
    await state.writer.commit(opening(accepted(*(of for of, _ in going)), *(live for _, live in going)))
    await filled(state, disk_directory.root)

    async def settle() -> None:
        for of, live in going:
            ended = job(State.SUCCEEDED, id=of.id, attempts=1)
            await state.writer.commit(Batch(jobs={of.id: ended}, attempts={live.run_id: over(live)}))

    settled = asyncio.ensure_future(settle())
    await until_async(lambda: settled.done() or state.writer.waiting, why="all ends on disk")
    assert not state.writer.waiting, "there was no room for them"
    await settled

    assert (state.writer.full, disk_directory.reserve.exists()) == (True, False)
    assert await state.reader.run(attempts.open_attempts) == []


def test_full_when_nothing_can_be_written_at_all_then_the_disk_is_not_called_full(tmp_path: Path) -> None:
    gone = tmp_path / "state"
    gone.touch()  # any call about the directory fails here, as on a disk that is read-only or gone
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    assert not is_full(error, gone)
