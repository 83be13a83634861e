"""Commits: whole or not at all, one record for each change, the chain of hashes, and a disk that fills up.

The full disk is a real one: a tmpfs of a few megabytes, which only root can mount.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.errors import StorageFailed
from stoker.core.job.model import NeedOn, Queue, Resource, State
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.store import attempts, changes, jobs
from stoker.store.attempts import Needed
from stoker.store.directory import StateDirectory
from stoker.store.recoveries import Recovery
from stoker.store.reserve import is_full
from stoker.store.writer import CHECKPOINT_PAGES, PAGE_BYTES, Batch, NewKey, store
from tests.support.batches import accepted, change, newest, tables
from tests.support.facts import until_async
from tests.support.jobs import attempt, checkpoint, exited, job, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stoker.core.job.model import Attempt, Job
    from stoker.store.open import Opened
    from tests.store.conftest import Open


def running(ident: int = 1) -> tuple[Job, Attempt]:
    of = job(State.RUNNING, id=ident, attempts=1)
    return of, attempt(of)


def over(of: Attempt) -> Attempt:
    return replace(of, outcome=exited(0, ended_at=5), ended_at=5)


async def all_rows(state: Opened) -> dict[str, list[tuple[Any, ...]]]:
    return await state.writer.read(tables)


# --- whole or not at all ------------------------------------------------------------------------------------


async def test_commit_when_a_turn_has_everything_then_all_of_it_is_there(state: Opened) -> None:
    of, live = running()
    waiting = job(State.WAITING, id=2, needs_open=1)
    begun = Batch(
        new_jobs={1: of, 2: waiting},
        new_attempts={live.run_id: live},
        holds={live.run_id: {"gpu": 1}},
        keys=[NewKey(7, "k", b"h" * 16, 1, 0)],
        needs={2: {1: NeedOn.OK}},
        queues={"bulk": Queue(name="bulk")},
        resources={"gpu": Resource(name="gpu", capacity=1)},
        meta={"fact": 1},
        recovery=Recovery(epoch=1, started_at=0),
        changes=[change(1), change(2, subject="2"), change(3, kind="queue", subject="bulk")],
    )
    await state.writer.commit(begun)
    end = over(live)
    finished = job(State.SUCCEEDED, id=1, attempts=1, exit_code=0)
    going = replace(waiting, needs_open=0, state=State.RUNNING, attempts=1)
    second = attempt(going)

    await state.writer.commit(
        Batch(
            jobs={1: finished, 2: going},
            attempts={live.run_id: end},
            new_attempts={second.run_id: second},
            needs_met={(2, 1)},
            changes=[change(4), change(5, subject="2")],
        )
    )

    rows = await all_rows(state)
    assert await state.writer.read(jobs.by_ids, [1, 2]) == {1: finished, 2: going}
    assert await state.writer.read(attempts.of_job, 1) == [end]
    assert await state.writer.read(attempts.open_attempts) == [second]
    assert [len(rows[name]) for name in ("changes", "needs", "idempotency", "resources")] == [5, 0, 1, 1]
    assert ("fact", 1) in rows["meta"]


async def test_commit_when_a_job_ends_and_starts_again_in_one_turn_then_both_fit(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(replace_batch(accepted(of), live))
    again = replace(of, attempts=2)
    second = attempt(again)

    await state.writer.commit(
        Batch(jobs={1: again}, attempts={live.run_id: over(live)}, new_attempts={second.run_id: second})
    )

    assert await state.writer.read(attempts.open_attempts) == [second]


async def test_commit_when_ends_are_asked_for_then_they_are_as_it_leaves_them(state: Opened) -> None:
    of, live = running()
    assert await state.writer.commit(replace_batch(accepted(of), live), [1]) == [
        Needed(1, None, "running", None, None, None)
    ]
    end = replace(live, outcome=exited(0, ended_at=5, output='{"a":"b"}'), ended_at=5)

    ends = await state.writer.commit(
        Batch(jobs={1: job(State.SUCCEEDED, id=1, attempts=1, exit_code=0)}, attempts={live.run_id: end}), [1, 2]
    )

    assert ends == [Needed(1, None, "succeeded", "user", 0, '{"a":"b"}')]


async def test_commit_when_an_end_cannot_be_read_then_it_is_durable_all_the_same(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(replace_batch(accepted(of), live))
    await state.writer.commit(
        Batch(jobs={1: job(State.SUCCEEDED, id=1, attempts=1)}, attempts={live.run_id: over(live)})
    )
    await state.writer.read(damage_output)

    assert await state.writer.commit(accepted(job(id=2), seq=2), [1]) == ()

    assert await state.writer.read(jobs.by_ids, [2]) == {2: job(id=2)}


def damage_output(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE attempts SET output = CAST(X'ff' AS TEXT)")  # no UTF-8


def replace_batch(batch: Batch, *runs: Attempt) -> Batch:
    """The batch, which also opens `runs`."""
    batch.new_attempts = {run.run_id: run for run in runs}
    return batch


def respecified(one: Job) -> Batch:
    return Batch(new_jobs={9: job(id=9)}, respecified={one.id: one}, changes=[change(2, subject="9")])


# Each has a part that is fine and a part that the database refuses, in this order or the other.
BROKEN: dict[str, Callable[[], Batch]] = {
    "an id that is taken": lambda: accepted(job(id=9), job(id=1), seq=2),
    "a job that does not exist": lambda: Batch(new_jobs={9: job(id=9)}, jobs={8: job(id=8)}, changes=[change(2)]),
    "a new spec for no job": lambda: respecified(job(id=8)),
    "a second open attempt": lambda: replace_batch(
        accepted(job(id=9), seq=2), attempt(job(id=1), ordinal=2, run_id="1.2.b")
    ),
    "an end for no attempt": lambda: Batch(
        new_jobs={9: job(id=9)}, attempts={"8.1.x": over(attempt(job(id=8)))}, changes=[change(2)]
    ),
    "progress of no attempt": lambda: Batch(
        new_jobs={9: job(id=9)}, attempts={"8.1.x": attempt(job(id=8))}, changes=[change(2)]
    ),
    "a need that is not open": lambda: Batch(new_jobs={9: job(id=9)}, needs_met={(9, 1)}, changes=[change(2)]),
    "a key that is taken": lambda: Batch(
        new_jobs={9: job(id=9)}, keys=[NewKey(7, "k", b"h", 9, 0)], changes=[change(2)]
    ),
    "a number that is not the next": lambda: accepted(job(id=9), seq=3),
    "a row that breaks a check": lambda: accepted(job(id=9), job(State.FAILED, id=8, finished_at=None), seq=2),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_commit_when_one_row_is_refused_then_the_batch_is_rolled_back(state: Opened, kind: str) -> None:
    of, live = running()
    first = replace_batch(accepted(of), live)
    first.keys = [NewKey(7, "k", b"h", 1, 0)]
    await state.writer.commit(first)
    before = await all_rows(state)

    with pytest.raises(StorageFailed):
        await state.writer.commit(BROKEN[kind]())

    assert await all_rows(state) == before
    assert not await state.writer.read(lambda connection: connection.in_transaction)
    await state.writer.commit(accepted(job(id=9), seq=2))
    assert chain_holds((await all_rows(state))["changes"])


async def test_settle_when_the_attempt_is_settled_already_then_its_outcome_is_not_touched(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(replace_batch(accepted(of), live))
    await state.writer.commit(Batch(attempts={live.run_id: over(live)}))
    other = replace(over(live), outcome=exited(9, ended_at=9), ended_at=9)

    with pytest.raises(StorageFailed, match="0 of 1 rows"):
        await state.writer.commit(Batch(attempts={live.run_id: other}))

    assert await state.writer.read(attempts.of_job, 1) == [over(live)]


async def test_progress_when_the_attempt_is_settled_already_then_it_is_refused(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(replace_batch(accepted(of), live))
    await state.writer.commit(Batch(attempts={live.run_id: over(live)}))

    with pytest.raises(StorageFailed, match="0 of 1 rows"):
        await state.writer.commit(Batch(attempts={live.run_id: live}))


async def test_commit_when_the_connection_is_gone_then_it_is_in_doubt(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.close)

    with pytest.raises(StorageFailed, match="commit"):
        await state.writer.commit(accepted(job(id=1)))
    with pytest.raises(StorageFailed, match="read"):
        await state.writer.read(newest)


async def test_commit_when_the_schema_is_not_what_it_was_then_it_is_in_doubt(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.execute, "ALTER TABLE meta RENAME TO gone")

    with pytest.raises(StorageFailed, match="commit: no such table: meta"):
        await state.writer.commit(Batch(meta={"fact": 1}))

    assert not state.writer.full


async def test_commit_when_the_process_is_asked_nothing_then_an_empty_batch_says_so(state: Opened) -> None:
    before = await all_rows(state)
    assert not Batch()

    await state.writer.commit(Batch())

    assert await all_rows(state) == before


@pytest.mark.parametrize(
    "batch",
    [accepted(job(id=1)), Batch(jobs={1: job(id=1)}), Batch(attempts={"a": attempt()}), Batch(meta={"a": 1}),
     Batch(recovery=Recovery(epoch=1, started_at=0)), Batch(changes=[change(1)])],
)  # fmt: skip
def test_batch_when_it_holds_anything_then_it_wants_a_commit(batch: Batch) -> None:
    assert batch


MEGABYTE = 1 << 20


def saved(seq: int, size: int) -> Checkpoint:
    return replace(checkpoint(b"", seq, chain="j1"), data=bytes(size), size=size)


@pytest.mark.parametrize(
    "batch",
    [lambda n: Batch(checkpoints=[saved(n, 2 * MEGABYTE)]),
     lambda n: Batch(new_jobs={n: job(id=n, asked=spec(stdin="x" * MEGABYTE))},
                     changes=[change(n, payload={"stdin": "x" * MEGABYTE})]),
     lambda n: accepted(*(job(id=500 * n + i) for i in range(500)), seq=500 * n - 499)],
    ids=["checkpoints", "specs", "rows"],
)  # fmt: skip
async def test_commit_when_much_is_written_in_whatever_way_then_the_wal_begins_anew(
    state: Opened, directory: StateDirectory, batch: Callable[[int], Batch]
) -> None:
    for number in range(1, 31):
        await state.writer.commit(batch(number))
        await state.writer.checkpoint_if_due()

    wal = directory.database.with_name(directory.database.name + "-wal")
    assert 0 < wal.stat().st_size < 2 * CHECKPOINT_PAGES * PAGE_BYTES


async def test_commit_when_much_is_written_then_it_does_not_wait_until_the_wal_is_copied(
    state: Opened, directory: StateDirectory
) -> None:
    def size() -> int:
        return directory.database.stat().st_size

    before = size()
    await state.writer.commit(Batch(checkpoints=[saved(1, 10 * MEGABYTE)]))
    at_commit = size()
    await state.writer.checkpoint_if_due()

    assert at_commit == before
    assert size() > before + 10 * MEGABYTE


# --- the chain ----------------------------------------------------------------------------------------------


def chain_holds(rows: list[tuple[Any, ...]]) -> bool:
    """Whether each record's hash covers the one before it, worked out here anew."""
    head = bytes(32)
    for seq, at, kind, subject, _, was, became, cause, uid, payload, digest in rows:
        words = msgspec.json.encode([seq, at, kind, subject, was, became, cause, uid])
        head = hashlib.sha256(head + words + payload.encode()).digest()
        if head != digest:
            return False
    return True


