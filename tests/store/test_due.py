"""Times of jobs that do not run: which are due, that they leave the result, and when to ask again.

The property at the end drives any jobs through the core until nothing is due: it must come to an end.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import Job, State
from stoker.store import jobs, keys
from stoker.store.due import Due, due
from stoker.store.loading import DEPENDENTS_LIMIT, Portion, Wanted, load
from tests.support.batches import put
from tests.support.jobs import NOW, job, spec

LIMIT = 100
PAST, AHEAD = {"wake_at": NOW.steady}, {"wake_at": NOW.steady + 1}


def asked(state: State = State.WAITING, *, ident: int = 7, ask: dict[str, Any] | None = None, **fields: Any) -> Job:
    return job(state, id=ident, asked=spec(**(ask or {})), **fields)


WOKEN: list[tuple[str, Job, bool]] = [
    ("a backoff that is over", asked(wake_at=NOW.steady), True),
    ("a backoff that is not", asked(wake_at=NOW.steady + 1), False),
    ("run_at that came", asked(ask={"run_at": NOW.wall}), True),
    ("run_at that did not", asked(ask={"run_at": NOW.wall + 1}), False),
    ("a backoff over, run_at ahead", asked(ask={"run_at": NOW.wall + 1}, wake_at=NOW.steady), False),
    ("run_at came, backoff goes on", asked(ask={"run_at": NOW.wall}, wake_at=NOW.steady + 1), False),
    ("both are over", asked(ask={"run_at": NOW.wall}, wake_at=NOW.steady), True),
    ("open needs", asked(ask={"run_at": NOW.wall}, wake_at=NOW.steady, needs_open=1), False),
    ("queued already", asked(State.QUEUED, ask={"run_at": NOW.wall}, wake_at=NOW.steady), False),
    ("held", asked(State.HELD, ask={"run_at": NOW.wall}, wake_at=NOW.steady), False),
    ("running", asked(State.RUNNING, ask={"run_at": NOW.wall}), False),
    ("over", asked(State.FAILED, ask={"run_at": NOW.wall}), False),
]


@pytest.mark.parametrize(("_what", "one", "is_due"), WOKEN, ids=[what for what, _, _ in WOKEN])
def test_wake_when_a_job_waits_then_it_is_due_exactly_when_nothing_holds_it(
    database: sqlite3.Connection, _what: str, one: Job, *, is_due: bool
) -> None:
    put(database, [one])

    assert due(database, NOW, LIMIT).woken == ((7,) if is_due else ())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("late", [0, 1])
def test_limits_when_they_passed_then_only_pending_jobs_are_named(
    database: sqlite3.Connection, state: State, late: int
) -> None:
    put(
        database,
        [
            asked(state, ident=1, expires_at=NOW.steady - late),
            asked(state, ident=2, expires_at=NOW.steady + 1),
            asked(state, ident=3, ask={"deadline": NOW.wall - late}),
            asked(state, ident=4, ask={"deadline": NOW.wall + 1}),
        ],
    )

    result = due(database, NOW, LIMIT)

    pending = state in (State.WAITING, State.QUEUED)
    assert (result.expired, result.overdue) == (((1,), (3,)) if pending else ((), ()))
    assert (result.next_steady, result.next_wall) == ((NOW.steady + 1, NOW.wall + 1) if pending else (None, None))


def test_due_when_several_times_of_a_job_passed_then_only_the_deadline_counts(
    database: sqlite3.Connection,
) -> None:
    put(
        database,
        [
            asked(ident=1, wake_at=NOW.steady, expires_at=NOW.steady, ask={"deadline": NOW.wall, "run_at": NOW.wall}),
            asked(ident=2, wake_at=NOW.steady, expires_at=NOW.steady, ask={"run_at": NOW.wall}),
            asked(ident=3, wake_at=NOW.steady, ask={"run_at": NOW.wall}),
        ],
    )

    result = due(database, NOW, LIMIT)

    assert (result.overdue, result.expired, result.woken) == ((1,), (2,), (3,))


def test_due_when_nothing_is_pending_then_there_is_nothing_to_wait_for(database: sqlite3.Connection) -> None:
    assert due(database, NOW, LIMIT) == Due()


def test_next_when_several_times_are_ahead_then_it_is_the_earliest_of_each_clock(
    database: sqlite3.Connection,
) -> None:
    put(
        database,
        [
            asked(ident=1, wake_at=NOW.steady + 9),
            asked(ident=2, wake_at=NOW.steady + 5),
            asked(ident=3, wake_at=1),
            asked(State.QUEUED, ident=4, expires_at=NOW.steady + 7),
            asked(ident=5, ask={"run_at": NOW.wall + 8}),
            asked(State.QUEUED, ident=6, ask={"deadline": NOW.wall + 6}),
        ],
    )

    result = due(database, NOW, LIMIT)

    assert (result.next_steady, result.next_wall) == (NOW.steady + 5, NOW.wall + 6)


@pytest.mark.parametrize(("number", "more"), [(2, False), (3, True), (4, True)])
def test_due_when_more_is_due_than_the_limit_then_it_is_marked_incomplete(
    database: sqlite3.Connection, number: int, *, more: bool
) -> None:
    put(database, [asked(ident=ident, wake_at=NOW.steady) for ident in range(1, number + 1)])

    result = due(database, NOW, 3)

    assert (len(result.woken), result.more) == (min(number, 3), more)


def test_load_when_limits_are_wanted_then_the_jobs_they_name_come_along(database: sqlite3.Connection) -> None:
    put(database, [asked(ident=1, wake_at=NOW.steady), asked(ident=2, wake_at=NOW.steady + 1)])

    loaded = load(database, Wanted(NOW, due=True))

    assert loaded.due.woken == (1,)
    assert set(loaded.jobs) == {1}


def test_load_when_all_kinds_are_wanted_then_each_is_answered(database: sqlite3.Connection) -> None:
    put(database, [job(id=1), job(State.WAITING, id=2, needs_open=1), job(id=3, asked=spec(queue="bulk"))])
    database.execute(jobs.INSERT_NEED, (2, 1, "ok"))
    database.execute(keys.INSERT, (0, "k", b"h", 1, 0))

    loaded = load(
        database,
        Wanted(NOW, keys={(0, "k")}, dependents_of={1: 0}, run_ids={"1.1.x"}, lanes=[("bulk", (1_000, None), 5)]),
    )

    assert set(loaded.jobs) == {1, 2}
    assert [(each.job_id, loaded.dependents[1].more) for each in loaded.dependents[1].dependents] == [(2, False)]
    assert set(loaded.keys) == {(0, "k")}
    assert loaded.known_runs == set()
    assert [one.id for one in loaded.lanes["bulk", (1_000, None)]] == [3]


def test_load_when_no_job_is_requested_then_no_job_is_read(database: sqlite3.Connection) -> None:
    put(database, [job(id=1)])

    assert load(database, Wanted(NOW, keys={(0, "k")})).jobs == {}


def test_load_when_many_wait_for_one_then_they_come_in_portions(database: sqlite3.Connection) -> None:
    waiting = range(3, 3 + 2 * DEPENDENTS_LIMIT)
    put(database, [job(id=1), job(id=2), *(job(State.WAITING, id=ident, needs_open=2) for ident in waiting)])
    rows = [(ident, needed, "ok") for ident in waiting for needed in (1, 2)]
    database.executemany(jobs.INSERT_NEED, rows)

    first = load(database, Wanted(NOW, dependents_of={1: 0, 2: 0})).dependents
    second = load(database, Wanted(NOW, dependents_of={1: first[1].last, 2: first[2].last})).dependents

    assert [each.job_id for portion in (first[1], second[1]) for each in portion.dependents] == list(waiting)
    assert (first[1].more, first[2]) == (True, Portion([], 0, more=True))


def test_load_when_many_have_ended_then_a_part_of_them_is_read(database: sqlite3.Connection) -> None:
    ended = range(1, 2 * DEPENDENTS_LIMIT)
    put(database, [job(State.SUCCEEDED, id=ident) for ident in ended])

    loaded = load(database, Wanted(NOW, dependents_of=dict.fromkeys(ended, 0)))

    assert len(loaded.jobs) == DEPENDENTS_LIMIT
    assert [ident for ident in ended if not loaded.dependents[ident].more] == sorted(loaded.jobs)


def test_load_when_a_needed_job_is_in_memory_then_only_its_dependents_are_read(database: sqlite3.Connection) -> None:
    put(database, [job(State.RUNNING, id=1), job(State.WAITING, id=2, needs_open=1)])
    database.execute(jobs.INSERT_NEED, (2, 1, "ok"))

    loaded = load(database, Wanted(NOW, dependents_of={1: 0}, open_runs={1}))

    assert [each.job_id for each in loaded.dependents[1].dependents] == [2]
    assert set(loaded.jobs) == {2}


@pytest.mark.parametrize(
    "wanted", [Wanted(NOW, ids={1}), Wanted(NOW, keys={(0, "")}), Wanted(NOW, dependents_of={1: 0}),
               Wanted(NOW, run_ids={""}), Wanted(NOW, lanes=[("q", (7, None), 1)]), Wanted(NOW, due=True)]
)  # fmt: skip
def test_wanted_when_anything_is_requested_then_it_is_true_and_when_empty_false(wanted: Wanted) -> None:
    assert wanted
    assert not Wanted(NOW)


# --- progress -----------------------------------------------------------------------------------------------

moments = st.none() | st.integers(-2, 2)


@st.composite
def pending(draw: st.DrawFn) -> list[Job]:
    def moment(origin: int) -> int | None:
        offset = draw(moments)
        return None if offset is None else origin + offset

    return [
        asked(
            draw(st.sampled_from([State.WAITING, State.QUEUED, State.HELD])),
            ident=ident,
            ask={"run_at": moment(NOW.wall), "deadline": moment(NOW.wall)},
            wake_at=moment(NOW.steady),
            expires_at=moment(NOW.steady),
            needs_open=draw(st.sampled_from([0, 0, 1])),
        )
        for ident in range(1, draw(st.integers(1, 6)) + 1)
    ]


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=100)
@given(line=pending(), limit=st.integers(1, 3))
def test_due_when_its_events_are_applied_then_nothing_is_due_any_more(
    database: sqlite3.Connection, line: list[Job], limit: int
) -> None:
    database.execute("BEGIN")
    put(database, line)
    try:
        for _ in range(2 * len(line) + 2):
            first = due(database, NOW, limit)
            named = {ev.Woke: first.woken, ev.TtlPassed: first.expired, ev.DeadlinePassed: first.overdue}
            if not any(named.values()):
                assert not first.more
                break
            for kind, ids in named.items():
                for ident in ids:
                    after = step(jobs.by_ids(database, [ident])[ident], None, kind(), NOW).job
                    database.execute(jobs.UPDATE, jobs.update_row(after))
            again = due(database, NOW, LIMIT)
            assert not set(first.woken) & set(again.woken)
            assert not {*first.expired, *first.overdue} & {*again.expired, *again.overdue, *again.woken}
        else:
            pytest.fail("asked and asked, and there is always more due")
    finally:
        database.execute("ROLLBACK")


def test_due_when_the_wall_clock_was_set_back_then_a_backoff_still_ends(database: sqlite3.Connection) -> None:
    put(database, [asked(wake_at=NOW.steady)])

    assert due(database, Now(wall=0, steady=NOW.steady), LIMIT).woken == (7,)
