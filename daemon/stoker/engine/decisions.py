"""Decides the `if` of steps whose needs have ended.

Owns the way from a committed end to the decision: the ends are read after the commit, the expression is computed in a
thread of its own, and a message applies the result in a later turn. Invariants: an expression never holds up the event
loop; a result counts only if the step still waits for it and no later look at its needs has begun; what a crash leaves
undecided is decided at the next start.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.job import events as ev
from stoker.core.job.model import STOKER, Job
from stoker.core.job.run_if import Decision
from stoker.core.job.transition import awaits_decision
from stoker.core.workflow.expression import MAX_OUTPUT_BYTES, EndOfNeed, decide, named_needs
from stoker.engine.inbox import Inbox, Message
from stoker.engine.turn import Turn
from stoker.host.threads import start_threads
from stoker.store import attempts, decisions, jobs
from stoker.store.loading import Wanted
from stoker.store.reader import Reader

READ_AT_ONCE = 4  # needs: each may have handed on 64 KiB
PORTION = 50  # steps that are read, computed and decided together
AGAIN_S = 1.0


class IfResult(NamedTuple):
    """The result of the `if` of a step; `look`: the number of the look at its needs."""

    job_id: int
    look: int
    decision: Decision
    note: str


class Decisions:
    """Looks at the needs of steps, and posts what their `if` says."""

    def __init__(self, reader: Reader, inbox: Inbox, background: BackgroundTasks) -> None:
        self._reader = reader
        self._inbox = inbox
        self._background = background
        self._thread = start_threads(1, "decisions")
        self._numbers = count(1)
        self._newest: dict[int, int] = {}  # by job, the number of the newest look at its needs

    def begin(self, left: Sequence[int]) -> None:
        """Decide what an earlier daemon left undecided."""
        self._look_at(left)

    def after_commit(self, turn: Turn) -> None:
        self._look_at([effect.job_id for effect in turn.effects if isinstance(effect, ev.Decide)])

    def take(self, result: IfResult) -> bool:
        """Whether the result is that of the newest look at the needs of its step; each is taken once."""
        if self._newest.get(result.job_id) != result.look:
            return False
        del self._newest[result.job_id]
        return True

    def _look_at(self, job_ids: Iterable[int]) -> None:
        wanted = list(dict.fromkeys(job_ids))
        for at in range(0, len(wanted), PORTION):
            looks = {job_id: next(self._numbers) for job_id in wanted[at : at + PORTION]}
            self._newest |= looks
            first = next(iter(looks))
            self._background.retry(f"if of job {first}", partial(self._decide, looks), longest_pause_s=AGAIN_S)

    async def _decide(self, looks: dict[int, int]) -> None:
        asked = await self._reader.run(_read, list(looks))
        results = await asyncio.get_running_loop().run_in_executor(self._thread, _compute, asked, looks)
        self._inbox.post(IfResults(self, results))


class IfResults(Message):
    """Lets steps start, or skips or fails them, as their `if` says."""

    def __init__(self, decisions: Decisions, results: Sequence[IfResult]) -> None:
        self._decisions = decisions
        self._results = results

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(result.job_id for result in self._results)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for result in self._results:
            job = turn.find(result.job_id)
            if self._decisions.take(result) and job is not None and awaits_decision(job):
                _apply(turn, job, result)
            yield


def _apply(turn: Turn, job: Job, result: IfResult) -> None:
    if result.decision is Decision.SKIP:
        turn.keep_needs(job)  # a retry of one of them finds this step
    turn.step(job.id, ev.Decided(decision=result.decision, actor=replace(STOKER, note=result.note)))


def _compute(asked: Sequence[tuple[Job, Sequence[EndOfNeed]]], looks: dict[int, int]) -> list[IfResult]:
    return [
        IfResult(job.id, looks[job.id], *decide(job.spec.run_if, ends))
        for job, ends in asked
        if job.spec.run_if is not None
    ]


def _read(connection: sqlite3.Connection, job_ids: Sequence[int]) -> list[tuple[Job, list[EndOfNeed]]]:
    """In the reader's thread: the steps, and how the needs ended that their expressions name."""
    return [(job, _ends(connection, job)) for job in jobs.by_ids(connection, job_ids).values()]


def _ends(connection: sqlite3.Connection, job: Job) -> list[EndOfNeed]:
    """No more outputs than an expression may see: with more of them it has no value."""
    asked, workflow_id = job.spec.run_if, job.workflow_id
    if asked is None or workflow_id is None or not job.spec.needs:
        return []
    names = named_needs(asked, decisions.steps_of(connection, workflow_id, [need.job for need in job.spec.needs]))
    ids, ends, size = list(names), list[EndOfNeed](), 0
    for at in range(0, len(ids), READ_AT_ONCE):
        for end in attempts.needed(connection, ids[at : at + READ_AT_ONCE]):
            ends.append(EndOfNeed(names[end.job], end.state, end.reason, end.exit_code, end.output))
            size += len(end.output or "")
        if size > MAX_OUTPUT_BYTES:
            break
    return ends
