"""Rows come back as stored: jobs, attempts, needs, keys, queues, recoveries, with any values they can have."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from enum import EnumType
from typing import TYPE_CHECKING, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import field
from msgspec.structs import asdict, replace

from stoker.core.errors import CorruptRecord
from stoker.core.job.conditions import all_open
from stoker.core.job.limits import Limits
from stoker.core.job.model import (
    Attempt,
    Change,
    Job,
    Need,
    NeedOn,
    Outcome,
    Queue,
    QueueClass,
    Resource,
    Spec,
    State,
    SupersedeRunning,
)
from stoker.core.rate import Rate
from stoker.core.schedule.model import Schedule
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.core.workflow.state import Workflow
from stoker.store import attempts, changes, given_ids, jobs, keys, queues, reader, recoveries, snapshot
from stoker.store.database import ADAPTED
from stoker.store.jobs import Dependent, SpecRemainder, spec_hash, spec_values
from stoker.store.keys import Keyed
from stoker.store.recoveries import Recovery
from tests.support import jobs as any_job
from tests.support.batches import put
from tests.support.jobs import attempt, job, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

one_database = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=150
)


@contextmanager
def undone(connection: sqlite3.Connection) -> Iterator[None]:
    """One example of many on the same database."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


STORED = (Job, Attempt, Outcome, Queue, Need, Workflow, Schedule, Checkpoint)


def test_adapters_when_a_stored_field_is_an_enum_then_it_is_bound_without_a_search() -> None:
    hints = [hint for kind in STORED for hint in get_type_hints(kind).values()]
    hints += [hint for name, hint in get_type_hints(Spec).items() if name not in SpecRemainder.__struct_fields__]
    enums = {kind for hint in hints for kind in (hint, *get_args(hint)) if isinstance(kind, EnumType)}

    assert {State, NeedOn, QueueClass} < enums
    assert enums <= set(ADAPTED)
    assert all((kind, sqlite3.PrepareProtocol) in sqlite3.adapters for kind in enums)


# --- jobs ---------------------------------------------------------------------------------------------------


@one_database
@given(one=any_job.jobs())
def test_job_when_it_is_stored_then_it_comes_back_equal_and_its_checksum_matches(
    database: sqlite3.Connection, one: Job
) -> None:
    with undone(database):
        put(database, [one])

        back = jobs.by_ids(database, [one.id])

        assert back == {one.id: one}
        assert spec_hash(back[one.id].spec) == one.spec_hash


@one_database
@given(data=st.data())
def test_job_when_it_is_updated_then_everything_but_its_spec_is_as_written(
    database: sqlite3.Connection, data: st.DataObject
) -> None:
    before, after = data.draw(any_job.jobs()), data.draw(any_job.jobs())
    kept = ("id", "spec", "spec_hash", "owner_uid", "trace_id", "order_key", "created_at", "debounce_by")
    bits = after.conditions_open & all_open(before.spec.wait_for)
    expected = replace(after, conditions_open=bits, **{name: getattr(before, name) for name in kept})
    with undone(database):
        put(database, [before])

        database.execute(jobs.UPDATE, jobs.update_row(expected))

        assert jobs.by_ids(database, [before.id]) == {before.id: expected}


def test_job_when_a_person_changes_its_limits_or_needs_then_spec_and_checksum_follow(
    database: sqlite3.Connection,
) -> None:
    put(database, [job(id=1)])
    asked = spec(deadline=5, timeout_ms=6, max_attempts=7, needs=(Need(9),))
    changed = job(id=1, asked=asked)

    database.execute(jobs.UPDATE_SPEC, jobs.spec_row(changed))

    assert jobs.by_ids(database, [1]) == {1: changed}
    assert changed.spec_hash == spec_hash(asked)


def test_jobs_when_some_do_not_exist_then_only_the_others_come_back(database: sqlite3.Connection) -> None:
    put(database, [job(id=1), job(id=2)])

    assert set(jobs.by_ids(database, [2, 3])) == {2}
    assert jobs.by_ids(database, []) == {}