async def test_chain_when_several_daemons_store_changes_then_every_hash_covers_the_last(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)
    await state.writer.commit(accepted(job(id=1), job(id=2)))
    await state.writer.commit(accepted(job(id=3), seq=3))
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    directory.unlock()
    again = await open_at(directory)
    await again.writer.commit(accepted(job(id=4), seq=4))

    rows = (await all_rows(again))["changes"]

    assert len(rows) == 4
    assert chain_holds(rows)
    assert (await again.writer.read(newest)) == (4, rows[-1][-1])


FORGERIES = [(1, 99), (2, "queue"), (3, "1"), (5, "held"), (6, "held"), (7, "forged"), (8, 0), (9, '{"n":9}')]


@pytest.mark.parametrize(("column", "forged"), FORGERIES)
def test_chain_when_a_value_was_forged_then_it_breaks(
    database: sqlite3.Connection, column: int, forged: object
) -> None:
    store(database, accepted(job(id=1), job(id=2), job(id=3)), bytes(32))
    rows = tables(database)["changes"]
    assert chain_holds(rows)

    rows[1] = (*rows[1][:column], forged, *rows[1][column + 1 :])

    assert not chain_holds(rows)


def test_chain_when_a_batch_fails_then_the_head_stays_where_it_was(database: sqlite3.Connection) -> None:
    head = store(database, accepted(job(id=1)), bytes(32)).head

    with pytest.raises(sqlite3.IntegrityError):
        store(database, accepted(job(id=1), seq=2), head)

    assert changes.last(database) == (1, head)


