"""The choice of jobs to start: class before fairness before order, within slots, caps and resources.

The properties are checked on lines of any shape; the examples say what a person would expect of two or three queues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.job.admission import (
    AdmissionLine,
    AdmissionQueue,
    Group,
    QueuedJob,
    Room,
    contenders,
    order_key,
    paused,
    place,
)
from stoker.core.job.admission import admit as admit_within
from stoker.core.job.model import Queue, QueueClass


def queued(ident: int, queue: str = "default", **resources: int) -> QueuedJob:
    return QueuedJob(ident, 0, queue, resources)


def lanes(ready: Sequence[QueuedJob]) -> list[Group]:
    """Those that ask for the same, each in the order of the queue, which is that of the ids; in one group."""
    by_demand: dict[str, list[QueuedJob]] = {}
    for one in ready:
        by_demand.setdefault(str(sorted(one.resources.items())), []).append(one)
    return [Group([(place(lane[0]), lane) for lane in by_demand.values()])]


def front(ready: Sequence[QueuedJob]) -> tuple[int, int] | None:
    return min(map(place, ready), default=None)


def line(name: str, *ready: QueuedJob, running: int = 0, served: int = 0, **fields: Any) -> AdmissionQueue:
    return AdmissionQueue(Queue(name=name, **fields), [AdmissionLine(lanes(ready), front(ready))], running, served)


def shortages(queue: AdmissionQueue) -> list[tuple[QueuedJob, str]]:
    """The jobs that were passed over, and what each lacked."""
    return [(one, lacks) for _, one, lacks in queue.short]


PLENTY = dict.fromkeys(("a", "b", "c", "gpu", "net", "tool"), 100)


def admit(
    lines: list[AdmissionQueue],
    slots: int,
    free: dict[str, int],
    capacity: dict[str, int] = PLENTY,
    *,
    throttled: bool = False,
) -> list[QueuedJob]:
    return admit_within(lines, slots, free, capacity, throttled=throttled)


def ids(picks: list[QueuedJob]) -> list[int]:
    return [pick.id for pick in picks]


def test_admit_when_slots_are_few_then_the_line_is_served_in_order() -> None:
    lines = [line("a", queued(1), queued(2), queued(3))]

    assert ids(admit(lines, 2, {})) == [1, 2]


def test_admit_when_a_job_is_passed_over_for_a_resource_then_its_lane_is_blocked() -> None:
    short = queued(1, tool=2)
    served = line("a", short, queued(2, tool=2), queued(3, net=1))

    assert ids(admit([served], 3, {"tool": 1, "net": 1})) == [3]
    assert shortages(served) == [(short, "tool")]


def test_admit_when_a_queue_has_few_tokens_then_so_many_of_its_jobs_start() -> None:
    rated, free, empty = line("a", queued(1), queued(2), queued(3)), line("b", queued(4)), line("c", queued(5))
    rated.tokens, empty.tokens = 2, 0

    assert sorted(ids(admit([rated, free, empty], 9, {}))) == [1, 2, 4]
    assert [each.out_of_tokens for each in (rated, free, empty)] == [True, False, True]


TOOLS = ("a", "b", "c")
demands = st.dictionaries(st.sampled_from(TOOLS), st.integers(1, 3), max_size=3)


@given(st.lists(demands, max_size=25), st.integers(1, 4), st.data())
def test_admit_when_jobs_share_resources_then_all_run_within_the_capacities(
    asked: list[dict[str, int]], slots: int, data: st.DataObject
) -> None:
    ready = [queued(number, "a", **demand) for number, demand in enumerate(asked, start=1)]
    capacity, holding = dict.fromkeys(TOOLS, 3), list[QueuedJob]()

    while ready or holding:
        used = Counter[str]()
        for each in holding:
            used.update(each.resources)
        free = {name: capacity[name] - used[name] for name in TOOLS}
        assert min(free.values()) >= 0
        picks = admit([line("a", *ready)], slots - len(holding), free, capacity)
        ready = [each for each in ready if each not in picks]
        holding += picks
        assert holding, "somebody can always go on"
        holding.pop(data.draw(st.integers(0, len(holding) - 1)))


@pytest.mark.parametrize("slots", [0, -1])
def test_admit_when_there_is_no_slot_then_nothing_starts(slots: int) -> None:
    assert admit([line("a", queued(1))], slots, {}) == []


def test_admit_when_classes_compete_then_the_higher_goes_first_whatever_it_uses() -> None:
    lines = [
        line("low", queued(5), queue_class=QueueClass.LOW),
        line("normal", queued(3), queued(4)),
        line("high", queued(1), queued(2), queue_class=QueueClass.HIGH, running=50, served=99),
    ]

    assert ids(admit(lines, 4, {})) == [1, 2, 3, 4]


def test_admit_when_queues_of_a_class_compete_then_each_gets_its_share() -> None:
    lines = [line("a", *map(queued, range(10, 20))), line("b", *map(queued, range(20, 30)))]

    assert ids(admit(lines, 4, {})) == [10, 20, 11, 21]


def test_admit_when_one_queue_uses_less_then_it_catches_up_first() -> None:
    lines = [line("a", *map(queued, range(10, 20)), running=3), line("b", *map(queued, range(20, 30)), running=1)]

    assert ids(admit(lines, 3, {})) == [20, 21, 10]


def test_admit_when_queues_use_the_same_then_the_one_served_less_goes_first() -> None:
    lines = [line("a", queued(1), served=5), line("b", queued(2), served=4)]

    assert ids(admit(lines, 1, {})) == [2]


@pytest.mark.parametrize(("slots", "names"), [(1, {"a", "c"}), (2, {"a", "b", "c"}), (9, {"a", "b", "c", "late"})])
def test_contenders_when_queues_are_many_then_the_least_served_are_left(slots: int, names: set[str]) -> None:
    normal = [(1, 0, "late"), (0, 1, "b"), (0, 0, "a")]

    assert set(contenders({QueueClass.NORMAL: normal, QueueClass.LOW: [(5, 0, "c")]}, slots)) == names


def test_admit_when_a_queue_is_at_its_limit_then_the_others_have_the_rest() -> None:
    lines = [line("a", queued(1), queued(2), max_running=3, running=2), line("b", queued(3), queued(4), queued(5))]

    assert ids(admit(lines, 9, {})) == [3, 4, 1, 5]
    assert admit([line("a", queued(1), max_running=0)], 9, {}) == []


def test_admit_when_a_resource_lacks_then_the_job_is_passed_and_keeps_nothing() -> None:
    greedy, modest = queued(1, gpu=1, net=2), queued(2, gpu=1)

    assert ids(admit([line("a", greedy, modest)], 9, {"gpu": 1, "net": 1}, {"gpu": 1, "net": 1})) == [2]


def test_admit_when_a_resource_is_taken_by_another_queue_then_it_is_gone_for_all() -> None:
    lines = [line("a", queued(1, gpu=2)), line("b", queued(2, gpu=1), queued(3))]

    assert ids(admit(lines, 9, {"gpu": 2})) == [1, 3]


def test_admit_when_the_resource_does_not_exist_then_it_counts_as_full() -> None:
    assert admit([line("a", queued(1, gpu=1))], 9, {}) == []


@pytest.mark.parametrize(
    ("queue_class", "by_hand", "throttled", "waits"),
    [
        (QueueClass.LOW, False, True, True),
        (QueueClass.LOW, False, False, False),
        (QueueClass.NORMAL, False, True, False),
        (QueueClass.HIGH, False, True, False),
        (QueueClass.HIGH, True, False, True),
        (QueueClass.LOW, True, False, True),
    ],
)
def test_pressure_when_it_is_high_then_only_low_queues_wait(
    queue_class: QueueClass, *, by_hand: bool, throttled: bool, waits: bool
) -> None:
    one = line("a", queued(1), queue_class=queue_class, paused=by_hand)

    assert paused(one.queue, throttled=throttled) is waits
    assert (admit([one], 9, {}, throttled=throttled) == []) is waits


def test_order_key_when_a_priority_is_higher_then_it_is_worth_so_much_waiting() -> None:
    urgent, early = order_key(1_000, 2, 60_000), order_key(0, 0, 60_000)

    assert urgent == 1_000 - 120_000
    assert urgent < early
    assert order_key(120_001, 2, 60_000) > early  # no job waits for ever


# --- any lines ----------------------------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[AdmissionQueue], int, dict[str, int], bool]:
    lines = []
    for number in range(draw(st.integers(0, 4))):
        ready = [
            queued(100 * number + place, f"q{number}", **draw(demands)) for place in range(draw(st.integers(0, 6)))
        ]
        queue = Queue(
            name=f"q{number}",
            queue_class=draw(st.sampled_from(QueueClass)),
            max_running=draw(st.none() | st.integers(0, 5)),
            paused=draw(st.booleans()),
        )
        lines.append(
            AdmissionQueue(
                queue, [AdmissionLine(lanes(ready), front(ready))], draw(st.integers(0, 5)), draw(st.integers(0, 9))
            )
        )
    free = draw(st.dictionaries(st.sampled_from("ab"), st.integers(0, 4)))
    return lines, draw(st.integers(0, 12)), free, draw(st.booleans())


demands = st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), max_size=2)


@given(scenes())
def test_admit_when_queues_are_of_any_shape_then_limits_hold_and_each_has_its_turn(
    scene: tuple[list[AdmissionQueue], int, dict[str, int], bool],
) -> None:
    lines, slots, free, throttled = scene

    picks = admit(lines, slots, free, throttled=throttled)

    used: Counter[str] = Counter()
    started = Counter(pick.queue for pick in picks)
    for pick in picks:
        used.update(pick.resources)
    assert len(picks) == len({pick.id for pick in picks}) <= slots
    assert all(used[name] <= free.get(name, 0) for name in used)
    room = Room({name: amount - used[name] for name, amount in free.items()}, PLENTY)
    for each in lines:
        if each.reserved is not None:
            room.aside.update(each.reserved.resources)
    for each in lines:
        cap = each.queue.max_running
        has_room = cap is None or each.running + started[each.queue.name] < cap
        open_to_start = has_room and not paused(each.queue, throttled=throttled)
        assert cap is None or started[each.queue.name] <= max(0, cap - each.running)
        assert not started[each.queue.name] or not paused(each.queue, throttled=throttled)
        taken = [pick.id for pick in picks if pick.queue == each.queue.name]
        assert taken == sorted(taken) or each.short
        if open_to_start and len(picks) < slots:
            left = [one for _, lane in each.lines[0].groups[0].lanes for one in lane if one.id not in taken]
            assert all(room.lacks(one.resources) for one in left)


@pytest.mark.parametrize(("looks", "picks"), [(2, []), (3, [3])])
def test_admit_when_the_looks_are_used_up_then_the_rest_is_left_for_later(looks: int, picks: list[int]) -> None:
    served = line("a", queued(1, a=1), queued(2, b=1), queued(3))

    assert ids(admit_within([served], 9, {}, PLENTY, throttled=False, looks=looks)) == picks
    assert (len(served.short), served.cut_short) == (2, not picks)


def test_admit_when_jobs_lack_what_is_set_aside_then_no_look_is_used_up() -> None:
    """The first turn would end there, and so would each later one."""
    served = line("a", queued(1, gpu=2), queued(2, gpu=1), queued(3, gpu=1, net=1), queued(4))

    free = {"gpu": 1, "net": 1}
    assert ids(admit_within([served], 9, free, PLENTY, throttled=False, looks=2)) == [4]
    assert len(served.short) == 3


# --- what is set aside --------------------------------------------------------------------------------------


def test_admit_when_the_first_is_blocked_then_no_job_takes_what_it_waits_for() -> None:
    first, rival, other = queued(1, gpu=2), queued(2, gpu=1), queued(3, net=1)
    served = line("a", first, rival, other)

    assert ids(admit([served], 9, {"gpu": 1, "net": 1})) == [3]
    assert served.reserved == first


def test_admit_when_more_is_free_than_the_first_needs_then_others_take_the_rest() -> None:
    first, modest = queued(1, gpu=2, net=1), queued(2, net=1)

    assert ids(admit([line("a", first, modest)], 9, {"gpu": 1, "net": 1})) == []
    assert ids(admit([line("a", first, modest)], 9, {"gpu": 1, "net": 2})) == [2]


def test_admit_when_another_queue_uses_less_then_it_leaves_the_reserved_resources() -> None:
    blocked, rival = line("a", queued(1, gpu=2), running=5), line("b", queued(2, gpu=1), queued(3))

    assert ids(admit([blocked, rival], 9, {"gpu": 1})) == [3]


def test_admit_when_a_higher_class_asks_then_nothing_is_set_aside_against_it() -> None:
    low = line("a", queued(1, gpu=2), queue_class=QueueClass.LOW)
    high = line("b", queued(2, gpu=1), queue_class=QueueClass.HIGH)

    assert ids(admit([low, high], 9, {"gpu": 1})) == [2]


def test_admit_when_the_first_can_never_have_it_then_nothing_is_set_aside() -> None:
    """More than the capacity, or a width of its own workflow, which no other job could give back."""
    too_much, width = queued(1, gpu=3), queued(2, "a", **{"gpu": 1, "w7/fan": 1})

    assert ids(admit([line("a", too_much, width, queued(3, gpu=1))], 9, {"gpu": 1}, {"gpu": 2})) == [3]


def test_admit_when_one_waits_for_what_is_set_aside_then_it_sets_nothing_aside() -> None:
    first, second = line("a", queued(1, gpu=2)), line("b", queued(2, gpu=1, net=2), running=1)
    third = line("c", queued(3, net=1), running=2)

    assert ids(admit([first, second, third], 9, {"gpu": 1, "net": 2})) == [3]
    assert second.reserved is None


@pytest.mark.parametrize("younger", [{"gpu": 2}, {"gpu": 1, "net": 1}], ids=["more of it", "something else too"])
def test_admit_when_a_younger_one_needs_more_than_is_free_then_the_older_starts(younger: dict[str, int]) -> None:
    first, second = line("a", queued(1, gpu=1)), line("b", queued(2, "b", **younger))

    assert ids(admit([first, second], 9, {"gpu": 1, "net": 0})) == [1]


@given(st.lists(demands, min_size=1, max_size=12), st.integers(1, 3), st.data())
def test_admit_when_others_stream_in_then_the_first_job_gets_its_resource(
    stream: list[dict[str, int]], queues: int, data: st.DataObject
) -> None:
    """Its wait is counted in starts: of those that ask for what it lacks, none starts before it."""
    capacity = dict.fromkeys("abc", 3)
    greedy = queued(0, "q0", a=3, b=3)
    holding = [queued(1, "q0", a=1), queued(2, b=2)]
    number = 10

    while True:
        waiting: dict[str, list[QueuedJob]] = {f"q{index}": [] for index in range(queues)}
        waiting["q0"].append(greedy)
        for asked in stream:
            number += 1
            name = f"q{number % queues}"
            waiting[name].append(queued(number, name, **asked))
        used = Counter[str]()
        for each in holding:
            used.update(each.resources)
        lines = [
            line(name, *ready, running=data.draw(st.integers(0, 3)), served=data.draw(st.integers(0, 3)))
            for name, ready in waiting.items()
        ]
        picks = admit(lines, 9, {name: capacity[name] - used[name] for name in capacity}, capacity)
        if greedy in picks:
            break
        assert not [pick for pick in picks if pick.resources.keys() & {"a", "b"}]
        assert holding, "nobody holds anything, and it does not start"
        holding.pop(data.draw(st.integers(0, len(holding) - 1)))


# --- lanes that are left out --------------------------------------------------------------------------------


def blocked_lanes(*jobs: QueuedJob) -> Iterator[tuple[tuple[int, int], list[QueuedJob]]]:
    return ((place(one), [one]) for one in jobs)


def test_admit_when_the_resource_of_a_group_is_taken_then_the_rest_is_not_examined() -> None:
    ready = [queued(number, gpu=1, net=number) for number in range(1, 50)]
    group = Group([(place(one), [one]) for one in ready], "gpu", 1)
    served = AdmissionQueue(Queue(name="a"), [AdmissionLine([group], front(ready))])

    assert ids(admit([served], 9, {"gpu": 1, "net": 100})) == [1]
    assert shortages(served) == [(ready[1], "gpu")]


def test_admit_when_the_first_is_blocked_then_no_other_blocked_is_examined() -> None:
    ready = [queued(number, gpu=2) for number in range(1, 50)]
    rest = blocked_lanes(*ready)
    served = AdmissionQueue(
        Queue(name="a"), [AdmissionLine(lanes([queued(60, gpu=1), queued(61)]), front(ready), rest)]
    )

    assert ids(admit([served], 9, {"gpu": 1})) == [61]
    assert served.reserved == ready[0]
    assert next(rest)[1] == [ready[1]]


def test_admit_when_a_blocked_job_can_never_start_then_the_next_has_a_reservation() -> None:
    ready = [queued(1, "a", **{"gpu": 2, "w7/fan": 1}), queued(2, gpu=2)]
    served = AdmissionQueue(
        Queue(name="a"), [AdmissionLine(lanes([queued(3, gpu=1)]), front(ready), blocked_lanes(*ready))]
    )

    assert ids(admit([served], 9, {"gpu": 1})) == []
    assert served.reserved == ready[1]
    assert shortages(served)[0] == (ready[0], "w7/fan")


def test_admit_when_the_front_can_never_start_then_its_queue_reserves_later() -> None:
    behind, rival = queued(2, gpu=2), queued(3, "b", gpu=1)
    lines = [
        AdmissionQueue(Queue(name="a"), [AdmissionLine([], place(queued(1)), blocked_lanes(behind))], running=1),
        line("b", rival),
    ]

    assert ids(admit(lines, 9, {"gpu": 1})) == [3]
    assert lines[0].reserved == behind