def test_spec_hash_when_anything_is_asked_differently_then_it_differs() -> None:
    asked = [spec(), spec(args=("x",)), spec(nice=1), spec(env={"A": "1"}), spec(env={"B": "1"}), spec(survive=True)]

    assert len({spec_hash(one) for one in asked}) == len(asked)
    assert all(len(spec_hash(one)) == 16 for one in asked)


def test_spec_when_recorded_without_its_defaults_then_a_later_version_reads_the_same() -> None:
    """The log of changes and the journal keep it for years: no default of a spec may ever change."""
    text = msgspec.json.encode(spec())

    assert text == b'{"command":"/bin/true","working_dir":"/tmp"}'
    assert spec_hash(msgspec.json.decode(text, type=Spec)).hex() == "b65fbf555b4989f111444e117fd706eb"


class Grown(Spec, frozen=True, kw_only=True):
    """A Spec of a version to come."""

    later: int = 0
    more: dict[str, int] = field(default_factory=dict)


def test_spec_hash_when_stored_by_an_earlier_version_then_it_still_holds() -> None:
    fields = {"args": ("/etc/hosts",), "env": {"A": "b"}, "resources": {"gpu": 1}, "needs": (Need(job=3),),
            "limits": Limits(memory_bytes=1)}  # fmt: skip
    asked, grown = spec(**fields), Grown(**asdict(spec(**fields)))

    assert spec_hash(spec()).hex() == "b65fbf555b4989f111444e117fd706eb"
    assert spec_hash(asked).hex() == "c9472f22fcbb84805e31248bf820e9e6"
    assert spec_hash(grown) == spec_hash(asked)
    assert len({spec_hash(one) for one in (grown, replace(grown, later=1), replace(grown, more={"a": 1}))}) == 3


def test_row_when_a_spec_is_as_usual_then_its_policy_is_empty() -> None:
    """Each commit that changes a job writes its whole row, and SQLite reads the policy for the columns made of it."""
    assert spec_values(spec())[-1] == "{}"


def test_policy_when_it_is_empty_then_its_defaults_are_those_of_the_file_format() -> None:
    """These values are in no file: changing one would change every job that was ever stored."""
    read = msgspec.json.decode(b"{}", type=SpecRemainder)

    assert msgspec.structs.asdict(read) == {
        "stdin": None,
        "labels": {},
        "base_delay_ms": 1_000,
        "max_delay_ms": 3_600_000,
        "success_exit_codes": (0,),
        "no_retry_exit_codes": (),
        "checkpoint_exit_code": None,
        "notify": False,
        "heartbeat_ms": None,
        "unresponsive_warn_ms": 30_000,
        "unresponsive_kill_ms": 180_000,
        "grace_ms": 10_000,
        "warn_signal": None,
        "warn_before_ms": 0,
        "needs": (),
        "max_orphanings": 3,
        "resources": {},
        "rate_key": None,
        "wait_for": None,
        "when": None,
        "run_if": None,
        "limits": Limits(),
        "nice": 0,
        "umask": None,
        "supersede_running": SupersedeRunning.FINISH,
        "debounce_ms": 0,
        "debounce_max_ms": None,
        "hook_data": {},
        "secrets": (),
        "sources": (),
        "produces": (),
        "reused": None,
        "max_log_bytes": 67_108_864,
        "traceparent": None,
        "schedule": None,
        "scheduled_for": None,
    }


# --- the front of a queue -----------------------------------------------------------------------------------


def test_ready_when_jobs_are_queued_then_they_come_by_order_key_then_by_age(database: sqlite3.Connection) -> None:
    keys = {1: 50, 2: -5, 3: 50, 4: 0}
    put(database, [job(id=ident, order_key=key) for ident, key in keys.items()])
    put(database, [job(id=5, order_key=-9, asked=spec(queue="other")), job(State.WAITING, id=6, order_key=-9)])

    assert [one.id for one in jobs.ready(database, "default", 1_000, None, (), 10)] == [2, 4, 1, 3]
    assert [one.id for one in jobs.ready(database, "default", 1_000, None, (), 2)] == [2, 4]
    assert [one.id for one in jobs.ready(database, "other", 1_000, None, (), 9)] == [5]
    assert jobs.ready(database, "nobody", 1_000, None, (), 9) == []


