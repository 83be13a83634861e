"""Conditions about the host that are met: `idle` and `charging`, which count only while they hold.

Such a condition of a job is closed only in the turn in which nothing else blocks the job any more. So a job is looked
at when one begins to hold, when the job itself changes while one holds, and when its `run_at` has passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stoker.core.job import events as ev
from stoker.core.job.conditions import met_with_host
from stoker.core.job.model import Job, State
from stoker.core.job.transition import delay_ms
from stoker.engine.conditions import GoOn, meet
from stoker.engine.inbox import Message
from stoker.engine.turn import Turn
from stoker.store.conditions import ConditionWaiter, WaitersWanted
from stoker.store.loading import Wanted


class AskLater(ev.Effect, frozen=True):
    """Only its `run_at` or a delay blocks the job, until `at` (steady ms)."""

    job_id: int
    at: int


class HostChanged(Message):
    """The conditions about the host that hold from now on."""

    def __init__(self, holding: frozenset[str]) -> None:
        self._holding = holding

    def apply_to(self, turn: Turn) -> None:
        begun = self._holding - turn.memory.holding
        turn.memory.holding = self._holding
        turn.effects += [GoOn(HostHolds(condition)) for condition in sorted(begun) if turn.memory.awaited[condition]]


class HostHolds(Message):
    """A condition has begun to hold: the jobs that wait for it are looked at, in portions."""

    def __init__(self, condition: str, after: int = 0) -> None:
        self._condition = condition
        self._waiters = WaitersWanted(condition, after)

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self._waiters] = None

    def apply_to(self, turn: Turn) -> Iterator[None]:
        portion = turn.loaded.waiters[self._waiters]
        for waiter in portion.waiters:
            _look_at(turn, waiter.job_id)
            yield
        if portion.more and self._condition in turn.memory.holding:
            turn.effects.append(GoOn(HostHolds(self._condition, portion.last)))


class HostHoldsFor(Message):
    """Some jobs that wait for the host have changed, or the time has come for which they waited."""

    def __init__(self, job_ids: Sequence[int]) -> None:
        self._job_ids = job_ids

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._job_ids)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for job_id in self._job_ids:
            _look_at(turn, job_id)
            yield


def now_met(turn: Turn) -> list[int]:
    """The jobs that were changed in this turn, and whose open conditions are met with what the host is now."""
    return [job_id for job_id in sorted(turn.awaiting) if _met(turn, turn.find(job_id))]


def _met(turn: Turn, job: Job | None) -> list[int]:
    """The numbers of the conditions about the host with which all conditions of a waiting job are met."""
    if job is None or job.state is not State.WAITING or job.spec.wait_for is None or job.needs_open:
        return []
    return met_with_host(job.spec.wait_for, job.conditions_open, turn.memory.holding)


def _look_at(turn: Turn, job_id: int) -> None:
    job = turn.find(job_id)
    numbers = _met(turn, job)
    if job is None or not numbers:
        return
    delay = delay_ms(job, turn.now)
    if delay:
        turn.effects.append(AskLater(job_id, turn.now.steady + delay))
        return
    for number in numbers:
        meet(turn, ConditionWaiter(job_id, number))