def test_chain_when_all_of_it_was_purged_then_it_goes_on_from_meta(
    database: sqlite3.Connection,
) -> None:
    head = store(database, accepted(job(id=1), job(id=2)), bytes(32)).head
    database.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?)", [("changes_purged", 2), ("changes_purged_hash", head)]
    )
    database.execute("DELETE FROM changes")

    assert changes.last(database) == (2, head)
    assert store(database, accepted(job(id=3), seq=3), head).head == changes.last(database)[1]


def test_changes_when_read_back_then_payload_and_order_are_as_told(database: sqlite3.Connection) -> None:
    written = [
        change(1, payload={"spec": spec(), "n": None}),
        change(2, kind="queue", subject="bulk", cause="set", actor_uid=None, payload={}),
        change(3, from_state="queued", to_state="running", cause="dispatched"),
    ]
    store(database, Batch(changes=written), bytes(32))

    read = changes.after(database, 0, 3, 10).changes
    of_job = changes.of_job(database, 1)

    assert [replace(one, payload={}) for one in read] == [replace(one, payload={}) for one in written]
    assert [msgspec.json.decode(msgspec.json.encode(one.payload)) for one in of_job] == [
        msgspec.json.decode(msgspec.json.encode(one.payload)) for one in (written[0], written[2])
    ]
    assert changes.after(database, 1, 3, 1) == ([read[1]], 2)
    assert changes.after(database, 1, 2, 9) == ([read[1]], 2)
    assert changes.after(database, 3, 9, 9) == ([], 9)
    assert [one.seq for one in of_job] == [1, 3]
    assert changes.after_of_job(database, 1, 1, 9, 9) == ([read[2]], 9)