def test_ahead_when_jobs_are_queued_then_only_those_before_it_in_its_queue_count(database: sqlite3.Connection) -> None:
    line = [job(id=ident, order_key=key) for ident, key in {1: 50, 2: -5, 3: 50}.items()]
    put(database, [*line, job(id=4, order_key=-9, asked=spec(queue="other")), job(State.HELD, id=5, order_key=-9)])

    assert [jobs.ahead(database, one, [None]) for one in line] == [1, 0, 2]


# --- needs --------------------------------------------------------------------------------------------------


def test_needs_when_some_wait_then_only_waiting_and_held_jobs_are_released(database: sqlite3.Connection) -> None:
    put(database, [job(state, id=number) for number, state in enumerate(State, 10)])
    rows = [(number, 1, "ok") for number, _ in enumerate(State, 10)] + [(10, 2, "any"), (13, 3, "failed")]
    database.executemany(jobs.INSERT_NEED, rows)

    assert jobs.dependents(database, 1, 0, 9) == [Dependent(1, 10, NeedOn.OK), Dependent(1, 13, NeedOn.OK)]
    assert jobs.dependents(database, 1, 0, 1) == [Dependent(1, 10, NeedOn.OK)]
    assert jobs.dependents(database, 1, 10, 1) == [Dependent(1, 13, NeedOn.OK)]
    assert jobs.dependents(database, 3, 0, 9) == [Dependent(3, 13, NeedOn.FAILED)]
    assert jobs.needed(database) == {1, 2, 3}
    assert jobs.open_needs(database, 10) == [1, 2]


def test_unreleased_when_a_needed_job_ended_in_a_crash_then_it_alone_is_named(database: sqlite3.Connection) -> None:
    put(database, [job(State.SUCCEEDED, id=1), job(State.RUNNING, id=2), job(State.FAILED, id=3)])
    put(database, [job(State.WAITING, id=4), job(State.HELD, id=5), job(State.SKIPPED, id=6)])
    rows = [(4, 1), (5, 1), (4, 2), (6, 3)]
    database.executemany(jobs.INSERT_NEED, [(waiting, needed, "ok") for waiting, needed in rows])

    assert jobs.ended_needs(database) == [1]
    assert snapshot.read(database).ended_needs == [1]


def test_needs_when_one_is_met_then_only_that_one_is_gone(database: sqlite3.Connection) -> None:
    put(database, [job(State.WAITING, id=1)])
    database.executemany(jobs.INSERT_NEED, [(1, 2, "ok"), (1, 3, "ok")])

    database.execute(jobs.DELETE_NEED, (1, 2))

    assert jobs.open_needs(database, 1) == [3]


def test_needs_when_they_are_part_of_the_spec_then_they_stay_there(database: sqlite3.Connection) -> None:
    asked = spec(needs=(Need(2), Need(3, NeedOn.ANY)))
    put(database, [job(State.WAITING, id=4, asked=asked)])

    assert jobs.by_ids(database, [4])[4].spec.needs == asked.needs


# --- idempotency --------------------------------------------------------------------------------------------


def test_keys_when_looked_up_then_each_owner_has_its_own(database: sqlite3.Connection) -> None:
    put(database, [job(State.HELD, id=1)])
    database.executemany(keys.INSERT, [(7, "k", b"one", 1, 0), (8, "k", b"two", 2, 0)])

    keyed = keys.by_keys(database, [(7, "k"), (8, "k"), (9, "k"), (7, "K")])

    assert keyed == {(7, "k"): Keyed(b"one", 1), (8, "k"): Keyed(b"two", 2)}


def test_key_when_it_is_used_twice_then_the_database_refuses(database: sqlite3.Connection) -> None:
    database.execute(keys.INSERT, (7, "k", b"one", 1, 0))

    with pytest.raises(sqlite3.IntegrityError):
        database.execute(keys.INSERT, (7, "k", b"one", 2, 0))


