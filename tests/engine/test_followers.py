"""Followers of the log of changes: served from the commit itself; the database is read only when they are behind.

Owns what a follower costs, as a count of queries, and that it misses and doubles nothing however slow it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from stoker.engine.subscriptions import PAGE, Subscriptions
from stoker.engine.turn import Transition
from stoker.store.batch import Batch, store
from stoker.store.database import open_reader
from stoker.store.history_id import History
from stoker.store.migrate import migrate
from stoker.store.reader import Reader
from tests.support.batches import change
from tests.support.jobs import job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from stoker.core.job.model import Change

FOLLOWERS = 40
COMMITS = 100


class CountingReader(Reader):
    reads = 0

    async def run(self, function: Any, *args: Any, **kw: Any) -> Any:
        self.reads += 1
        return await super().run(function, *args, **kw)


class Log:
    """A log of changes on disk, and its followers."""

    def __init__(self, connection: sqlite3.Connection, reader: CountingReader) -> None:
        self._connection = connection
        self._head = bytes(32)
        self.reader = reader
        self.subscriptions = Subscriptions(reader, History("0123456789abcdef"), seq=0)

    def commit(self, *changes: Change, step_of: int | None = None) -> None:
        """`step_of`: the changed jobs are steps of that workflow."""
        self._head = store(self._connection, Batch(changes=list(changes)), self._head).head
        transitions = [
            Transition(None, None, job(id=int(each.subject), workflow_id=step_of), None, each)
            for each in changes
            if each.kind == "job"
        ]
        self.subscriptions.announce(transitions, changes, changes[-1].seq)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    with contextlib.closing(sqlite3.connect(tmp_path / "stoker.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, tmp_path / "backups")
        reader = CountingReader(await open_reader(tmp_path / "stoker.db"))
        yield Log(connection, reader)
        await reader.close()


def seqs(pages: Sequence[Sequence[Any]]) -> list[int]:
    return [each["seq"] for page in pages for each in page]


@pytest.mark.parametrize(
    ("watched", "heard"),
    [({}, [1, 2, 3, 4]), ({"job_id": 7}, [1]), ({"workflow_id": 9}, [3, 4])],
    ids=["everything", "one job", "one workflow"],
)
async def test_followers_when_others_commit_then_each_gets_it_without_a_query(
    log: Log, watched: dict[str, int], heard: list[int]
) -> None:
    feeds = [log.subscriptions.watch(None, **watched).changes for _ in range(FOLLOWERS)]
    pages = [asyncio.ensure_future(anext(feed)) for feed in feeds]
    await asyncio.sleep(0)

    log.commit(change(1, subject="7"), change(2, kind="queue", subject="9"), change(3, kind="workflow", subject="9"))
    log.commit(change(4, subject="8"), step_of=9)
    for seq in range(5, COMMITS):
        log.commit(change(seq, subject="6"), step_of=5)

    expected = heard if watched else list(range(1, COMMITS))
    assert [seqs([page]) for page in await asyncio.gather(*pages)] == [expected] * FOLLOWERS
    assert log.reader.reads == 0
    for feed in feeds:
        await feed.aclose()


async def test_follower_when_it_is_slow_then_it_reads_the_rest_and_misses_nothing(log: Log) -> None:
    feed = log.subscriptions.watch(None, job_id=1).changes
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    log.commit(change(1))
    pages = [await first]
    numbers = itertools.count(2)
    for _ in range(3):  # falls behind, reads, and is served from commits again
        for size in (PAGE - 1, 1, 1, 2 * PAGE):
            log.commit(*(change(next(numbers)) for _ in range(size)))
        last = next(numbers)
        log.commit(change(last))
        while pages[-1][-1]["seq"] < last:
            pages.append(await anext(feed))
        log.commit(change(next(numbers)))
        pages.append(await anext(feed))

    assert seqs(pages) == list(range(1, next(numbers)))
    assert log.reader.reads > 0
    await feed.aclose()
