"""Purged jobs and workflows: the rows that one commit hides and lists, and their removal in pieces."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.job.conditions import ConditionGroup
from stoker.core.job.model import Need, Reason, State
from stoker.core.requests import JobFilter
from stoker.core.retention import EndedItem, StillNeeded
from stoker.core.workflow.state import Workflow, WorkflowState
from stoker.store import (
    attempts,
    changes,
    checkpoints,
    given_ids,
    job_search,
    jobs,
    keys,
    recoveries,
    retention,
    sizes,
    workflows,
)
from stoker.store.batch import Batch, store
from stoker.store.database import make_shrinkable
from stoker.store.recoveries import Recovery
from stoker.store.retention import PurgePortion
from tests.support.batches import change, put
from tests.support.jobs import attempt, checkpoint, job, running, spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stoker.core.job.model import Job
    from stoker.store.open import Opened


ENDED_ATTEMPT = """
INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, ended_at, outcome)
VALUES (?, ?, ?, 'l', 0, 1, 'exit')
"""


def ended(ident: int, state: State = State.SUCCEEDED, at: int | None = None, **fields: Any) -> Job:
    return job(state, id=ident, finished_at=ident if at is None else at, attempts=1, **fields)


def workflow(ident: int, state: WorkflowState = WorkflowState.SUCCEEDED, at: int | None = 1) -> Workflow:
    return Workflow(
        id=ident,
        name=f"w{ident}",
        owner_uid=0,
        trace_id="t",
        flow="{}",
        flow_hash=bytes(16),
        created_at=0,
        state=state,
        finished_at=at,
    )


def add_workflow(connection: sqlite3.Connection, of: Workflow) -> None:
    connection.execute(workflows.INSERT, workflows.insert_row(of))


def add_checkpoints(connection: sqlite3.Connection, chain: str, count: int, data: bytes = b"x") -> None:
    for seq in range(1, count + 1):
        bare = checkpoint(b"", seq, id=int(chain[1:]) * 10_000 + seq, chain=chain)
        one = replace(bare, data=data, size=len(data))  # large data is not compressed
        connection.execute(checkpoints.INSERT, checkpoints.insert_row(one))


def sweep_rows(connection: sqlite3.Connection) -> None:
    while retention.sweep_rows(connection).removed:
        pass


def count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def rows(connection: sqlite3.Connection, sql: str) -> list[Any]:
    return [row[0] if len(row) == 1 else row for row in connection.execute(sql)]


# --- what ended ---------------------------------------------------------------------------------------------


def test_ended_jobs_when_asked_for_then_the_oldest_of_their_queue_come_first(database: sqlite3.Connection) -> None:
    elsewhere = ended(9, at=1, asked=spec(queue="other"))
    step = ended(8, at=1, workflow_id=1, step="a")
    put(database, [ended(1, at=30), ended(2, State.FAILED, at=10), ended(3, at=20), job(id=4), elsewhere, step])
    group = retention.of_queue("default")

    def ids(before: int, after: EndedItem = EndedItem(0, -1, ""), *states: str, limit: int = 9) -> list[int]:  # noqa: B008 - frozen
        return [one.id for one in retention.ended(database, group, before, after, states, limit)]

    assert ids(31) == [2, 3, 1]
    assert ids(30) == [2, 3]
    assert ids(31, EndedItem(2, 10, "")) == [3, 1]
    assert ids(31, limit=1) == [2]
    assert ids(31, EndedItem(0, -1, ""), "failed") == [2]


def test_newest_kept_when_there_are_enough_then_it_is_the_end_of_that_one(database: sqlite3.Connection) -> None:
    put(database, [ended(ident) for ident in (1, 2, 3)])
    group = retention.of_queue("default")

    assert [retention.newest_kept(database, group, last) for last in (1, 3, 4)] == [3, 1, None]
    assert retention.newest_kept(database, group, 0) == retention.MAX_TIME


def test_ended_workflows_when_some_have_own_times_then_each_is_in_one_group(
    database: sqlite3.Connection,
) -> None:
    for ident in (1, 2, 3):
        add_workflow(database, workflow(ident, at=ident))
    add_workflow(database, workflow(4, WorkflowState.RUNNING, at=None))

    def ids(group: retention.PurgeGroup) -> list[int]:
        return [one.id for one in retention.ended(database, group, 99, EndedItem(0, -1, ""), (), 9)]

    assert ids(retention.workflows_named("w2")) == [2]
    assert ids(retention.workflows_except(["w2"])) == [1, 3]
    assert ids(retention.workflows_except([])) == [1, 2, 3]


def test_needs_when_open_jobs_name_them_then_they_are_found_page_by_page(database: sqlite3.Connection) -> None:
    asked = [
        spec(needs=(Need(job=1), Need(job=2))),
        spec(wait_for=ConditionGroup(any=("job:3", "workflow:5"))),
        spec(needs=(Need(job=4),)),
        spec(),
    ]
    put(database, [job(id=11, asked=asked[0]), job(State.HELD, id=12, asked=asked[1])])
    put(database, [ended(13, asked=asked[2]), job(id=14, asked=asked[3])])

    first, after = retention.needed_by_open(database, 0, 1)
    second, end = retention.needed_by_open(database, after or 0, 2)

    assert (first, second, end) == (StillNeeded({1, 2}), StillNeeded({3}, {5}), None)


def test_ended_at_when_an_attempt_is_still_open_then_the_job_is_left_out(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(2), job(id=3)], [attempt(ended(1))])

    assert retention.jobs_ended_at(database, [1, 2, 3, 4]) == {2: 2}


# --- the commit ---------------------------------------------------------------------------------------------


def test_purge_when_swept_then_all_rows_go_and_log_directories_are_listed(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(2), job(id=3, asked=spec(needs=(Need(job=2),)))], [])
    put(database, [ended(4, workflow_id=7, step="a"), job(State.CANCELLED, id=5, workflow_id=7, step="b")])
    database.execute(ENDED_ATTEMPT, ("1.1.a", 1, 1))
    database.execute(jobs.INSERT_NEED, (5, 4, "ok"))
    add_workflow(database, workflow(7, WorkflowState.FAILED))
    add_checkpoints(database, "j1", 2)
    add_checkpoints(database, "w7", 3)
    for key, of in (("a", 1), ("b", 2), ("w", 4)):
        database.execute(keys.INSERT, (0, key, b"", of, 0))

    store(
        database, Batch(purge=PurgePortion(99, [1], {7: [4, 5]}), changes=[change(1, kind="system")]), changes.GENESIS
    )
    sweep_rows(database)

    assert rows(database, "SELECT id FROM jobs") == [2, 3]
    assert [count(database, table) for table in ("attempts", "needs", "workflows", "purging_jobs")] == [0, 0, 0, 0]
    assert rows(database, "SELECT id FROM purged_jobs") == [1, 4]
    assert rows(database, "SELECT chain, seq FROM checkpoint_purges ORDER BY 1") == [("j1", 2), ("w7", 3)]
    keyed = keys.by_keys(database, [(0, "a"), (0, "b"), (0, "w")])
    answers = {key: (one.job_id, one.purged_state, one.purged_workflow) for (_, key), one in keyed.items()}
    assert answers == {"a": (1, "succeeded", None), "b": (2, None, None), "w": (4, "failed", 7)}


def test_purge_when_the_newest_rows_go_then_their_ids_stay_in_use(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(9, workflow_id=7, step="a")])
    add_workflow(database, workflow(7, WorkflowState.FAILED))
    add_checkpoints(database, "w7", 3)
    used = given_ids.given_out(database, epoch=1)

    retention.purge(database, PurgePortion(0, [1], {7: [9]}))
    sweep_rows(database)
    while retention.sweep_checkpoints(database).removed:
        pass

    assert [count(database, table) for table in ("jobs", "workflows", "checkpoints")] == [0, 0, 0]
    assert given_ids.given_out(database, epoch=1) == used
    assert (used.jobs, used.workflows, used.checkpoints > 0) == (9, 7, True)


def test_purge_when_committed_then_no_query_sees_the_jobs_whose_rows_are_left(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(2), ended(3, workflow_id=7, step="a")])
    skipped: dict[str, Any] = {"reason": Reason.DEPENDENCY, "finished_at": 1, "workflow_id": 7, "step": "b"}
    put(database, [job(State.SKIPPED, id=4, **skipped), job(State.SKIPPED, id=5, **skipped | {"step": "c"})])
    database.executemany(jobs.INSERT_NEED, [(4, 3, "ok"), (5, 4, "ok")])
    add_workflow(database, workflow(7))
    group = retention.of_queue("default")
    seen: list[Callable[[], Any]] = [
        lambda: sorted(jobs.by_ids(database, range(9))),
        lambda: sorted(jobs.standings(database, range(9))),
        lambda: sorted(jobs.of_workflows(database, [7])),
        lambda: [each.job_id for each in jobs.skipped_behind(database, [3])],
        lambda: [each.job for each in attempts.needed(database, range(9))],
        lambda: [each.id for each in job_search.scan(database, JobFilter(limit=9)).jobs],
        lambda: [each.id for each in retention.ended(database, group, 99, EndedItem(0, -1, ""), (), 9)],
        lambda: sorted(retention.jobs_ended_at(database, range(9))),
        lambda: [retention.newest_kept(database, group, 2)],
    ]
    everything = [[1, 2, 3, 4, 5]] * 2 + [[3, 4, 5], [4, 5], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 2]]
    assert [look() for look in seen] == [*everything, [1, 2, 3, 4, 5], [1]]

    retention.purge(database, PurgePortion(0, [1], {7: [3, 4, 5]}))

    assert count(database, "jobs") == 5
    assert [look() for look in seen] == [[2], [2], [], [], [2], [2], [2], [2], [None]]


def test_sweep_when_a_commit_waits_then_it_removes_a_few_jobs_and_ends(database: sqlite3.Connection) -> None:
    every = range(1, 3 * retention.SWEPT_JOB_ROWS)
    put(database, [ended(ident) for ident in every])
    retention.purge(database, PurgePortion(0, list(every)))

    assert retention.sweep_rows(database, lambda: True).removed == retention.FEW_JOBS
    assert retention.sweep_rows(database, lambda: False).removed == retention.SWEPT_JOB_ROWS


def test_purge_when_a_job_has_many_rows_then_each_commit_writes_few(database: sqlite3.Connection) -> None:
    put(database, [ended(1)])
    database.executemany(ENDED_ATTEMPT, [(f"1.{n}.a", 1, n) for n in range(1, 2_001)])
    put(database, [ended(ident, workflow_id=7, step=str(ident)) for ident in range(2, 602)])
    database.executemany(jobs.INSERT_NEED, [(ident, ident - 1 - by, "ok") for ident in range(12, 602) for by in (0, 9)])
    add_workflow(database, workflow(7))
    written = [database.total_changes]

    store(database, Batch(purge=PurgePortion(99, [1], {7: list(range(2, 602))})), changes.GENESIS)
    written.append(database.total_changes)
    while retention.sweep_rows(database).removed:
        written.append(database.total_changes)

    purge, *pieces = (after - before for before, after in pairwise(written))
    assert purge == 601 + 1 + 3  # the list, the workflow, and the last id of each kind
    assert max(pieces) <= 3 * retention.SWEPT_JOB_ROWS  # a row of a job is unlisted too, and its logs are listed
    assert [count(database, table) for table in ("jobs", "attempts", "needs", "purging_jobs")] == [0, 0, 0, 0]
    assert count(database, "purged_jobs") == 601


def test_workflows_when_their_flows_are_long_then_their_pages_are_known(database: sqlite3.Connection) -> None:
    add_workflow(database, replace(workflow(1), flow="x" * 40_960))

    group = retention.workflows_except([])

    assert [one.pages for one in retention.ended(database, group, 99, EndedItem(0, -1, ""), (), 9)] == [10]


def test_purge_when_rows_are_large_then_few_go_in_one_piece(database: sqlite3.Connection) -> None:
    large = spec(env={"TEXT": "x" * 500_000})
    put(database, [ended(ident, asked=large) for ident in range(1, 3 * retention.FEW_JOBS)])
    retention.purge(database, PurgePortion(0, list(range(1, 3 * retention.FEW_JOBS))))

    assert retention.sweep_rows(database).removed == retention.FEW_JOBS


# --- the sweeps ---------------------------------------------------------------------------------------------


def test_checkpoints_when_swept_then_listed_chains_go_in_bounded_pieces(database: sqlite3.Connection) -> None:
    for ident in (1, 2):
        put(database, [ended(ident)])
        add_checkpoints(database, f"j{ident}", 300)
    put(database, [ended(3)])
    add_checkpoints(database, "j3", 5)
    retention.purge(database, PurgePortion(0, [1, 2]))

    removed = []
    while (swept := retention.sweep_checkpoints(database)).removed:
        removed.append(swept.removed)

    assert max(removed) <= 2 * retention.SWEPT_ROWS
    assert rows(database, "SELECT DISTINCT chain FROM checkpoints") == ["j3"]
    assert count(database, "checkpoint_purges") == 0


def test_checkpoints_when_they_are_large_then_few_go_at_once(database: sqlite3.Connection) -> None:
    put(database, [ended(1)])
    add_checkpoints(database, "j1", 6, bytes(600_000))
    retention.purge(database, PurgePortion(0, [1]))
    left = [count(database, "checkpoints")]

    while retention.sweep_checkpoints(database).removed:
        left.append(count(database, "checkpoints"))

    assert left == [6, 4, 2, 0]


def test_checkpoints_when_no_purge_lists_them_then_the_trigger_keeps_them(database: sqlite3.Connection) -> None:
    add_checkpoints(database, "j1", 1)

    with pytest.raises(sqlite3.IntegrityError, match="recorded prefix"):
        database.execute(retention.DELETE_CHECKPOINTS, ("j1", 1))


def test_keys_when_their_job_was_purged_long_ago_then_they_go_in_pieces(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(2), ended(3)])
    for ident in (1, 2, 3):
        database.execute(keys.INSERT, (0, f"k{ident}", b"", ident, 0))
    retention.purge(database, PurgePortion(50, [1]))
    retention.purge(database, PurgePortion(60, [2]))

    assert [retention.forget_keys(database, 60).removed for _ in range(2)] == [1, 0]
    assert rows(database, "SELECT key FROM idempotency") == ["k2", "k3"]


def test_recoveries_when_there_were_many_starts_then_the_newest_stay(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "KEPT_RECOVERIES", 3)
    for epoch in range(1, 20):
        database.execute(recoveries.UPSERT, recoveries.row(Recovery(epoch=epoch, started_at=epoch)))

    removed = [retention.forget_recoveries(database).removed for _ in range(3)]

    assert removed == [retention.SWEPT_RECOVERIES, 6, 0]
    assert rows(database, "SELECT epoch FROM recoveries") == [17, 18, 19]


def test_listed_logs_when_their_directories_are_gone_then_they_leave_the_list(database: sqlite3.Connection) -> None:
    put(database, [ended(1), ended(2), job(State.SKIPPED, id=3)])
    retention.purge(database, PurgePortion(0, [1, 2, 3]))
    sweep_rows(database)

    assert retention.listed_logs(database, 0, 9) == [1, 2]
    assert retention.listed_logs(database, 1, 9) == [2]
    assert retention.unlist_logs(database, [1]).removed == 1
    assert retention.listed_logs(database, 0, 9) == [2]
    assert not retention.has_jobs_between(database, 0, 999)


# --- the file -----------------------------------------------------------------------------------------------


async def test_file_when_most_of_it_is_free_then_it_shrinks_in_pieces(state: Opened) -> None:
    def fill(connection: sqlite3.Connection) -> int:
        put(connection, [ended(1)])
        add_checkpoints(connection, "j1", 12, bytes(500_000))
        return 0

    await state.writer.maintain(fill)
    await state.writer.checkpoint()
    before = await state.reader.run(sizes.space)
    await state.writer.read(retention.purge, PurgePortion(0, [1]))
    while await state.writer.sweep(retention.sweep_checkpoints):
        pass
    freed = await state.reader.run(sizes.space)

    pieces = 0
    while await state.writer.sweep(retention.shrink, 100):
        pieces += 1
    after = await state.reader.run(sizes.space)

    assert before.database > 6_000_000
    assert freed.free > 5_000_000
    assert after.shrinks
    assert after.database < 2_000_000
    least = (before.database - after.database) // 4_096 // 100
    assert least <= pieces <= least + 1


def test_file_when_a_commit_waits_then_few_pages_are_given_back(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("CREATE TABLE large (data)")
        connection.execute(
            "INSERT INTO large VALUES (zeroblob(?))", (2 * retention.SLACK_PAGES * retention.PAGE_BYTES,)
        )
        connection.execute("DELETE FROM large")

        assert retention.shrink(connection, 100, lambda: True).removed == retention.FEW_PAGES
        assert retention.shrink(connection, 100, lambda: False).removed == 100


def test_file_when_an_earlier_release_made_it_then_it_is_rewritten_once(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    put(database, [ended(1)])
    path = tmp_path / "stoker.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert retention.shrink(connection, 9).removed == 0
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        make_shrinkable(connection, path)

        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert rows(connection, "SELECT id FROM jobs") == [1]


def test_file_when_there_is_no_room_to_rewrite_it_then_it_stays_as_it_is(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.store.database.MOST_REWRITTEN_BYTES", 1)
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")

    make_shrinkable(database, tmp_path / "stoker.db")

    assert database.execute("PRAGMA auto_vacuum").fetchone() == (0,)


def test_sizes_when_a_log_has_a_hole_then_it_takes_no_more_than_its_limit(database: sqlite3.Connection) -> None:
    of, _ = running(spec(max_log_bytes=100_000), id=1)
    put(database, [of, ended(2)])
    add_checkpoints(database, "j2", 3, bytes(1_000))
    settle = "INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, ended_at, outcome, log_bytes)"
    for job_id, size in ((1, 10**9), (2, 500)):
        database.execute(f"{settle} VALUES (?, ?, 1, 'l', 0, 1, 'exit', ?)", (f"{job_id}.1.a", job_id, size))

    assert sizes.logs(database, 0) == (2, 100_500)
    assert sizes.logs(database, 2) == (None, 0)
    assert sizes.checkpoints(database, 0) == (20_003, 3_000)
    assert sizes.sizes_of(database, PurgePortion(0, [1, 2])) == {"logs": 100_500, "checkpoints": 3_000}
