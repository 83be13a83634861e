"""The runs that wait to be handed to the engine of a cluster, and the queues for which it takes none now.

Owns their order and the pause after each refusal. Slurm limits the jobs of a user or an account: that is a state of a
queue, as its options name the account, and no failure of a job. One run asks again when the pause is over, and each
further refusal doubles it. Pure: the caller has the clock.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from stoker.executors.cluster_run import ClusterRun

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 2_000, 60_000


class FullQueue(Struct):
    """A queue for which the engine takes no more jobs. `why`: its words. `again_at`: when one run asks again."""

    why: str
    pause_ms: int
    again_at: int
    runs: deque[ClusterRun]


class ClusterLine:
    """All times are steady, in ms."""

    def __init__(self) -> None:
        self._runs: deque[ClusterRun] = deque()
        self.full: dict[str, FullQueue] = {}

    def add(self, run: ClusterRun) -> None:
        self._runs.append(run)

    def due_in_ms(self, now: int) -> int | None:
        """The time until a run of a full queue asks again; None if no queue is full."""
        return min((max(0, queue.again_at - now) for queue in self.full.values()), default=None)

    def take(self, most: int, now: int) -> list[ClusterRun]:
        """The next runs to hand over, one for each full queue whose pause is over. Those that were stopped are gone."""
        taken = [run for queue in self.full.values() if queue.again_at <= now and (run := _first(queue.runs))]
        while len(taken) < most and (run := _first(self._runs)):
            full = None if run.start is None else self.full.get(run.start.job.spec.queue)
            (taken if full is None else full.runs).append(run)
        return taken

    def put_back(self, run: ClusterRun, queue: str, why: str, now: int) -> bool:
        """Keep a run that the engine did not take. Returns whether its queue was not full before."""
        before = self.full.get(queue)
        full = self.full.setdefault(queue, FullQueue(why, FIRST_PAUSE_MS, now + FIRST_PAUSE_MS, deque()))
        full.why = why
        if before is not None and before.again_at <= now:
            full.pause_ms = min(2 * full.pause_ms, LONGEST_PAUSE_MS)
            full.again_at = now + full.pause_ms
        full.runs.appendleft(run)
        return before is None

    def reopen(self, queue: str) -> bool:
        """The engine takes jobs of a queue. Returns whether the queue was full before."""
        full = self.full.pop(queue, None)
        if full is None:
            return False
        self._runs.extendleft(reversed(full.runs))
        return True

    def unasked(self, now: int) -> list[str]:
        """The full queues whose pause is over and that have no run to ask again with."""
        return [name for name, full in self.full.items() if full.again_at <= now and not _has_one(full.runs)]


def _has_one(runs: deque[ClusterRun]) -> bool:
    """Whether a run waits that was not stopped."""
    while runs and runs[0].start is None:
        runs.popleft()
    return bool(runs)


def _first(runs: deque[ClusterRun]) -> ClusterRun | None:
    return runs.popleft() if _has_one(runs) else None
