"""The queues that take part in a choice: those left out would have changed nothing, and cost nothing.

Owns memories of any shape, of which each is asked twice: for few queues, and for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.job.admission import admit
from stoker.core.job.model import Queue, QueueClass, Resource, State
from stoker.core.quotas import NO_QUOTAS, Quota, Quotas
from stoker.core.rate import Rate
from stoker.engine.memory import LiveState
from stoker.engine.memory.ready_line import ReadyLine
from tests.support.jobs import NOW, job, spec

CAPACITIES = {"gpu": 2, "net": 1}
ALL = 1_000_000

queues = st.builds(
    Queue,
    name=st.just(""),
    queue_class=st.sampled_from(QueueClass),
    max_running=st.none() | st.integers(1, 4),
    paused=st.sampled_from([False, False, True]),
    rate=st.sampled_from([None, None, Rate(count=1, per_ms=60_000)]),
)
demands = st.sampled_from([{}, {}, {"gpu": 1}, {"gpu": 2, "net": 1}])


class Filled(NamedTuple):
    """A queue with what its jobs have got, and what its queued jobs ask for."""

    queue: Queue
    running: int
    served: int
    asked: Sequence[dict[str, int]]


filled = st.builds(Filled, queues, st.integers(0, 3), st.integers(0, 5), st.lists(demands, max_size=4))


def memory_of(shape: Sequence[Filled], used: int) -> LiveState:
    named = {f"q{number}": replace(one.queue, name=f"q{number}") for number, one in enumerate(shape)}
    memory = LiveState(named, {name: Resource(name=name, capacity=most) for name, most in CAPACITIES.items()}, 0, 0)
    memory.used["gpu"] = used
    for number, (_, running, served, asked) in enumerate(shape):
        name = f"q{number}"
        memory.running[name], memory.served[name] = running, served
        for place, resources in enumerate(asked):
            of = spec(queue=name, resources=resources)
            one = job(State.QUEUED, id=10 * number + place, order_key=place, asked=of)
            memory.ready[name].add(one, startable=True)
    return memory


def chosen(memory: LiveState, among: int, slots: int) -> list[int]:
    """The ids of the jobs that start, of the queues that are given for `among` slots."""
    offered = memory.admission_queues(memory.ready, among, NOW.steady)
    free, capacity = memory.free(NOW.steady), memory.real_capacities()
    room = memory.users.room(line.owner_uid for queue in offered for line in queue.lines)
    return [each.id for each in admit(offered, slots, free, capacity, throttled=False, users=room)]


AT_ITS_LIMIT = [Filled(Queue(name="", max_running=1), 1, 0, [{}]), Filled(Queue(name=""), 1, 0, [{}])]


@example(AT_ITS_LIMIT, 1, 0)
@given(st.lists(filled, max_size=8), st.integers(1, 6), st.integers(0, 2))
def test_choice_when_it_is_made_of_few_queues_then_it_is_that_of_all(
    shape: list[Filled], slots: int, used: int
) -> None:
    of_few = chosen(memory_of(shape, used), slots, slots)

    assert of_few == chosen(memory_of(shape, used), ALL, slots)


def test_choice_when_there_are_a_thousand_queues_then_as_many_take_part_as_slots() -> None:
    memory = memory_of([Filled(Queue(name=""), 0, 0, [{}])] * 1_000, 0)

    assert len(memory.admission_queues(memory.ready, 8, NOW.steady)) == 8


line = st.tuples(st.integers(0, 2), st.integers(0, 3), st.lists(demands, max_size=3))  # running, served, asked
offers = st.lists(st.lists(line, max_size=6), min_size=1, max_size=2)  # of the users of each queue
NARROW = Quotas(usual=Quota(max_running=2), of_user={1: Quota(max_running=3), 2: Quota()})


def users_of(offered: Sequence[Sequence[tuple[int, int, list[dict[str, int]]]]], quotas: Quotas) -> LiveState:
    memory = memory_of([Filled(Queue(name=""), 0, 0, [])] * len(offered), 0)
    memory.users.use(quotas)
    for number, lines in enumerate(offered):
        for uid, (running, served, asked) in enumerate(lines):
            memory.users.running[uid] += running
            memory.users.running_in[f"q{number}", uid], memory.users.served[f"q{number}", uid] = running, served
            for place, resources in enumerate(asked):
                of, ident = spec(queue=f"q{number}", resources=resources), 100 * number + 10 * uid + place
                memory.enter(None, job(State.QUEUED, id=ident, owner_uid=uid, order_key=place, asked=of), None)
    return memory


@given(offers, st.sampled_from([NO_QUOTAS, NARROW]), st.integers(1, 6))
def test_choice_when_it_is_made_of_few_users_then_it_is_that_of_all(
    offered: list[list[tuple[int, int, list[dict[str, int]]]]], quotas: Quotas, slots: int
) -> None:
    of_few = chosen(users_of(offered, quotas), slots, slots)

    assert of_few == chosen(users_of(offered, quotas), ALL, slots)


def test_choice_when_there_are_a_thousand_users_then_as_many_as_slots_count() -> None:
    memory = users_of([[(0, 0, [{}])] * 1_000], NO_QUOTAS)

    (queue,) = memory.admission_queues(memory.ready, 8, NOW.steady)

    assert len(queue.lines) == 8


class Unlistable(Mapping[str, int]):
    """The capacities of so many resources that no turn may go through them."""

    def __getitem__(self, name: str) -> int:
        return CAPACITIES[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the resources are listed")

    def __len__(self) -> int:
        return ALL


def test_blocked_when_resources_are_many_then_only_those_that_lack_are_read() -> None:
    ready, waiting = ReadyLine(), job(State.QUEUED, asked=spec(resources={"gpu": 2}))
    ready.add(waiting, startable=True)
    ready.pass_over(ready.lanes['{"gpu":2}'].jobs[0], "gpu")

    (entry,) = ready.blocked({"gpu": 1}, Unlistable())

    assert [one.id for one in entry[1]] == [waiting.id]
