"""Commits: whole or not at all, and a WAL that begins anew."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.core.errors import StorageFailed
from stoker.core.job.model import NeedOn, Queue, Resource, State
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.store import attempts, jobs
from stoker.store.attempts import Needed
from stoker.store.batch import PAGE_BYTES, Batch
from stoker.store.directory import StateDirectory
from stoker.store.keys import NewKey
from stoker.store.recoveries import Recovery
from stoker.store.retention import Swept
from stoker.store.writer import CHECKPOINT_PAGES
from tests.support.batches import accepted, chain_holds, change, newest, opening, over, running, tables
from tests.support.facts import DEADLINE_S
from tests.support.jobs import attempt, checkpoint, exited, job, spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.core.job.model import Job
    from stoker.store.open import Opened


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

    rows = await state.writer.read(tables)
    assert await state.writer.read(jobs.by_ids, [1, 2]) == {1: finished, 2: going}
    assert await state.writer.read(attempts.of_job, 1) == [end]
    assert await state.writer.read(attempts.open_attempts) == [second]
    assert [len(rows[name]) for name in ("changes", "needs", "idempotency", "resources")] == [5, 0, 1, 1]
    assert ("fact", 1) in rows["meta"]


async def test_commit_when_a_job_ends_and_starts_again_in_one_turn_then_both_fit(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(opening(accepted(of), live))
    again = replace(of, attempts=2)
    second = attempt(again)

    await state.writer.commit(
        Batch(jobs={1: again}, attempts={live.run_id: over(live)}, new_attempts={second.run_id: second})
    )

    assert await state.writer.read(attempts.open_attempts) == [second]


async def test_commit_when_ends_are_asked_for_then_they_are_as_it_leaves_them(state: Opened) -> None:
    of, live = running()
    assert await state.writer.commit(opening(accepted(of), live), [1]) == [Needed(1, None, "running", None, None, None)]
    end = replace(live, outcome=exited(0, ended_at=5, output='{"a":"b"}'), ended_at=5)

    ends = await state.writer.commit(
        Batch(jobs={1: job(State.SUCCEEDED, id=1, attempts=1, exit_code=0)}, attempts={live.run_id: end}), [1, 2]
    )

    assert ends == [Needed(1, None, "succeeded", "user", 0, '{"a":"b"}')]


async def test_commit_when_an_end_cannot_be_read_then_it_is_durable_anyway(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(opening(accepted(of), live))
    await state.writer.commit(
        Batch(jobs={1: job(State.SUCCEEDED, id=1, attempts=1)}, attempts={live.run_id: over(live)})
    )
    await state.writer.read(damage_output)

    assert await state.writer.commit(accepted(job(id=2), seq=2), [1]) == ()

    assert await state.writer.read(jobs.by_ids, [2]) == {2: job(id=2)}


def damage_output(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE attempts SET output = CAST(X'ff' AS TEXT)")  # no UTF-8


def respecified(one: Job) -> Batch:
    return Batch(new_jobs={9: job(id=9)}, respecified={one.id: one}, changes=[change(2, subject="9")])


# Each has a part that is fine and a part that the database refuses, in this order or the other.
BROKEN: dict[str, Callable[[], Batch]] = {
    "an id that is taken": lambda: accepted(job(id=9), job(id=1), seq=2),
    "a job that does not exist": lambda: Batch(new_jobs={9: job(id=9)}, jobs={8: job(id=8)}, changes=[change(2)]),
    "a new spec for no job": lambda: respecified(job(id=8)),
    "a second open attempt": lambda: opening(accepted(job(id=9), seq=2), attempt(job(id=1), ordinal=2, run_id="1.2.b")),
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
    first = opening(accepted(of), live)
    first.keys = [NewKey(7, "k", b"h", 1, 0)]
    await state.writer.commit(first)
    before = await state.writer.read(tables)

    with pytest.raises(StorageFailed):
        await state.writer.commit(BROKEN[kind]())

    assert await state.writer.read(tables) == before
    assert not await state.writer.read(lambda connection: connection.in_transaction)
    await state.writer.commit(accepted(job(id=9), seq=2))
    assert chain_holds((await state.writer.read(tables))["changes"])


async def test_settle_when_the_attempt_is_settled_already_then_its_outcome_is_not_touched(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(opening(accepted(of), live))
    await state.writer.commit(Batch(attempts={live.run_id: over(live)}))
    other = replace(over(live), outcome=exited(9, ended_at=9), ended_at=9)

    with pytest.raises(StorageFailed, match="0 of 1 rows"):
        await state.writer.commit(Batch(attempts={live.run_id: other}))

    assert await state.writer.read(attempts.of_job, 1) == [over(live)]


async def test_progress_when_the_attempt_is_settled_already_then_it_is_refused(state: Opened) -> None:
    of, live = running()
    await state.writer.commit(opening(accepted(of), live))
    await state.writer.commit(Batch(attempts={live.run_id: over(live)}))

    with pytest.raises(StorageFailed, match="0 of 1 rows"):
        await state.writer.commit(Batch(attempts={live.run_id: live}))


async def test_commit_when_the_connection_is_gone_then_it_is_in_doubt(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.close)

    with pytest.raises(StorageFailed, match="commit"):
        await state.writer.commit(accepted(job(id=1)))
    with pytest.raises(StorageFailed, match="read"):
        await state.writer.read(newest)


async def test_commit_when_the_schema_has_changed_then_it_is_in_doubt(state: Opened) -> None:
    await state.writer.read(sqlite3.Connection.execute, "ALTER TABLE meta RENAME TO gone")

    with pytest.raises(StorageFailed, match="commit: no such table: meta"):
        await state.writer.commit(Batch(meta={"fact": 1}))

    assert not state.writer.full


async def test_commit_when_the_batch_is_empty_then_nothing_is_written(state: Opened) -> None:
    before = await state.writer.read(tables)
    assert not Batch()

    await state.writer.commit(Batch())

    assert await state.writer.read(tables) == before


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
    await state.writer.commit(Batch(checkpoints=[saved(1, 20 * MEGABYTE)]))
    at_commit = size()
    await state.writer.checkpoint_if_due()

    assert at_commit == before
    assert size() > before + 20 * MEGABYTE


async def test_sweep_when_a_further_call_comes_then_the_piece_can_see_it(state: Opened) -> None:
    begun, came = threading.Event(), threading.Event()
    seen = []

    def piece(_connection: sqlite3.Connection) -> Swept:
        seen.append(state.writer.awaited)
        begun.set()
        came.wait(DEADLINE_S)
        seen.append(state.writer.awaited)
        return Swept(0)

    sweeping = asyncio.create_task(state.writer.sweep(piece))
    await asyncio.to_thread(begun.wait, DEADLINE_S)
    reading = asyncio.create_task(state.writer.read(tables))
    await asyncio.sleep(0)
    came.set()
    await asyncio.gather(sweeping, reading)

    assert seen == [False, True]
