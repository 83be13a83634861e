"""Those who are told what happened: waiters for the end of jobs, and readers of the log of changes.

Owns futures and bounded queues of changes. Refuses to hold a slow reader's backlog: one that falls behind
reads the rest from the database, by its cursor. Invariant: nothing is told before its commit.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from stoker.core.model import Change, Job, State
from stoker.core.requests import ChangeFeed, JobStanding
from stoker.engine.inbox import standing
from stoker.engine.turn import Transition
from stoker.store import changes
from stoker.store.reader import Reader

PAGE = 500


class Feeds:
    """Wakes those who wait."""

    def __init__(self, reader: Reader, seq: int) -> None:
        self._reader = reader
        self._waiters: defaultdict[int, set[asyncio.Future[JobStanding]]] = defaultdict(set)
        self._news = asyncio.Event()
        self.seq = seq

    def wait_for(self, job_id: int) -> asyncio.Future[JobStanding]:
        """A future of the job's next end, or hold."""
        future: asyncio.Future[JobStanding] = asyncio.get_running_loop().create_future()
        waiting = self._waiters[job_id]
        waiting.add(future)
        future.add_done_callback(lambda done: self._drop(job_id, done))
        return future

    def _drop(self, job_id: int, future: asyncio.Future[JobStanding]) -> None:
        waiting = self._waiters.get(job_id)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiters[job_id]

    def tell(self, transitions: Sequence[Transition], last_seq: int) -> None:
        """These steps are on disk."""
        if self._waiters:
            for transition in transitions:
                if ended(transition.job) and transition.job.id in self._waiters:
                    self._answer(transition.job)
        if last_seq > self.seq:
            self.seq = last_seq
            self._news.set()
            self._news = asyncio.Event()

    def _answer(self, job: Job) -> None:
        for future in list(self._waiters[job.id]):
            if not future.done():
                future.set_result(standing(job))

    async def news(self) -> None:
        """Return at the next commit that changes something."""
        await self._news.wait()

    def watch(self, after_seq: int | None, job_id: int | None) -> ChangeFeed:
        """Changes behind a cursor; None: from now on."""
        cursor = self.seq if after_seq is None else after_seq
        return ChangeFeed(cursor, self._follow(cursor, job_id))

    async def _follow(self, cursor: int, job_id: int | None) -> AsyncGenerator[list[dict[str, Any]], None]:
        while True:
            news = self._news
            page = await self._reader.run(changes.after, cursor, PAGE) if cursor < self.seq else []
            if page:
                cursor = page[-1].seq
                told = [tell(change) for change in page if job_id is None or _about(change, job_id)]
                if told:
                    yield told
            elif cursor >= self.seq:
                await news.wait()


def ended(job: Job) -> bool:
    """Whether nothing more will happen to the job by itself."""
    return job.final or job.state is State.HELD


def _about(change: Change, job_id: int) -> bool:
    return change.kind == "job" and change.subject == str(job_id)


def tell(change: Change) -> dict[str, Any]:
    """A change as clients read it."""
    return {
        "seq": change.seq,
        "at": change.at,
        "kind": change.kind,
        "subject": change.subject,
        "job": int(change.subject) if change.kind == "job" else None,
        "from": change.from_state,
        "to": change.to_state,
        "cause": change.cause,
        "actor_uid": change.actor_uid,
    }
