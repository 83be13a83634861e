"""Subscriptions of clients: waiters for the end of jobs, and readers of the log of changes.

Owns the waiters of each job and the cursors of readers. It keeps no backlog: a reader that falls behind reads the rest
from the database, by its cursor. Invariants: changes are announced after their commit; a reader of one job or workflow
is woken only by changes of that one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from stoker.core.errors import TooManyWaits
from stoker.core.job.model import FINAL, Change, State
from stoker.core.requests import ChangeFeed, JobStanding
from stoker.engine.messages import standing
from stoker.engine.turn import Transition
from stoker.store import changes
from stoker.store.reader import Reader

PAGE = 500
MAX_AWAITED = 200_000  # jobs over all waits: some 50 MB


class Waiter:
    """A client that waits for all of some jobs to end, or for the first of them. `done` is set then."""

    __slots__ = ("_any_one", "done", "ends", "left")

    def __init__(self, job_ids: Sequence[int], *, any_one: bool) -> None:
        self.left = set(job_ids)
        self.ends: dict[int, JobStanding] = {}
        self.done = asyncio.Event()
        self._any_one = any_one

    def add_end(self, end: JobStanding) -> None:
        """Note the end of a job, or that it is held; a later end of the same job changes nothing."""
        if end.id in self.left:
            self.left.remove(end.id)
            self.ends[end.id] = end
            if self._any_one or not self.left:
                self.done.set()


class Subscriptions:
    """Wakes waiters and readers after a commit."""

    def __init__(self, reader: Reader, seq: int) -> None:
        self._reader = reader
        self._waiters: defaultdict[int, set[Waiter]] = defaultdict(set)
        self._awaited = 0
        self._followers: defaultdict[int, set[asyncio.Event]] = defaultdict(set)
        self._workflow_followers: defaultdict[int, set[asyncio.Event]] = defaultdict(set)
        self._news = asyncio.Event()
        self.seq = seq

    def await_ends(self, job_ids: Sequence[int], *, any_one: bool) -> Waiter:
        """Begin to wait for the next ends of jobs; `forget` ends it. Raises TooManyWaits."""
        waiter = Waiter(job_ids, any_one=any_one)
        if self._awaited + len(waiter.left) > MAX_AWAITED:
            raise TooManyWaits(f"{self._awaited} jobs are awaited, the limit is {MAX_AWAITED}", hint="try again later")
        self._awaited += len(waiter.left)
        for job_id in waiter.left:
            self._waiters[job_id].add(waiter)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        self._awaited -= len(waiter.left) + len(waiter.ends)
        for job_id in (*waiter.left, *waiter.ends):
            _leave(self._waiters, job_id, waiter)

    def announce(self, transitions: Sequence[Transition], touched_workflows: Iterable[int], last_seq: int) -> None:
        """Wake those that wait for these committed steps and workflows."""
        if self._waiters or self._followers:
            for transition in transitions:
                self._announce_step(transition)
        for workflow_id in touched_workflows if self._workflow_followers else ():
            for follower in self._workflow_followers.get(workflow_id, ()):
                follower.set()
        if last_seq > self.seq:
            self.seq = last_seq
            self._news.set()
            self._news = asyncio.Event()

    def _announce_step(self, transition: Transition) -> None:
        job = transition.job
        if job.id in self._waiters and ended(job.state):
            for waiter in self._waiters[job.id]:
                waiter.add_end(standing(job))
        for follower in self._followers.get(job.id, ()):
            follower.set()

    async def news(self) -> None:
        """Return at the next commit that changes something."""
        await self._news.wait()

    def watch(self, after_seq: int | None, job_id: int | None = None, workflow_id: int | None = None) -> ChangeFeed:
        """Changes behind a cursor (None: from now on): all, those of a job, or those of a workflow and its steps."""
        cursor = self.seq if after_seq is None else after_seq
        if job_id is not None:
            return ChangeFeed(cursor, self._follow_job(cursor, job_id))
        if workflow_id is not None:
            return ChangeFeed(cursor, self._follow_workflow(cursor, workflow_id))
        return ChangeFeed(cursor, self._follow(cursor))

    async def _follow(self, cursor: int) -> AsyncGenerator[list[dict[str, Any]], None]:
        while True:
            news = self._news
            page = await self._reader.run(changes.after, cursor, PAGE) if cursor < self.seq else []
            if page:
                cursor = page[-1].seq
                yield [change_fields(change) for change in page]
            elif cursor >= self.seq:
                await news.wait()

    async def _follow_job(self, cursor: int, job_id: int) -> AsyncGenerator[list[dict[str, Any]], None]:
        news = asyncio.Event()
        self._followers[job_id].add(news)
        try:
            while True:
                news.clear()
                while page := await self._reader.run(changes.after, cursor, PAGE, job_id):
                    cursor = page[-1].seq
                    yield [change_fields(change) for change in page]
                await news.wait()
        finally:
            _leave(self._followers, job_id, news)

    async def _follow_workflow(self, cursor: int, workflow_id: int) -> AsyncGenerator[list[dict[str, Any]], None]:
        news = asyncio.Event()
        self._workflow_followers[workflow_id].add(news)
        try:
            while True:
                news.clear()
                while cursor < self.seq:
                    page, cursor = await self._reader.run(
                        changes.after_of_workflow, workflow_id, cursor, self.seq, PAGE
                    )
                    if page:
                        yield [change_fields(change) for change in page]
                await news.wait()
        finally:
            _leave(self._workflow_followers, workflow_id, news)


def _leave(places: dict[int, set[Any]], ident: int, who: object) -> None:
    places[ident].discard(who)
    if not places[ident]:
        del places[ident]


def ended(state: State) -> bool:
    """Whether a job in this state stays in it unless a person acts."""
    return state in FINAL or state is State.HELD


def change_fields(change: Change) -> dict[str, Any]:
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