def test_changes_when_a_read_payload_is_stored_again_then_it_is_the_same(database: sqlite3.Connection) -> None:
    store(database, Batch(changes=[change(1, payload={"n": 1})]), bytes(32))
    (read,) = changes.of_job(database, 1)

    rows, _ = changes.insert_rows([read], bytes(32))

    assert rows == tables(database)["changes"]


# --- a full disk --------------------------------------------------------------------------------------------

MIB = 1024 * 1024
RESERVE = 2 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", at], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield at
    subprocess.run(["umount", "--lazy", at], check=True)


@pytest.fixture
def disk_directory(small_disk: Path) -> StateDirectory:
    return StateDirectory(small_disk)


def fill(disk: Path) -> Path:
    """Write until there is no room for another page; returns what is in the way."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with suppress(OSError):
            while os.write(descriptor, b"x" * 4096) == 4096:
                pass
    finally:
        os.close(descriptor)
    assert os.statvfs(disk).f_bavail == 0
    return ballast


def large(ident: int, seq: int, size: int) -> Batch:
    return accepted(job(id=ident, asked=spec(stdin="x" * size)), seq=seq)


async def test_commit_when_the_disk_is_full_then_the_reserve_is_deleted_and_it_succeeds(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    fill(disk_directory.root)
    assert (state.writer.full, disk_directory.reserve.exists()) == (False, True)

    await state.writer.commit(large(1, 1, 512 * 1024))

    assert (state.writer.full, disk_directory.reserve.exists()) == (True, False)
    assert set(await state.reader.run(jobs.by_ids, [1])) == {1}
    rows = (await all_rows(state))["changes"]
    assert len(rows) == 1
    assert chain_holds(rows)


async def test_commit_when_even_the_reserve_is_too_small_then_it_waits_until_there_is_room(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    await state.writer.commit(accepted(job(id=1)))
    ballast = fill(disk_directory.root)
    before = await all_rows(state)

    late = asyncio.ensure_future(state.writer.commit(large(2, 2, 3 * MIB)))
    await until_async(lambda: state.writer.waiting, why="a commit that waits for room")
    meanwhile = await state.reader.run(tables)
    ballast.unlink()
    await late

    assert meanwhile == before
    assert (state.writer.waiting, state.writer.full) == (False, True)
    assert chain_holds((await all_rows(state))["changes"])


async def test_reserve_when_there_is_room_again_then_it_is_kept_and_the_disk_is_not_full(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    ballast = fill(disk_directory.root)
    await state.writer.commit(large(1, 1, 512 * 1024))
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
    """Otherwise nobody could record what became of the workers until somebody made room."""
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    disk_directory.unlock()
    ballast = fill(disk_directory.root)
    os.truncate(ballast, ballast.stat().st_size - 4096 * pages_left)

    again = await open_at(disk_directory, reserve_bytes=RESERVE)

    assert again.writer.full
    assert again.instance.epoch == 2


async def test_settle_when_the_disk_is_full_then_the_end_of_running_work_is_still_recorded(
    disk_directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(disk_directory, reserve_bytes=RESERVE)
    going = [running(ident) for ident in range(1, 65)]  # more than the WAL has room for as it is
    await state.writer.commit(replace_batch(accepted(*(of for of, _ in going)), *(live for _, live in going)))
    fill(disk_directory.root)

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
    gone.touch()  # what is asked of a directory fails here, as on a disk that is read-only or gone
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    assert not is_full(error, gone)
