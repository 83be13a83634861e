"""The jobs of each user that have not ended, and whose turn it is within a queue.

Owns the counts by user. Invariant: they are sums over the same jobs as the counts by queue.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nsmallest

from stoker.core.job.admission import Place
from stoker.core.job.model import State
from stoker.core.quotas import NO_QUOTAS, Quotas
from stoker.engine.memory.ready_line import ReadyLine
from stoker.engine.memory.user_bytes import UserBytes


class LiveUsers:
    """`counts`: of jobs that do not run, by user and state; `running`: of open attempts, by user and in each queue."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, State]] = Counter()
        self.running: Counter[int] = Counter()
        self.running_in: Counter[tuple[str, int]] = Counter()
        self.served: Counter[tuple[str, int]] = Counter()
        self._turns: Counter[str] = Counter()
        self.quotas: Quotas = NO_QUOTAS
        self.bytes = UserBytes()
        self._paid_at: dict[int, int] = {}  # of the users who may submit only so many jobs in a second; not stored

    def opened(self, queue: str, owner_uid: int) -> None:
        """An attempt was opened. A user who was idle joins at the present turn of the queue, as queues do."""
        self.running[owner_uid] += 1
        self.running_in[queue, owner_uid] += 1
        self._turns[queue] = max(self._turns[queue], self.served[queue, owner_uid])
        self.served[queue, owner_uid] = self._turns[queue] + 1

    def ended(self, queue: str, owner_uid: int) -> None:
        self.running[owner_uid] -= 1
        self.running_in[queue, owner_uid] -= 1

    def use(self, quotas: Quotas) -> None:
        """Other limits are in force. All jobs are paid for: the times until then were counted by the old paces."""
        self.quotas = quotas
        self._paid_at.clear()

    def check_pace(self, owner_uid: int, now_ms: int) -> None:
        """Raises QuotaReached if a user submits too fast."""
        self.quotas.of(owner_uid).check_pace(owner_uid, self._paid_at.get(owner_uid, 0), now_ms)

    def submitted(self, owner_uid: int, jobs: int, now_ms: int) -> None:
        """So many new jobs of a user were accepted."""
        quota, before = self.quotas.of(owner_uid), self._paid_at.get(owner_uid, 0)
        if quota.max_submits_per_s is not None:
            self._paid_at[owner_uid] = quota.paid_at(before, now_ms, jobs)

    def check_bytes(self, owner_uid: int, *names: str) -> None:
        """Raises QuotaReached if a user has all bytes that it may have. What one commit adds may exceed a limit."""
        quota = self.quotas.of(owner_uid)
        for name in names:
            quota.check(name, owner_uid, self.bytes[name, owner_uid])

    def places(self, owner_uid: int) -> int:
        """How many more jobs may wait, be queued or held."""
        most = self.quotas.of(owner_uid).max_queued
        return sys.maxsize if most is None else max(0, most - self.pending(owner_uid))

    def submitted_now(self, owner_uid: int, now_ms: int) -> int:
        """How many jobs count against its pace."""
        return self.quotas.of(owner_uid).unpaid(self._paid_at.get(owner_uid, 0), now_ms)

    def uids(self) -> set[int]:
        """The users who have jobs that have not ended."""
        queued = {uid for (uid, _), number in self.counts.items() if number}
        return queued | {uid for uid, number in self.running.items() if number}

    def contenders(self, queue: str, lines: Mapping[int, ReadyLine], slots: int) -> Iterable[tuple[int, ReadyLine]]:
        """The lines from which so many starts may come, without most of those in which nothing can lack but slots.

        Each start goes to the smallest share of its queue and makes only that one larger. A user who is at its quota is
        left out; one who reaches it meanwhile was given a start. So of lines that lack nothing, none but the smallest
        `slots` are reached.
        """
        able: Iterable[tuple[int, ReadyLine]] = lines.items()
        if self.quotas.bound_running:
            able = [(uid, line) for uid, line in able if self._room(uid) != 0]
        if len(lines) <= slots:
            return able
        plain: list[tuple[int, int, Place, int]] = []
        reached: list[tuple[int, ReadyLine]] = []
        for uid, line in able:
            if not line.asks_for_nothing:
                reached.append((uid, line))
            elif line.front is not None:
                plain.append((self.running_in[queue, uid], self.served[queue, uid], line.front, uid))
        reached += ((uid, lines[uid]) for *_, uid in nsmallest(slots, plain))
        return reached

    def room(self, uids: Iterable[int]) -> dict[int, int]:
        """How many more jobs may run, of each of these users who has a limit."""
        if not self.quotas.bound_running:
            return {}
        return {uid: room for uid in uids if (room := self._room(uid)) is not None}

    def _room(self, uid: int) -> int | None:
        most = self.quotas.of(uid).max_running
        return None if most is None else max(0, most - self.running[uid])

    def pending(self, owner_uid: int) -> int:
        """Jobs of a user that have not ended and do not run."""
        return sum(self.counts[owner_uid, state] for state in (State.WAITING, State.QUEUED, State.HELD))
