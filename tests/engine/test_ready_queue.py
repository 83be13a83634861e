"""What is in memory of the queued jobs of a queue: lanes of jobs that ask for the same, each with a short front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.core.job.model import State
from stoker.engine.ready_queue import CAPACITY, DEMANDING_CAPACITY, ReadyQueue, demand_of
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from stoker.core.job.model import Job

MANY = 20_000


def queued(ident: int, **resources: int) -> Job:
    return job(State.QUEUED, id=ident, asked=spec(resources=resources))


def filled(*jobs: Job, startable: bool = True) -> ReadyQueue:
    ready = ReadyQueue()
    for one in jobs:
        ready.add(one, startable=startable)
    return ready


def held(ready: ReadyQueue) -> list[list[int]]:
    return [[one.id for one in front] for front in ready.fronts()]


def test_ready_when_thousands_ask_for_the_same_then_few_are_held() -> None:
    blocked = [queued(ident, gpu=1) for ident in range(MANY)]
    ready = filled(*blocked, *(queued(MANY + ident) for ident in range(MANY)))

    assert [len(front) for front in ready.fronts()] == [DEMANDING_CAPACITY, CAPACITY]
    assert [lane.count for lane in ready.lanes.values()] == [MANY, MANY]


def test_ready_when_a_lane_cannot_start_then_it_is_not_read() -> None:
    ready = filled(*(queued(ident, gpu=1) for ident in range(MANY)))
    for one in list(ready.lanes[demand_of(queued(0, gpu=1))].jobs)[1:]:
        ready.remove(one)

    assert list(ready.hungry({"gpu": 0})) == []
    assert [demand for demand, _ in ready.hungry({"gpu": 1})] == ['{"gpu":1}']


def test_ready_when_the_first_is_unknown_then_the_lane_is_read_whatever_is_free() -> None:
    ready = ReadyQueue()
    ready.count_in('{"gpu":1}', 3)

    ((demand, lane),) = ready.hungry({})
    lane.refill([queued(1, gpu=1), queued(2, gpu=1), queued(3, gpu=1)])

    assert demand == '{"gpu":1}'
    assert held(ready) == [[1, 2, 3]]
    assert list(ready.hungry({"gpu": 9})) == []


def test_ready_when_jobs_leave_then_those_that_are_not_held_are_counted_too() -> None:
    ready = filled(*(queued(ident) for ident in range(CAPACITY + 2)))

    ready.remove(queued(CAPACITY + 1))
    ready.remove(queued(0))

    assert (len(ready.lanes[None].jobs), ready.lanes[None].count) == (CAPACITY - 1, CAPACITY)
    for ident in range(1, CAPACITY + 1):
        ready.remove(queued(ident))
    assert ready.lanes == {}


def test_ready_when_a_job_comes_behind_what_is_held_then_the_order_is_kept() -> None:
    ready = filled(*(queued(ident) for ident in range(CAPACITY + 1)))

    ready.add(queued(CAPACITY + 5), startable=True)
    ready.add(queued(-1), startable=True)

    assert held(ready)[0][0] == -1
    assert held(ready)[0] == sorted(held(ready)[0])
    assert held(ready)[0][-1] < CAPACITY


def test_ready_when_a_workflow_is_barred_then_its_steps_are_counted_and_not_held() -> None:
    ready = filled(queued(1), queued(2), startable=False)
    ready.add(queued(3), startable=True)

    ((_, lane),) = ready.hungry({})
    lane.refill([queued(3)])

    assert held(ready) == [[3]]
    assert lane.count == 3
    assert list(ready.hungry({})) == []
    ready.read_again()
    assert [demand for demand, _ in ready.hungry({})] == [None]