# --- attempts -----------------------------------------------------------------------------------------------


@one_database
@given(data=st.data())
def test_attempt_when_it_makes_progress_then_it_comes_back_equal(
    database: sqlite3.Connection, data: st.DataObject
) -> None:
    begun = attempt(launcher=data.draw(any_job.texts), created_at=data.draw(any_job.amounts))
    going = data.draw(any_job.progressed(begun))
    with undone(database):
        put(database, [job(State.RUNNING)], [begun])
        assert attempts.of_job(database, 7) == [begun]

        database.execute(attempts.UPDATE, attempts.update_row(going))

        assert attempts.open_attempts(database) == [going]


@one_database
@given(data=st.data())
def test_attempt_when_it_is_settled_then_it_comes_back_equal_and_is_open_no_more(
    database: sqlite3.Connection, data: st.DataObject
) -> None:
    over = data.draw(any_job.settled(attempt()))
    with undone(database):
        put(database, [job(State.RUNNING)], [attempt()])

        database.execute(attempts.SETTLE, attempts.settle_row(over))

        assert attempts.of_job(database, 7) == [over]
        assert attempts.open_attempts(database) == []


def test_attempts_when_a_job_ran_often_then_they_come_oldest_first(database: sqlite3.Connection) -> None:
    put(database, [job(State.RUNNING)])
    for ordinal in (10, 9, 11):
        put(database, [], [attempt(ordinal=ordinal, run_id=f"7.{ordinal}.x")])
        end = any_job.exited(0, ended_at=1)
        over = attempt(ordinal=ordinal, run_id=f"7.{ordinal}.x", outcome=end, ended_at=1)
        database.execute(attempts.SETTLE, attempts.settle_row(over))

    assert [one.ordinal for one in attempts.of_job(database, 7)] == [9, 10, 11]


def test_known_when_asked_for_runs_then_open_and_settled_ones_are_known(database: sqlite3.Connection) -> None:
    runs = [attempt(job(id=ident), run_id=f"{ident}.1.x") for ident in (1, 2)]
    put(database, [job(State.RUNNING, id=1), job(State.RUNNING, id=2)], runs)
    over: Attempt = replace(runs[0], outcome=any_job.exited(0, ended_at=1), ended_at=1)
    database.execute(attempts.SETTLE, attempts.settle_row(over))

    assert attempts.existing(database, ["1.1.x", "2.1.x", "3.1.x"]) == {"1.1.x", "2.1.x"}


def test_holds_when_an_attempt_takes_resources_then_the_row_says_which(database: sqlite3.Connection) -> None:
    put(database, [job(State.RUNNING, id=7), job(State.RUNNING, id=8)])
    for run, holds in ((attempt(), {"gpu": 2}), (attempt(job(id=8)), {})):
        database.execute(attempts.INSERT, attempts.insert_row(run, holds))

    assert database.execute("SELECT holds FROM attempts ORDER BY job_id").fetchall() == [('{"gpu":2}',), ("{}",)]


# --- the small tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "queue",
    [
        Queue(name="q"),
        Queue(name="q", queue_class=QueueClass.LOW, max_running=0, min_running=2, max_queued=9, paused=True),
        Queue(name="q", rate=Rate(100, 60_000, burst=20)),
        Queue(name="q", defaults={"max_attempts": 3, "on_orphan": "requeue"}),
    ],
)
def test_queue_when_it_is_set_twice_then_the_last_word_counts(database: sqlite3.Connection, queue: Queue) -> None:
    for value in (Queue(name="q", queue_class=QueueClass.HIGH, max_running=5, paused=True, defaults={"a": 1}), queue):
        database.execute(queues.UPSERT_QUEUE, queues.queue_row(value))

    assert queues.queues(database) == {"default": Queue(name="default"), "q": queue}


def test_resource_when_it_is_set_twice_then_the_last_word_counts(database: sqlite3.Connection) -> None:
    for capacity in (1, 4):
        database.execute(queues.UPSERT_RESOURCE, queues.resource_row(Resource(name="gpu", capacity=capacity)))

    assert queues.resources(database) == {"gpu": Resource(name="gpu", capacity=4)}


