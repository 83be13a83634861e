"""Laws of several users who share the slots, over the memory of the engine: jobs come, start and end in any order.

No user runs more than its quota, no slot stays free while a user may start a job, and each start goes to a user with
the fewest jobs running, then the fewest starts, of those who may start one. Several jobs come between two choices, too.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.job.admission import admit
from stoker.core.job.model import Attempt, Job, Queue, State
from stoker.core.quotas import Quota, Quotas
from stoker.engine.memory import LiveState
from tests.support.jobs import NOW, attempt, exited, job

SLOTS = 4
QUOTAS = Quotas(usual=Quota(max_running=2), of_user={1: Quota(max_running=1), 2: Quota()})
USERS = range(6)


class Submit(NamedTuple):
    uid: int
    jobs: int


class End(NamedTuple):
    """The end of the first of the running jobs, so many of them."""

    jobs: int


submits = st.builds(Submit, st.sampled_from(USERS), st.integers(1, 6))
deeds = st.lists(submits | st.builds(End, st.integers(1, SLOTS)), max_size=60)


class Shared:
    """The memory, and what is queued and runs, counted apart from it."""

    def __init__(self) -> None:
        self.memory = LiveState({"default": Queue(name="default")}, {}, 0, 0)
        self.memory.users.quotas = QUOTAS
        self.queued: dict[int, deque[Job]] = {uid: deque() for uid in USERS}
        self.open: list[tuple[Job, Attempt]] = []
        self.served: Counter[int] = Counter()
        self.turn = 0
        self._ids = 0

    def running(self, uid: int) -> int:
        return sum(one.owner_uid == uid for one, _ in self.open)

    def may_start(self, uid: int) -> bool:
        most = QUOTAS.of(uid).max_running
        return bool(self.queued[uid]) and (most is None or self.running(uid) < most)

    def submit(self, uid: int) -> None:
        self._ids += 1
        one = job(State.QUEUED, id=self._ids, owner_uid=uid, order_key=self._ids)
        self.queued[uid].append(one)
        self.memory.enter(None, one, None)

    def end(self) -> None:
        before, run = self.open.pop(0)
        over = replace(run, outcome=exited(0), ended_at=NOW.wall)
        self.memory.enter(before, replace(before, state=State.SUCCEEDED), over)

    def choose(self) -> list[int]:
        """The users of the jobs that start now, in order."""
        users, slots = self.memory.users, SLOTS - len(self.open)
        offered = self.memory.admission_queues(["default"], slots, NOW.steady)
        room = users.room(line.owner_uid for queue in offered for line in queue.lines)
        picks = admit(offered, slots, {}, {}, throttled=False, users=room)
        owners = {one.id: uid for uid, line in self.queued.items() for one in line}
        return [owners[pick.id] for pick in picks]

    def start(self, uid: int) -> None:
        """The first job of a user. One who was idle joins at the present turn."""
        before = self.queued[uid].popleft()
        started = replace(before, state=State.RUNNING)
        run = attempt(started)
        self.memory.enter(before, started, run)
        self.open.append((started, run))
        self.turn = max(self.turn, self.served[uid])
        self.served[uid] = self.turn + 1


@given(deeds)
def test_users_when_jobs_come_and_end_then_starts_are_fair_and_in_bounds(steps: list[Submit | End]) -> None:
    shared = Shared()
    for deed in steps:
        if isinstance(deed, Submit):
            for _ in range(deed.jobs):
                shared.submit(deed.uid)
        else:
            for _ in range(min(deed.jobs, len(shared.open))):
                shared.end()
        served, chosen = shared.served.copy(), shared.choose()
        for uid in chosen:
            shares = {each: (shared.running(each), served[each]) for each in USERS if shared.may_start(each)}
            assert uid in shares
            assert shares[uid] == min(shares.values())
            shared.start(uid)
            served[uid] += 1
        assert len(shared.open) == SLOTS or not any(map(shared.may_start, USERS))
        assert all(shared.memory.users.running[uid] == shared.running(uid) for uid in USERS)
