"""Conditions about files that are met: somebody has looked at a path for which jobs wait.

Invariant: a look counts only for jobs that were there when it began, as what it saw is older than what was kept for any
later one.
"""

from __future__ import annotations

from collections.abc import Iterator

from stoker.core.job.conditions import ConditionKind, kind_of
from stoker.engine.conditions import GoOn, meet
from stoker.engine.inbox import Message
from stoker.engine.turn import Turn
from stoker.store.conditions import ConditionWaiter, WaitersWanted
from stoker.store.loading import Wanted


class FileSeen(Message):
    """A look at the path of `condition` saw `seen` (empty: nothing). It began when `last_job` was the newest job."""

    def __init__(self, condition: str, seen: str, last_job: int, after: int = 0) -> None:
        self._condition = condition
        self._seen = seen
        self._last_job = last_job
        self._waiters = WaitersWanted(condition, after, last_job)

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self._waiters] = None

    def apply_to(self, turn: Turn) -> Iterator[None]:
        portion = turn.loaded.waiters[self._waiters]
        for waiter in portion.waiters:
            self._tell(turn, waiter)
            yield
        if portion.more:
            turn.effects.append(GoOn(FileSeen(self._condition, self._seen, self._last_job, portion.last)))

    def _tell(self, turn: Turn, waiter: ConditionWaiter) -> None:
        if kind_of(self._condition) is ConditionKind.FILE_CHANGED:
            before = turn.batch.seen.get(waiter[:2], waiter.seen)
            if before is None:
                turn.batch.seen[waiter[:2]] = self._seen
            if before in (None, self._seen):
                return
        if self._seen:
            meet(turn, waiter)
