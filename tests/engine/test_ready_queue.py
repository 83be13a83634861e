"""The queued jobs in memory: a lane for each set of resources, with the first jobs of its order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.job.admission import AdmissionLine, AdmissionQueue, Group, QueuedJob, admit, place
from stoker.core.job.model import Queue, State
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.memory import LiveState
from stoker.engine.memory.ready_line import (
    CAPACITY,
    DEMANDING_CAPACITY,
    LANES_WITH_ROWS,
    LEAST_CAPACITY,
    ReadyLine,
    demand_of,
)
from stoker.store.loading import Wanted
from tests.support.jobs import NOW, attempt, job, spec

if TYPE_CHECKING:
    from stoker.core.job.model import Job

MANY = 20_000


def queued(ident: int, **resources: int) -> Job:
    return job(State.QUEUED, id=ident, asked=spec(resources=resources))


def filled(*jobs: Job, startable: bool = True) -> ReadyLine:
    ready = ReadyLine()
    for one in jobs:
        ready.add(one, startable=startable)
    return ready


def held(ready: ReadyLine) -> list[list[int]]:
    return [[one.id for one in lane.jobs] for lane in ready.lanes.values() if lane.jobs]


def test_ready_when_thousands_ask_for_the_same_then_few_are_held() -> None:
    blocked = [queued(ident, gpu=1) for ident in range(MANY)]
    ready = filled(*blocked, *(queued(MANY + ident) for ident in range(MANY)))

    assert [len(front) for front in held(ready)] == [DEMANDING_CAPACITY, CAPACITY]
    assert [lane.count for lane in ready.lanes.values()] == [MANY, MANY]


def test_ready_when_there_are_many_queues_then_each_holds_few() -> None:
    memory = LiveState({f"q{number}": Queue(name=f"q{number}") for number in range(900)}, {}, 0, 0)
    for number in range(900, 1_000):
        memory.add_queue(Queue(name=f"q{number}"))

    for ready in memory.ready.values():
        for ident in range(LEAST_CAPACITY + 2):
            ready.add(queued(ident), startable=True)

    assert {len(lane.jobs) for ready in memory.ready.values() for lane in ready.lines[1_000].lanes.values()} == {
        LEAST_CAPACITY
    }


def test_ready_when_few_jobs_of_a_lane_are_left_in_memory_then_it_is_to_be_read() -> None:
    ready = filled(*(queued(ident, gpu=1) for ident in range(MANY)))
    assert list(ready.hungry()) == []

    for one in list(ready.lanes[demand_of({"gpu": 1})].jobs)[1:]:
        ready.remove(queued(one.id, gpu=1))

    assert [demand for demand, _ in ready.hungry()] == ['{"gpu":1}']


def test_ready_when_the_first_is_unknown_then_the_lane_is_to_be_read() -> None:
    ready = ReadyLine()
    ready.count_in('{"gpu":1}', 3)

    ((demand, _),) = ready.hungry()
    ready.refill(demand, [queued(1, gpu=1), queued(2, gpu=1), queued(3, gpu=1)])

    assert demand == '{"gpu":1}'
    assert held(ready) == [[1, 2, 3]]
    assert list(ready.hungry()) == []


def test_ready_when_no_slot_is_free_then_a_lane_with_few_jobs_left_is_read() -> None:
    """The slot of a job that ends in the same turn is given away in it: an empty lane of class high gets none."""
    memory = LiveState({"default": Queue(name="default")}, {}, 0, 0)
    dispatcher = Dispatcher(memory, {}, 1, lambda: False, ())
    dispatcher.open("recovering")
    holder = job(State.RUNNING, id=MANY)
    memory.open(holder, attempt(holder))
    jobs = [queued(ident) for ident in range(CAPACITY + 1)]
    for one in jobs:
        memory.ready["default"].add(one, startable=True)
    wanted = Wanted(NOW)

    for one in jobs[:CAPACITY]:
        memory.ready["default"].remove(one)
    dispatcher.declare_reads(wanted)

    assert wanted.lanes == [("default", (holder.owner_uid, None), CAPACITY)]


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

    ((demand, lane),) = ready.hungry()
    ready.refill(demand, [queued(3)])

    assert held(ready) == [[3]]
    assert lane.count == 3
    assert list(ready.hungry()) == []


def test_ready_when_bars_change_then_it_is_read_and_the_rest_may_start() -> None:
    others = [queued(ident) for ident in range(3, CAPACITY)]  # enough jobs, so that the lane need not be read
    ready = filled(queued(1), replace(queued(2), workflow_id=7), *others)

    ready.read_again({7})

    assert held(ready) == [[1, *range(3, CAPACITY)]]
    ((demand, _),) = ready.hungry()
    ready.refill(demand, [queued(1), *others])
    assert list(ready.hungry()) == []


def test_ready_when_the_last_job_leaves_a_lane_to_be_read_then_it_is_not_read() -> None:
    ready = filled(queued(1))
    ready.read_again(set())

    ready.remove(queued(1))

    assert list(ready.hungry()) == []


def test_ready_when_there_are_many_lanes_then_few_hold_whole_jobs() -> None:
    ready = filled(*(queued(ident, gpu=ident) for ident in range(1, 1_000)), queued(1_000))

    whole = [job.id for lane in ready.lanes.values() for job in lane.jobs if job.row is not None]
    assert whole == [*range(1, LANES_WITH_ROWS + 1), 1_000]
    assert [len(jobs) for jobs in held(ready)] == [1] * 1_000


STEPS = st.tuples(st.sampled_from(["queue", "leave", "bar", "let go", "look", "read"]), st.integers(1, 3))


@given(st.lists(STEPS, max_size=40))
def test_ready_when_workflows_are_barred_and_let_go_then_all_startable_are_found(
    steps: list[tuple[str, int]],
) -> None:
    """Jobs with an even id are steps of the workflow of that number; the dispatcher looks now and then."""
    ready, changed = ReadyLine(), False
    barred: set[int] = set()
    there: dict[int, Job] = {}

    def read() -> None:
        for demand, _ in list(ready.hungry()):
            ready.refill(demand, [one for _, one in sorted(there.items()) if one.workflow_id not in barred][:CAPACITY])

    for word, ident in steps:
        step = replace(queued(ident), workflow_id=None if ident % 2 else ident)
        if word == "queue" and ident not in there:
            ready.add(step, startable=step.workflow_id not in barred)
            there[ident] = step
        elif word == "leave" and ident in there:
            ready.remove(there.pop(ident))
        elif word in ("bar", "let go"):
            before = len(barred)
            (barred.add if word == "bar" else barred.discard)(ident)
            changed = changed or len(barred) != before
        elif word == "look" and changed:
            ready.read_again(barred)
            changed = False
        elif word == "read":
            read()
        assert all(ready.lanes.get(demand) is lane for demand, lane in ready.hungry())

    if changed:
        ready.read_again(barred)
    read()
    assert list(ready.hungry()) == []
    may_start = [ident for ident, one in sorted(there.items()) if one.workflow_id not in barred]
    assert held(ready) == ([may_start] if may_start else [])


# --- what admission is given --------------------------------------------------------------------------------


class Looks(Counter[str]):
    """The amounts of resources, counting how often each is asked for."""

    def __init__(self, **free: int) -> None:
        self.free = free

    def get(self, name: str, default: Any = None) -> Any:
        self[name] += 1
        return self.free.get(name, default)

    def __contains__(self, name: object) -> bool:
        self[str(name)] += 1
        return name in self.free


def admitted(
    ready: ReadyLine, free: Mapping[str, int], capacity: Mapping[str, int], slots: int = 8, looks: int = 2 * MANY
) -> list[QueuedJob]:
    """The jobs that start. As the dispatcher does, file the lanes that were passed over and remove the started jobs."""
    queue = AdmissionQueue(
        Queue(name="default"), [AdmissionLine(ready.groups(free), ready.front, ready.blocked(free, capacity))]
    )
    picks = admit([queue], slots, free, capacity, throttled=False, looks=looks)
    for _, one, lacks in queue.short:
        ready.pass_over(one, lacks)
    for one in picks:
        ready.remove(queued(one.id, **one.resources))
    return picks


SHAPES: dict[str, Callable[[int], dict[str, int]]] = {
    "one resource is held": lambda number: {"held": 1, "mem": number},
    "none is large enough": lambda number: {"mem": MANY + number},
    "each lacks a width of its own": lambda number: {f"w{number}/fan": 1},
    "none is large enough of its own": lambda number: {f"small{number}": 2},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_admission_when_thousands_are_blocked_then_a_turn_looks_at_few(
    shape: Callable[[int], dict[str, int]],
) -> None:
    small = {f"small{number}": 1 for number in range(MANY)}
    capacity = {"held": 1, "mem": 10 * MANY, **small}
    ready = filled(*(queued(number, **shape(number)) for number in range(1, MANY)))
    free = {"held": 0, "mem": MANY - 1, **small} | {f"w{number}/fan": 0 for number in range(MANY)}
    assert [admitted(ready, free, capacity) for _ in range(2)] == [[], []]  # each is looked at, and filed
    ready.add(queued(MANY), startable=True)
    looks, capacity_looks = Looks(**free), Looks(**capacity)

    assert [one.id for one in admitted(ready, looks, capacity_looks)] == [MANY]

    assert (looks.total() < 50, capacity_looks.total() < 50) == (True, True)


def test_blocked_when_a_capacity_grows_then_its_lanes_are_there_again() -> None:
    ready = filled(queued(1, gpu=2))
    assert [admitted(ready, {"gpu": 0}, {"gpu": 1}) for _ in range(2)] == [[], []]

    ready.freed(["gpu"])

    assert [first.id for _, (first,) in ready.blocked({"gpu": 0}, {"gpu": 2})] == [1]
    assert [one.id for one in admitted(ready, {"gpu": 2}, {"gpu": 2})] == [1]


def test_admission_when_looks_are_few_then_each_turn_gets_further() -> None:
    ready = filled(*(queued(number, held=1, mem=number) for number in range(1, 30)), queued(30))
    free, capacity = {"held": 0, "mem": 99}, {"held": 1, "mem": 99}

    turns = [[one.id for one in admitted(ready, free, capacity, looks=10)] for _ in range(4)]

    assert turns == [[], [], [30], []]


def test_admission_when_a_resource_becomes_free_then_a_turn_looks_at_few() -> None:
    ready = filled(*(queued(number, held=1, mem=number) for number in range(1, MANY)))
    capacity = {"held": 1, "mem": MANY}
    admitted(ready, {"held": 0, "mem": MANY}, capacity)

    for number in range(1, 50):
        ready.freed(["held"])
        looks = Looks(held=1, mem=MANY)
        assert [one.id for one in admitted(ready, looks, capacity)] == [number]
        assert looks.total() < 50
        assert admitted(ready, {"held": 0, "mem": MANY}, capacity) == []


def test_admission_when_thousands_have_got_a_token_then_a_turn_looks_at_few() -> None:
    """Each lane lacked a token of its key; now each has one, and few slots are free."""
    keys = {number: f"rate/{number}" for number in range(1, MANY)}
    ready = filled(*(queued(number, **{key: 1}) for number, key in keys.items()))
    admitted(ready, {}, {})
    free = dict.fromkeys(keys.values(), 1)
    ready.freed(free)
    assert [one.id for one in admitted(ready, free, {})] == [*range(1, 9)]

    looks = Looks(**free)
    groups = ready.groups(looks)
    starts = admitted(ready, looks, {})

    assert [one.id for one in starts] == [*range(9, 17)]
    assert (len(groups), looks.total() < 50) == (1, True)


names = st.sampled_from(["a", "b", "w1/fan"])


@given(
    st.lists(st.dictionaries(names, st.integers(1, 5), max_size=3), max_size=12),
    st.lists(st.tuples(st.dictionaries(names, st.integers(0, 5)), st.integers(1, 4)), min_size=1, max_size=6),
)
def test_admission_when_lanes_are_filed_then_the_same_jobs_start(
    asked: list[dict[str, int]], turns: list[tuple[dict[str, int], int]]
) -> None:
    ready = filled(*(queued(ident, **resources) for ident, resources in enumerate(asked)))
    capacity = {"a": 5, "b": 4}

    for free, slots in turns:
        ready.freed(free)
        lanes = sorted((place(lane.jobs[0]), list(lane.jobs)) for lane in ready.lanes.values())
        whole = AdmissionQueue(Queue(name="default"), [AdmissionLine([Group(lanes)], lanes[0][0] if lanes else None)])
        expected = admit([whole], slots, free, capacity, throttled=False)

        assert admitted(ready, free, capacity, slots) == expected
