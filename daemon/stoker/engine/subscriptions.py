"""Subscriptions of clients: waiters for the end of jobs, and followers of the log of changes.

Owns the waiters of each job, and the changes that a follower has not taken yet: they come from the commit
itself, so a follower costs no query. It keeps no long backlog: a follower that falls behind reads the rest from the
database, by its cursor. Invariants: changes are announced after their commit; a follower of one job or workflow is
woken only by changes of that one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stoker.core.answers import JobStanding, job_standing
from stoker.core.errors import TooManyWaits
from stoker.core.job.model import FINAL, Change, State
from stoker.engine.turn import Transition
from stoker.store import changes
from stoker.store.changes import ChangePage
from stoker.store.history_id import History
from stoker.store.reader import Reader

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape

Subject = tuple[str, str]  # kind and subject of changes
EVERYTHING: Subject = ("", "")
PAGE = 500
MAX_AWAITED = 200_000  # jobs over all waits: some 50 MB


class ChangeFeed(NamedTuple):
    """Changes after the cursor `seq`, in order, in batches; it ends only when its reader closes it."""

    seq: int
    changes: AsyncGenerator[Sequence[ChangeShape], None]


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


class Follower:
    """The changes that a reader has not taken yet. One that is `behind` must read the database first."""

    __slots__ = ("behind", "news", "untaken")

    def __init__(self) -> None:
        self.untaken: list[ChangeShape] = []
        self.behind = True
        self.news = asyncio.Event()

    def add(self, page: Sequence[ChangeShape]) -> None:
        """Add committed changes."""
        self.behind = self.behind or len(self.untaken) + len(page) > PAGE
        self.untaken = [] if self.behind else [*self.untaken, *page]
        self.news.set()

    def catch_up(self) -> None:
        """Collect committed changes from now on, while the older ones are read from the database."""
        self.behind = False
        self.untaken = []

    def take(self) -> list[ChangeShape]:
        page, self.untaken = self.untaken, []
        return page


class Subscriptions:
    def __init__(self, reader: Reader, history: History, seq: int) -> None:
        self._reader = reader
        self.history = history
        self._waiters: defaultdict[int, set[Waiter]] = defaultdict(set)
        self._awaited = 0
        self._followers: defaultdict[Subject, set[Follower]] = defaultdict(set)
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
        self._awaited -= len(waiter.left) + len(waiter.ends)
        for job_id in (*waiter.left, *waiter.ends):
            _leave(self._waiters, job_id, waiter)

    def announce(self, transitions: Sequence[Transition], committed: Sequence[Change], last_seq: int) -> None:
        """Wake those that wait for these committed steps and changes."""
        for transition in transitions if self._waiters else ():
            job = transition.job
            if job.id in self._waiters and ended(job.state):
                end = job_standing(job)
                for waiter in self._waiters[job.id]:
                    waiter.add_end(end)
        if self._followers:
            self._announce_changes(transitions, committed)
        if last_seq > self.seq:
            self.seq = last_seq
            self._news.set()
            self._news = asyncio.Event()

    def _announce_changes(self, transitions: Sequence[Transition], committed: Sequence[Change]) -> None:
        workflows = {transition.change.seq: transition.job.workflow_id for transition in transitions}
        announced: defaultdict[Subject, list[Change]] = defaultdict(list)
        for change in committed:
            of_workflow = ("workflow", str(workflows.get(change.seq)))
            for subject in {EVERYTHING, (change.kind, change.subject), of_workflow}:
                if subject in self._followers:
                    announced[subject].append(change)
        for subject, changed in announced.items():
            # After more than a page every follower must read the database.
            page = [change_fields(change) for change in changed[: PAGE + 1]]
            for follower in self._followers[subject]:
                follower.add(page)

    async def news(self) -> None:
        """Return at the next commit that changes something."""
        await self._news.wait()

    def watch(self, after_seq: int | None, job_id: int | None = None, workflow_id: int | None = None) -> ChangeFeed:
        """Changes behind a cursor (None: from now on): all, those of a job, or those of a workflow and its steps."""
        cursor = self.seq if after_seq is None else after_seq
        if job_id is not None:
            return ChangeFeed(cursor, self._follow(cursor, ("job", str(job_id)), changes.after_of_job, job_id))
        if workflow_id is not None:
            subject = ("workflow", str(workflow_id))
            return ChangeFeed(cursor, self._follow(cursor, subject, changes.after_of_workflow, workflow_id))
        return ChangeFeed(cursor, self._follow(cursor, EVERYTHING, changes.after))

    async def _follow(
        self, cursor: int, subject: Subject, query: Callable[..., ChangePage], *of: int
    ) -> AsyncGenerator[Sequence[ChangeShape], None]:
        follower = Follower()
        self._followers[subject].add(follower)
        try:
            while True:
                follower.news.clear()
                if follower.behind:
                    follower.catch_up()
                    up_to = self.seq
                    while cursor < up_to:
                        page, cursor = await self._reader.run(query, *of, cursor, up_to, PAGE)
                        if page:
                            yield [change_fields(change) for change in page]
                elif untaken := follower.take():
                    cursor = untaken[-1]["seq"]
                    yield untaken
                else:
                    await follower.news.wait()
        finally:
            _leave(self._followers, subject, follower)


def _leave(places: dict[Any, set[Any]], ident: object, who: object) -> None:
    places[ident].discard(who)
    if not places[ident]:
        del places[ident]


def ended(state: State) -> bool:
    """Whether a job in this state stays in it unless a person acts."""
    return state in FINAL or state is State.HELD


def change_fields(change: Change) -> ChangeShape:
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
        "note": _note(change),
    }


def _note(change: Change) -> str | None:
    payload = change.payload
    values: Any = msgspec.json.decode(payload) if isinstance(payload, msgspec.Raw) else payload
    return values.get("note") if isinstance(values, dict) else None
