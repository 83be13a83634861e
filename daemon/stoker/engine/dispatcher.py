"""Starts what may start: asks admission and opens the attempts.

Owns the slots of this host and the switch that keeps everything waiting (before recovery, while draining, on a
full disk). Refuses to choose: `core.admission` does. Invariant: an attempt is opened only while its executor
has a launcher to name in it, and is committed before anything is started.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from stoker.core import events as ev
from stoker.core.admission import Line, admit, fits, paused
from stoker.core.model import Attempt, ExecutionMode, Job
from stoker.engine.book import Book
from stoker.engine.turn import Turn
from stoker.executors.base import Executor
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

SHOWN_HOLDERS = 20


class Dispatcher:
    """Opens attempts while there are free slots."""

    def __init__(self, book: Book, executors: Mapping[ExecutionMode, Executor], slots: int) -> None:
        self._book = book
        self._executors = executors
        self.slots = slots
        self.throttled = False
        self._closed_for = ["recovering"]

    @property
    def closed(self) -> str | None:
        """Why nothing is started at all, if so: the newest reason of those that hold."""
        return self._closed_for[-1] if self._closed_for else None

    def close(self, why: str) -> None:
        self._closed_for.append(why)

    def open(self, why: str) -> None:
        """That reason holds no longer; others may."""
        self._closed_for.remove(why)

    def want(self, wanted: Wanted) -> None:
        """Ask for the front of queues that ran low."""
        if self.closed is None and self._free() > 0:
            wanted.lines = [(name, self._book.lines[name].capacity) for name in self._book.hungry()]

    def _free(self) -> int:
        return self.slots - len(self._book.runs)

    def dispatch(self, turn: Turn) -> bool:
        """Open attempts for all that may start; True when another look would find more."""
        free = self._free()
        if self.closed is not None or free <= 0:
            return False
        lines = self._book.admission_lines()
        for job in admit(lines, free, self._book.free(), throttled=self.throttled, barred=self._book.flows.barred):
            self._open(turn, job)
        self._tell_short(turn, [job for line in lines for job in line.short if job.id not in self._book.short])
        return self._free() > 0 and self._look_further()

    def _open(self, turn: Turn, job: Job) -> None:
        launcher = self._executors[job.spec.execution_mode].launcher
        if launcher is None:
            return
        ordinal = job.attempts + 1
        attempt = Attempt(
            run_id=f"{job.id}.{ordinal}.{secrets.token_hex(8)}",
            job_id=job.id,
            ordinal=ordinal,
            launcher=launcher,
            created_at=turn.now.wall,
        )
        turn.loaded.jobs.setdefault(job.id, job)
        turn.step(job.id, ev.Dispatched(attempt=attempt))

    def _tell_short(self, turn: Turn, jobs: Sequence[Job]) -> None:
        """Once for each job that must wait for a resource; a width is no shortage, it is what was asked for."""
        free = self._book.free() if jobs else {}
        for job in jobs:
            lacks = {name: amount for name, amount in job.spec.resources.items() if free.get(name, 0) < amount}
            named = sorted(lacks.keys() - self._book.flows.widths.keys())
            if named:
                self._book.short.add(job.id)
                holders = {name: self._book.holders(name)[:SHOWN_HOLDERS] for name in named}
                about = {"job": job.id, "queue": job.spec.queue, "resources": named, "holders": holders}
                turn.answers.append(lambda about=about: log(LogEvent.RESOURCE_EXHAUSTED, **about))  # type: ignore[misc]

    def _look_further(self) -> bool:
        """Slots are free: read more of a queue whose window is empty, or full of jobs that lack a resource."""
        free, barred = self._book.free(), self._book.flows.barred
        for line in self._book.admission_lines():
            window = self._book.lines[line.queue.name]
            if not window.complete and self._may_start(line) and not any(fits(job, free, barred) for job in line.ready):
                window.widen()
        return any(not self._paused(name) for name in self._book.hungry())

    def _may_start(self, line: Line) -> bool:
        cap = line.queue.max_running
        return not self._paused(line.queue.name) and (cap is None or line.running < cap)

    def _paused(self, name: str) -> bool:
        return paused(self._book.queues[name], throttled=self.throttled)