def test_meta_when_facts_are_of_any_type_then_they_keep_it(database: sqlite3.Connection) -> None:
    facts = {"text": "1", "number": 1, "bytes": b"1"}

    database.executemany(queues.SET_META, facts.items())

    assert {name: queues.meta(database)[name] for name in facts} == facts


def test_recovery_when_it_is_finished_then_its_row_is_replaced(database: sqlite3.Connection) -> None:
    begun = Recovery(epoch=2, started_at=5, plan="[1]", settled=1, adopted=2, stopped=3, requeued=4, unseen=5, stuck=6)
    for row in (Recovery(epoch=1, started_at=1), begun, replace(begun, finished_at=9, swept=7)):
        database.execute(recoveries.UPSERT, recoveries.row(row))

    rows = database.execute("SELECT * FROM recoveries ORDER BY epoch").fetchall()
    assert rows[1:] == [recoveries.row(replace(begun, finished_at=9, swept=7))]


# --- histories --------------------------------------------------------------------------------------------


def test_history_when_changes_are_large_then_a_page_ends_at_its_limit_of_bytes(
    database: sqlite3.Connection,
) -> None:
    large = [change(seq, payload={"x": "y" * 400_000}) for seq in range(1, 6)]
    rows, _ = changes.insert_rows(large, changes.GENESIS)
    database.executemany(changes.INSERT, rows)

    first, after = changes.page_of_job(database, 7, 0, 100)
    rest, end = changes.page_of_job(database, 7, after or 0, 3)

    assert ([one.seq for one in first], after) == ([1, 2], 2)
    assert ([one.seq for one in rest], end) == ([3, 4], 4)


def change(seq: int, payload: dict[str, str]) -> Change:
    return Change(
        seq=seq,
        at=seq,
        kind="job",
        subject="7",
        from_state=None,
        to_state="queued",
        cause="x",
        actor_uid=None,
        payload=payload,
    )


def test_size_when_asked_then_it_is_that_of_the_database(database: sqlite3.Connection) -> None:
    assert reader.size(database) > 50_000
    assert reader.size(database) % 4096 == 0
    assert reader.ping(database)


# --- what a start reads -------------------------------------------------------------------------------------


def test_snapshot_when_the_database_is_new_then_there_is_one_queue_and_nothing_else(
    database: sqlite3.Connection,
) -> None:
    loaded = snapshot.read(database)

    assert (loaded.queues, loaded.resources, loaded.runs, loaded.counts) == (
        {"default": Queue(name="default")},
        {},
        [],
        [],
    )
    assert (loaded.needed, loaded.last_id, loaded.last_seq, loaded.head) == (set(), 0, 0, bytes(32))


def test_snapshot_when_jobs_are_live_then_it_has_open_runs_and_counts_of_others(
    database: sqlite3.Connection,
) -> None:
    going, stuck = job(State.RUNNING, id=4, attempts=1), job(State.HELD, id=5, attempts=1)
    pending = [job(id=1), job(id=2, asked=spec(queue="bulk")), job(id=3), job(State.WAITING, id=6)]
    put(database, [going, stuck, *pending, job(State.FAILED, id=9)], [attempt(going), attempt(stuck)])
    given_ids.keep(database)
    database.execute("DELETE FROM jobs WHERE id = 9")

    loaded = snapshot.read(database)

    assert loaded.runs == [(going, attempt(going)), (stuck, attempt(stuck))]
    assert sorted(row for row in loaded.counts if row[2] != "running") == [
        ("bulk", 1_000, "queued", None, 1),
        ("default", 1_000, "held", None, 1),
        ("default", 1_000, "queued", None, 2),
        ("default", 1_000, "waiting", None, 1),
    ]
    assert loaded.last_id == 9  # an id is never used again, not even a purged one


def test_snapshot_when_an_open_attempt_has_no_job_then_nothing_is_guessed(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA foreign_keys = OFF")
    put(database, [], [attempt()])

    with pytest.raises(CorruptRecord, match="attempts without a job"):
        snapshot.read(database)
