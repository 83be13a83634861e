"""The turns of the users of a queue: none starves behind the jobs of another, and none exceeds its quota."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.job.admission import AdmissionLine, AdmissionQueue, Group, QueuedJob, admit, place
from stoker.core.job.model import Queue

ANN, BEN = 1_001, 1_002
MANY = 100_000


def line(owner_uid: int, *jobs: QueuedJob, running: int = 0, served: int = 0) -> AdmissionLine:
    """The jobs of a user, of which all ask for the same."""
    group = Group([(place(jobs[0]), jobs)])
    return AdmissionLine([group], place(jobs[0]), (), owner_uid, running, served)


def jobs(first: int, number: int, **resources: int) -> list[QueuedJob]:
    return [QueuedJob(ident, 0, "default", resources) for ident in range(first, first + number)]


def started(
    *lines: AdmissionLine, slots: int, gpu: int = 0, users: dict[int, int] | None = None, queue: str = "default"
) -> list[int]:
    """The ids of the jobs that start, in order."""
    offered = [AdmissionQueue(Queue(name=queue), lines)]
    return [each.id for each in admit(offered, slots, {"gpu": gpu}, {"gpu": 4}, throttled=False, users=users or {})]


def test_turns_when_one_user_has_very_many_jobs_then_the_other_starts_as_many() -> None:
    ann, ben = line(ANN, *jobs(1, MANY)), line(BEN, *jobs(MANY + 1, 3))

    assert started(ann, ben, slots=8) == [1, MANY + 1, 2, MANY + 2, 3, MANY + 3, 4, 5]


def test_turns_when_a_user_runs_more_then_the_other_catches_up_first() -> None:
    ann, ben = line(ANN, *jobs(1, 5), running=2), line(BEN, *jobs(11, 5))

    assert started(ann, ben, slots=4) == [11, 12, 1, 13]


def test_turns_when_none_runs_then_who_started_less_goes_first() -> None:
    ann, ben = line(ANN, *jobs(1, 5), served=7), line(BEN, *jobs(11, 5), served=5)

    assert started(ann, ben, slots=3) == [11, 1, 12]


def test_turns_when_a_user_is_at_its_quota_then_the_others_go_on() -> None:
    ann, ben = line(ANN, *jobs(1, 9)), line(BEN, *jobs(11, 9), running=5)

    assert started(ann, ben, slots=6, users={ANN: 2}) == [1, 2, 11, 12, 13, 14]
    assert started(line(ANN, *jobs(1, 9)), slots=6, users={ANN: 0}) == []


def test_turns_when_two_queues_have_jobs_of_a_user_then_its_quota_is_for_both() -> None:
    offered = [AdmissionQueue(Queue(name=name), [line(ANN, *jobs(first, 9))]) for name, first in (("a", 1), ("b", 11))]

    picks = admit(offered, 9, {}, {}, throttled=False, users={ANN: 3})

    assert [each.id for each in picks] == [1, 11, 2]


def test_turns_when_the_next_user_lacks_a_resource_then_it_is_set_aside_for_it() -> None:
    queue = AdmissionQueue(
        Queue(name="default"), [line(ANN, *jobs(1, 9, gpu=1), running=2), line(BEN, *jobs(11, 1, gpu=2))]
    )

    picks = admit([queue], 9, {"gpu": 1}, {"gpu": 4}, throttled=False)

    assert picks == []
    assert queue.reserved is not None
    assert queue.reserved.id == 11


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 4), st.data())
def test_turns_when_jobs_end_in_any_order_then_no_user_is_more_than_a_start_behind(
    queued: list[int], slots: int, data: st.DataObject
) -> None:
    """Those who have jobs left differ by no more than one start, as long as all have the same number running."""
    left = {uid: jobs(1_000 * uid, number) for uid, number in enumerate(queued, start=1)}
    running, served = Counter[int](), Counter[int]()

    while any(left.values()):
        lines = [line(uid, *mine, running=running[uid], served=served[uid]) for uid, mine in left.items() if mine]
        for ident in started(*lines, slots=slots - running.total()):
            uid = ident // 1_000
            waiting = {each for each, mine in left.items() if mine}
            least = min((running[each], served[each]) for each in waiting)
            assert (running[uid], served[uid]) == least
            left[uid].pop(0)
            running[uid] += 1
            served[uid] += 1
        ending = data.draw(st.sampled_from(sorted(uid for uid, number in running.items() if number)))
        running[ending] -= 1
