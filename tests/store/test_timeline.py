"""The attempts that ran in a time, and the newest ends: each question against the same one asked of every row."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.job.model import State
from stoker.store import attempts, timeline
from tests.support.batches import put
from tests.support.jobs import NOW, attempt, exited, job

if TYPE_CHECKING:
    import sqlite3

    from stoker.core.job.model import Attempt

T = NOW.wall
DURATIONS_MS = (0, 3, 99, 1_000, 60_000, 86_400_000, 40 * 86_400_000)


def put_runs(database: sqlite3.Connection, runs: list[Attempt]) -> None:
    """Attempts with the jobs that they are of; those with an outcome are settled."""
    ids = {run.job_id for run in runs}
    put(database, [job(State.SUCCEEDED, id=ident, order_key=ident, attempts=1) for ident in ids], runs)
    for run in runs:
        if run.outcome is not None:
            database.execute(attempts.SETTLE, attempts.settle_row(run))


def run_of(ident: int, began: int, ended: int | None) -> Attempt:
    of = attempt(job(State.RUNNING, id=ident, attempts=1))
    of = replace(of, run_id=f"{ident}.1.{ident:016x}", created_at=began)
    return of if ended is None else replace(of, outcome=exited(0, ended_at=ended), ended_at=ended)


def pages(database: sqlite3.Connection, since: int, until: int, limit: int) -> list[int]:
    """The jobs of all pages, in order."""
    found: list[int] = []
    behind = None
    while True:
        page = timeline.touching(database, since, until, behind, limit)
        assert len(page.rows) <= limit
        found += [row.job for row in page.rows]
        if page.next is None:
            return found
        behind = page.next


def test_touching_when_runs_have_any_length_then_it_finds_what_a_look_at_each_finds(
    database: sqlite3.Connection, seed: int
) -> None:
    dice = random.Random(seed)
    runs = []
    for ident in range(1, 300):
        began = T - dice.choice([0, 5, 1_000, 3_600_000, 50 * 86_400_000]) - dice.randrange(5)
        ended = None if dice.random() < 0.1 else began + dice.choice(DURATIONS_MS) + dice.randrange(3)
        runs.append(run_of(ident, began, ended))
    put_runs(database, runs)

    for _ in range(60):
        since = T - dice.choice([0, 10, 5_000, 86_400_000, 60 * 86_400_000])
        until = since + dice.choice([0, 1, 3_600_000, 10**11])
        touching = [run for run in runs if run.created_at <= until and (run.ended_at is None or run.ended_at >= since)]
        newest = sorted(touching, key=lambda run: (run.created_at, run.run_id), reverse=True)
        assert pages(database, since, until, dice.choice([1, 7, 1_000])) == [run.job_id for run in newest], seed


def test_touching_when_the_clock_was_set_back_during_a_run_then_it_is_found(database: sqlite3.Connection) -> None:
    put_runs(database, [run_of(1, T, T - 5_000)])

    assert pages(database, T - 6_000, T + 1, 9) == [1]


def test_touching_when_a_job_is_being_purged_then_its_attempt_is_left_out(database: sqlite3.Connection) -> None:
    put_runs(database, [run_of(ident, T, T + 1) for ident in (1, 2, 3)])
    database.execute("INSERT INTO purging_jobs VALUES (2)")

    assert pages(database, T, T, 1) == [3, 1]


def ended(ident: int, state: State, at: int) -> Any:
    return job(state, id=ident, order_key=ident, finished_at=at)


def test_failed_last_when_an_older_job_failed_last_then_it_comes_first(database: sqlite3.Connection) -> None:
    states = [State.FAILED, State.EXPIRED, State.SUCCEEDED, State.CANCELLED, State.FAILED]
    put(database, [ended(ident, state, T - ident) for ident, state in enumerate(states, start=1)])
    database.execute("INSERT INTO purging_jobs VALUES (2)")

    assert [one.id for one in timeline.failed_last(database, 9)] == [1, 5]
    assert [one.id for one in timeline.failed_last(database, 1)] == [1]


@pytest.mark.parametrize(
    ("most", "expected"), [(100, timeline.Ends({"failed": 1, "succeeded": 2}, counted_all=True)),
                           (2, timeline.Ends({"succeeded": 2}, counted_all=False))],
)  # fmt: skip
def test_ends_when_they_are_counted_then_older_ones_are_not(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, most: int, expected: timeline.Ends
) -> None:
    monkeypatch.setattr(timeline, "COUNTED_ENDS", most)
    put(database, [ended(1, State.FAILED, T), ended(2, State.FAILED, T - 9)])
    put(database, [ended(ident, State.SUCCEEDED, T + ident) for ident in (3, 4)])

    assert timeline.ends_since(database, T) == expected
