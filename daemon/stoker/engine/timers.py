"""Alarms: the limits of running attempts, and the times at which rows of the database are due.

Owns one heap for each clock, the next due time of the rows in the database, and the messages about what is due.
Durations run on the steady clock; `deadline` and `run_at` run on the wall clock, which may jump.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Reason, State, StopReason
from stoker.core.job.notice import judge_silence
from stoker.engine.inbox import Message, PostMessage
from stoker.engine.turn import DueRead, Turn, Warn
from stoker.store.jobs import is_damaged
from stoker.store.loading import Wanted

# The kernel sends no signal when the wall clock is set forward, so wall limits are checked this often.
WALL_RECHECK_MS = 1_000
IDLE_KEPT = 64


class Limit(StrEnum):
    WARN = "warn"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    HEARTBEAT = "heartbeat"
    UNRESPONSIVE = "unresponsive"


class Alarm(Struct, frozen=True, order=True, gc=False):
    """A limit of one open attempt; `at` is on the clock of its heap, `granted_ms` how much it was postponed."""

    at: int
    job_id: int
    run_id: str
    limit: Limit
    granted_ms: int = 0

    def postponed(self, frozen_ms: int) -> Alarm | None:
        """The alarm of an attempt that was frozen so long, later by what was not added yet; None if nothing is left."""
        if frozen_ms <= self.granted_ms:
            return None
        return replace(self, at=self.at + frozen_ms - self.granted_ms, granted_ms=frozen_ms)


class Timers:
    """Heaps of alarms. Alarms of ended attempts are dropped once they are more than half of all."""

    def __init__(self) -> None:
        self._steady: list[Alarm] = []
        self._wall: list[Alarm] = []
        self._armed: Counter[str] = Counter()  # alarms in the heaps, by run
        self._idle = 0  # alarms in the heaps whose attempts have ended
        self.pending_steady: int | None = None
        self.pending_wall: int | None = None

    def arm(self, job: Job, attempt: Attempt, started: int) -> None:
        """Set the alarms of an attempt that began at `started` (steady)."""
        spec = job.spec
        if spec.timeout_ms is not None:
            self._push(self._steady, job, attempt, started + spec.timeout_ms, Limit.TIMEOUT)
            if spec.warn_signal is not None:
                warn_at = started + max(0, spec.timeout_ms - spec.warn_before_ms)
                self._push(self._steady, job, attempt, warn_at, Limit.WARN)
        if spec.heartbeat_ms is not None:
            self._push(self._steady, job, attempt, started + (judge_silence(spec, 0).check_in_ms or 0), Limit.HEARTBEAT)
        if spec.deadline is not None:
            self._push(self._wall, job, attempt, spec.deadline, Limit.DEADLINE)
            if spec.warn_signal is not None:
                self._push(self._wall, job, attempt, spec.deadline - spec.warn_before_ms, Limit.WARN)

    def __len__(self) -> int:
        return len(self._steady) + len(self._wall)

    def _push(self, heap: list[Alarm], job: Job, attempt: Attempt, at: int, limit: Limit) -> None:
        heapq.heappush(heap, Alarm(at, job.id, attempt.run_id, limit))
        self._armed[attempt.run_id] += 1

    def disarm(self, run_ids: Iterable[str]) -> None:
        """Drop the alarms of attempts that have ended; some would be due only in a month."""
        self._idle += sum(self._armed.pop(run_id, 0) for run_id in run_ids)
        if self._idle > max(IDLE_KEPT, len(self) // 2):
            self._steady = [alarm for alarm in self._steady if alarm.run_id in self._armed]
            self._wall = [alarm for alarm in self._wall if alarm.run_id in self._armed]
            heapq.heapify(self._steady)
            heapq.heapify(self._wall)
            self._idle = 0

    def set_later(self, alarm: Alarm, at: int) -> None:
        """Set the same alarm to a later time (steady)."""
        heapq.heappush(self._steady, replace(alarm, at=at))
        self._armed[alarm.run_id] += 1

    def pend(self, job: Job, now: Now) -> None:
        """A job waits or is queued: one of its limits may be due next."""
        run_at = job.spec.run_at
        self.pend_at(_sooner(job.expires_at, job.wake_at), job.spec.deadline)
        if run_at is not None and run_at > now.wall:
            self.pend_at(None, run_at)

    def pend_at(self, steady: int | None, wall: int | None) -> None:
        """The times at which a row of the database is due next."""
        self.pending_steady = _sooner(self.pending_steady, steady)
        self.pending_wall = _sooner(self.pending_wall, wall)

    def forget_pending(self) -> None:
        """Forget these times before the database is read; `pend_at` sets them again."""
        self.pending_steady = None
        self.pending_wall = None

    def pending_due(self, now: Now) -> bool:
        return (self.pending_steady is not None and self.pending_steady <= now.steady) or (
            self.pending_wall is not None and self.pending_wall <= now.wall
        )

    def take_due(self, now: Now) -> list[Alarm]:
        due = [*_pop(self._steady, now.steady), *_pop(self._wall, now.wall)]
        live = [alarm for alarm in due if alarm.run_id in self._armed]
        self._idle -= len(due) - len(live)
        for alarm in live:
            self._armed[alarm.run_id] -= 1
        return live

    def delay_ms(self, now: Now) -> int | None:
        """Milliseconds until something can be due; None if nothing is pending."""
        steady = [at for at in (self.pending_steady, self._steady[0].at if self._steady else None) if at is not None]
        wall = [at for at in (self.pending_wall, self._wall[0].at if self._wall else None) if at is not None]
        waits = [at - now.steady for at in steady] + [min(at - now.wall, WALL_RECHECK_MS) for at in wall]
        return max(0, min(waits)) if waits else None


def _sooner(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _pop(heap: list[Alarm], now: int) -> list[Alarm]:
    due = []
    while heap and heap[0].at <= now:
        due.append(heapq.heappop(heap))
    return due


# --- what is due ---


class Alarms(Message):
    """Limits of running attempts that are due."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self.alarms = alarms

    def apply_to(self, turn: Turn) -> None:
        for alarm in self.alarms:
            run = turn.memory.by_run(alarm.run_id)
            if run is None or run.job.state is not State.RUNNING:
                continue
            match alarm.limit:
                case Limit.TIMEOUT:
                    turn.step(alarm.job_id, ev.StopWanted(reason=StopReason.TIMEOUT))
                case Limit.UNRESPONSIVE:
                    turn.step(alarm.job_id, ev.StopWanted(reason=StopReason.UNRESPONSIVE))
                case Limit.DEADLINE:
                    turn.step(alarm.job_id, ev.DeadlinePassed())
                case Limit.WARN:
                    signum = run.job.spec.warn_signal
                    assert signum is not None, "only a job with a warning signal has a warning alarm"
                    turn.effects.append(Warn(alarm.run_id, signum))


class DueJobs(Message):
    """Limits of jobs that do not run; the database has the due ones."""

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.due = True

    def apply_to(self, turn: Turn) -> None:
        due = turn.loaded.due
        for kind, ids in ((ev.Woke, due.woken), (ev.TtlPassed, due.expired), (ev.DeadlinePassed, due.overdue)):
            for job_id in ids:
                job = turn.job(job_id)
                if job.state is State.WAITING or (job.state is State.QUEUED and kind is not ev.Woke):
                    turn.step(job_id, ev.Hold(reason=Reason.DAMAGED) if is_damaged(job) else kind())
        turn.effects.append(DueRead(due))
        if due.more:
            turn.effects.append(PostMessage(DueJobs()))


class Unresponsive(Message):
    """The heartbeat of a worker is late. That changes no state: only a change is recorded."""

    def __init__(self, run_id: str, silent_ms: int) -> None:
        self._run_id = run_id
        self._silent_ms = silent_ms

    def apply_to(self, turn: Turn) -> None:
        run = turn.memory.by_run(self._run_id)
        if run is not None and run.job.state is State.RUNNING:
            turn.note_job(run.job, "unresponsive", {"run_id": self._run_id, "silent_ms": self._silent_ms})
