"""Rows of conditions and events: the open ones of jobs, the events that are kept, and the rows that go with a job."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

import pytest

from stoker.core.clock import Now
from stoker.core.job.conditions import ConditionGroup, all_open
from stoker.core.job.model import Job, State
from stoker.core.named_events import NamedEvent
from stoker.store import conditions, retention
from stoker.store.batch import Batch, store
from stoker.store.conditions import KEY_KEPT_MS, ConditionWaiter, WaiterPortion, WaitersWanted
from stoker.store.loading import Wanted, load
from tests.support.batches import accepted, newest
from tests.support.jobs import job, spec

GO = "event:go"
ME, OTHER, ROOT = 1_000, 1_001, 0


def waiting(ident: int, tree: Any = GO, owner: int = ME, state: State = State.WAITING) -> Job:
    of = spec(wait_for=tree)
    ended = {"finished_at": 1, "reason": "user"} if state is State.CANCELLED else {}
    held = {"reason": "user"} if state is State.HELD else {}
    return job(state, id=ident, asked=of, owner_uid=owner, conditions_open=all_open(tree), **ended, **held)


def event(ident: int = 1, **fields: Any) -> NamedEvent:
    usual: dict[str, Any] = {
        "owner_uid": ME,
        "name": "go",
        "data": "7",
        "emitted_at": 10,
        "one": False,
        "keep_until": 10,
    }
    return NamedEvent(id=ident, **(usual | fields))


def put(database: sqlite3.Connection, *jobs: Job, events: tuple[NamedEvent, ...] = ()) -> None:
    batch = accepted(*jobs, seq=newest(database)[0] + 1)
    batch.new_events = {one.id: one for one in events}
    store(database, batch, newest(database)[1])


def names(database: sqlite3.Connection, wanted: WaitersWanted, limit: int = 9) -> list[int]:
    return [waiter.job_id for waiter in conditions.waiters(database, wanted, limit).waiters]


@pytest.mark.parametrize(("owner", "reached"), [(ME, [1]), (OTHER, [2]), (ROOT, [1, 2, 3])])
def test_waiters_when_an_event_is_of_a_user_then_only_his_jobs_get_it(
    database: sqlite3.Connection, owner: int, reached: list[int]
) -> None:
    put(database, waiting(1), waiting(2, owner=OTHER), waiting(3, owner=ROOT), waiting(4, tree="event:other"))

    assert names(database, WaitersWanted(GO, owner_uid=owner)) == reached


def test_waiters_when_jobs_have_ended_then_only_an_end_finds_them(
    database: sqlite3.Connection,
) -> None:
    put(database, waiting(1), waiting(2, state=State.HELD), waiting(3, state=State.CANCELLED))

    assert names(database, WaitersWanted(GO)) == [1, 2]
    assert names(database, WaitersWanted(GO, of_all_states=True)) == [1, 2, 3]


def test_waiters_when_many_jobs_have_ended_then_a_portion_examines_some(database: sqlite3.Connection) -> None:
    """The last job that was examined is the cursor, whether it waits or not."""
    put(database, *(waiting(ident, state=State.CANCELLED) for ident in range(1, 5)), waiting(5), waiting(6))

    portions, after = [], 0
    for _ in range(3):
        portions.append(conditions.waiters(database, WaitersWanted(GO, after), 9, examined=2))
        after = portions[-1].last

    assert [[waiter.job_id for waiter in portion.waiters] for portion in portions] == [[], [], [5, 6]]
    assert [(portion.last, portion.more) for portion in portions] == [(2, True), (4, True), (6, True)]
    assert conditions.waiters(database, WaitersWanted(GO, 6), 9, examined=2) == WaiterPortion([], 6, more=False)


def test_waiters_when_events_are_many_then_one_turn_examines_a_bounded_number(
    database: sqlite3.Connection,
) -> None:
    """Rows of jobs that have ended are passed over: else as many are read for each event as the first may have."""
    ended = [waiting(ident, tree=f"event:{ident % 3}", state=State.CANCELLED) for ident in range(1, 13)]
    put(database, *ended, *(waiting(20 + number, tree=f"event:{number}") for number in range(3)))
    wanted = [WaitersWanted(f"event:{number}") for number in range(3)]

    first, second, third = conditions.waiter_portions(database, wanted, 9, examined=6).values()

    assert (first.waiters, first.more, first.examined) == ([ConditionWaiter(20, 0)], False, 5)
    assert (second.waiters, second.last, second.more, second.examined) == ([], 1, True, 1)
    assert third == WaiterPortion((), 0, more=True), "it is put off"


def test_waiters_when_they_are_many_then_the_cursor_goes_on_up_to_the_last(database: sqlite3.Connection) -> None:
    put(database, *(waiting(ident) for ident in range(1, 6)))

    first = conditions.waiters(database, WaitersWanted(GO, last=4), 2)
    rest = conditions.waiters(database, WaitersWanted(GO, first.last, last=4), 3)

    assert (first.waiters, first.more) == ([ConditionWaiter(1, 0), ConditionWaiter(2, 0)], True)
    assert (rest.waiters, rest.more) == ([ConditionWaiter(3, 0), ConditionWaiter(4, 0)], False)


def test_key_when_a_day_has_passed_then_another_event_takes_it(database: sqlite3.Connection) -> None:
    """The older event stays, as long as the job that got it does."""
    put(database, waiting(1), events=(event(1, key="k", emitted_at=10),))
    last, over = 10 + KEY_KEPT_MS, 11 + KEY_KEPT_MS
    assert [conditions.by_key(database, ME, "k", now) is None for now in (last, over)] == [False, True]

    put(database, waiting(2), events=(event(2, key="k", emitted_at=over),))

    newest = conditions.by_key(database, ME, "k", over)
    assert newest is not None
    assert newest.id == 2
    assert database.execute("SELECT id, key FROM events ORDER BY id").fetchall() == [(1, None), (2, "k")]


def test_conditions_when_one_is_met_then_its_row_goes_with_the_change(database: sqlite3.Connection) -> None:
    both = waiting(1, ConditionGroup(all=(GO, "job:7")))
    put(database, both)

    store(database, Batch(jobs={1: job(State.WAITING, id=1, asked=both.spec, conditions_open=2)}), newest(database)[1])

    assert database.execute("SELECT job_id, number, condition FROM conditions").fetchall() == [(1, 1, "job:7")]
    assert conditions.ends_awaited(database) == {"job:7"}


def test_ends_when_a_crash_came_before_a_condition_was_met_then_the_start_finds_it(
    database: sqlite3.Connection,
) -> None:
    put(database, job(State.SUCCEEDED, id=7, reason="exit", finished_at=1), job(State.QUEUED, id=8))
    put(database, waiting(10, ConditionGroup(any=("job:7", "job:8", "workflow:7"))))

    assert conditions.ended(database) == ["job:7"]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"keep_until": 21}, True),
        ({"keep_until": 20}, False),
        ({"keep_until": 21, "owner_uid": ROOT}, True),
        ({"keep_until": 21, "owner_uid": OTHER}, False),
        ({"keep_until": 21, "name": "come"}, False),
        ({"keep_until": 21, "one": True}, True),
        ({"keep_until": 21, "one": True, "reached": 1}, False),
    ],
)
def test_kept_when_a_job_begins_to_wait_then_only_events_for_it_are_read(
    database: sqlite3.Connection, fields: dict[str, Any], *, kept: bool
) -> None:
    put(database, events=(event(**fields),))

    assert [one.id for one in conditions.kept(database, "go", ME, 20, 9)] == ([1] if kept else [])


def test_kept_when_there_are_several_then_the_newest_comes_first_without_data(database: sqlite3.Connection) -> None:
    put(database, events=(event(1, keep_until=22, data="[1]"), event(2, keep_until=21, data="[1]")))

    assert [(one.id, one.data) for one in conditions.kept(database, "go", ME, 20, 9)] == [(2, ""), (1, "")]


def test_kept_when_a_newer_one_is_kept_as_long_then_the_older_is_not(
    database: sqlite3.Connection,
) -> None:
    put(database, events=(event(1, keep_until=21, data="[1]", reached=1), event(2, keep_until=21, data="[1]")))
    put(database, events=(event(3, keep_until=21, data="[1]", one=True), event(4, keep_until=21, data="[1]")))

    assert [one.id for one in conditions.kept(database, "go", ME, 20, 9)] == [4, 3]
    rows = database.execute("SELECT keep_until, data FROM events ORDER BY id").fetchall()
    assert rows == [(0, "[1]"), (0, ""), (21, "[1]"), (21, "[1]")]
    assert conditions.count_kept(database, ME, "go", 20) == (2, 2)


def test_kept_when_jobs_of_two_users_begin_to_wait_then_each_gets_his_newest_first(
    database: sqlite3.Connection,
) -> None:
    put(database, events=(event(1, keep_until=21, owner_uid=ROOT), event(2, keep_until=22), event(3, keep_until=21)))
    both = [("go", ME), ("go", OTHER)]

    for users in (sorted(both), sorted(both, reverse=True)):
        wanted = Wanted(now=Now(wall=20, steady=20))
        wanted.kept_events = Counter(users)
        assert list(load(database, wanted).kept_events["go"]) == [3, 2, 1]


def test_kept_when_more_are_there_than_jobs_can_take_then_the_others_are_not_read(database: sqlite3.Connection) -> None:
    put(database, events=tuple(event(number, keep_until=21, one=True) for number in range(1, 6)))
    wanted = Wanted(now=Now(wall=20, steady=20))
    wanted.kept_events = Counter({("go", ME): 1, ("go", OTHER): 1})

    assert list(load(database, wanted).kept_events["go"]) == [5, 4]


def test_events_when_no_job_can_get_them_any_more_then_they_are_removed(database: sqlite3.Connection) -> None:
    put(database, waiting(1), events=(event(1), event(2, keep_until=99), event(3, key="k"), event(4, next_after=0)))
    put(database, events=(event(5),))
    database.execute("INSERT INTO job_events VALUES (1, 5)")
    left = "SELECT id FROM events ORDER BY id"

    assert retention.forget_events(database, 50).removed == 1
    assert [row[0] for row in database.execute(left)] == [2, 3, 4, 5]
    assert retention.forget_events(database, KEY_KEPT_MS + 100).removed == 2
    assert [row[0] for row in database.execute(left)] == [4, 5]


def test_sweep_when_a_job_is_purged_then_its_conditions_and_events_go_with_it(database: sqlite3.Connection) -> None:
    put(database, waiting(1, state=State.CANCELLED), waiting(2), events=(event(1),))
    database.executescript("INSERT INTO job_events VALUES (1, 1); INSERT INTO purging_jobs VALUES (1)")

    while retention.sweep_rows(database).removed:
        pass

    assert database.execute("SELECT job_id FROM conditions").fetchall() == [(2,)]
    assert database.execute("SELECT * FROM job_events").fetchall() == []


def test_page_when_it_is_read_then_it_has_the_events_of_its_user_newest_first(database: sqlite3.Connection) -> None:
    put(database, events=(event(1), event(2, owner_uid=OTHER), event(3, name="come")))

    assert [(one.id, size) for one, size in conditions.page(database, ME, None, None, 9)] == [(3, 1), (1, 1)]
    assert [one.id for one, _ in conditions.page(database, ROOT, None, 3, 9)] == [2, 1]
    assert [one.id for one, _ in conditions.page(database, ME, "go", None, 1)] == [1]


def test_awaited_when_jobs_wait_for_files_or_the_host_then_they_are_counted(database: sqlite3.Connection) -> None:
    both = ConditionGroup(all=("file:/a", "idle", "event:go"))
    put(database, waiting(1, both), waiting(2, "file:/a", state=State.HELD), waiting(3, "file-changed:/a"))
    put(database, waiting(4, "charging", state=State.CANCELLED), waiting(5, "job:1"))

    assert conditions.awaited(database) == {"file:/a": 2, "idle": 1, "file-changed:/a": 1}


def test_seen_when_it_is_stored_then_the_waiters_have_it(database: sqlite3.Connection) -> None:
    put(database, waiting(1, "file-changed:/a"), waiting(2, "file-changed:/a"))

    store(database, Batch(seen={(1, 0): "7 8 9"}), newest(database)[1])

    found = conditions.waiters(database, WaitersWanted("file-changed:/a"), 9).waiters
    assert found == [ConditionWaiter(1, 0, "7 8 9"), ConditionWaiter(2, 0)]
