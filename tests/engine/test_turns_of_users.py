"""The lines of the users of a queue in memory, and the turns that each has had."""

from __future__ import annotations

from stoker.core.job.model import Queue, State
from stoker.engine.memory import LiveState
from stoker.engine.memory.ready_line import CAPACITY, HELD_IN_ALL, LEAST_CAPACITY
from tests.support.jobs import NOW, attempt, job

ANN, BEN = 1_001, 1_002


def memory() -> LiveState:
    return LiveState({"default": Queue(name="default")}, {}, 0, 0)


def test_lines_when_a_user_comes_after_a_crowd_then_its_jobs_are_held_in_memory() -> None:
    state = memory()
    for ident in range(CAPACITY + 5):
        state.enter(None, job(State.QUEUED, id=ident, owner_uid=ANN), None)
    last = job(State.QUEUED, id=9_999, owner_uid=BEN)
    state.enter(None, last, None)

    (queue,) = state.admission_queues(["default"], 2, NOW.steady)

    assert sorted(line.first().id for line in queue.lines) == [0, last.id]
    assert (state.users.pending(ANN), state.users.pending(BEN)) == (CAPACITY + 5, 1)


def test_lines_when_the_last_job_of_a_user_leaves_then_its_line_is_dropped() -> None:
    state, one = memory(), job(State.QUEUED, id=1, owner_uid=ANN)
    state.enter(None, one, None)

    state.ready["default"].remove(one)

    assert state.ready["default"].lines == {}
    assert state.ready["default"].demands_of(ANN) == []


def test_lines_when_there_are_many_users_then_they_share_the_memory() -> None:
    state, users = memory(), 2_000
    for uid in range(users):
        for ident in range(LEAST_CAPACITY + 2):
            state.enter(None, job(State.QUEUED, id=uid * 100 + ident, owner_uid=uid), None)

    assert state.ready["default"].held < users * (LEAST_CAPACITY + 1) + HELD_IN_ALL


def test_served_when_a_user_was_idle_then_it_joins_at_the_present_turn() -> None:
    state = memory()
    for ident in range(1, 10):
        going = job(State.RUNNING, id=ident, owner_uid=ANN)
        state.open(going, attempt(going, run_id=f"{ident}.1.x"))

    joined = job(State.RUNNING, id=99, owner_uid=BEN)
    state.open(joined, attempt(joined, run_id="99.1.x"))

    assert state.users.served["default", BEN] == state.users.served["default", ANN] == 9
    assert (state.users.running[ANN], state.users.running_in["default", BEN]) == (9, 1)
